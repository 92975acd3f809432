"""Stand-in for Marigold, which measures the depth of a picture."""

from __future__ import annotations

from pathlib import Path

from diffusers import LCMScheduler, MarigoldDepthPipeline
from transformers import CLIPTextModel

from tests.standins.parts import NOISE, clip_text, clip_tokenizer, picture_vae, save, seeded
from tests.standins.stable_diffusion import small_unet


def build_marigold(folder: Path, seed: int = 0) -> None:
    """Marigold Depth LCM 1.0."""
    tokenizer = clip_tokenizer()
    with seeded(seed):
        pipeline = MarigoldDepthPipeline(
            # It sees the picture's latents beside those of the depth.
            unet=small_unet(in_channels=8),
            vae=picture_vae(4, scaling_factor=0.18215),
            scheduler=LCMScheduler(**NOISE, prediction_type="v_prediction", clip_sample=False),
            text_encoder=clip_text(CLIPTextModel, tokenizer),
            tokenizer=tokenizer,
            prediction_type="depth",
            scale_invariant=True,
            shift_invariant=True,
            default_denoising_steps=1,
            default_processing_resolution=768,
        )
    save(pipeline, folder)
