"""Stand-ins for FLUX.1 dev and FLUX.1 schnell."""

from __future__ import annotations

from pathlib import Path

from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextModel, T5Config, T5EncoderModel

from tests.standins.parts import (
    TEXT_WIDTH,
    clip_text,
    clip_tokenizer,
    picture_vae,
    save,
    seeded,
    t5_sizes,
    t5_tokenizer,
)


def build_flux(
    folder: Path, seed: int = 0, *, guidance_embeds: bool = True, head_dim: int = 16
) -> None:
    """FLUX.1 dev, which is told the guidance scale, or without `guidance_embeds` schnell."""
    clip, t5 = clip_tokenizer(), t5_tokenizer()
    # dev shifts its noise schedule by the picture's size, schnell does not.
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=guidance_embeds, shift=3.0 if guidance_embeds else 1.0
    )
    with seeded(seed):
        pipeline = FluxPipeline(
            scheduler=scheduler,
            vae=picture_vae(16, scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=clip_text(CLIPTextModel, clip),
            tokenizer=clip,
            text_encoder_2=T5EncoderModel(T5Config(**t5_sizes(t5))).eval(),
            tokenizer_2=t5,
            transformer=FluxTransformer2DModel(
                in_channels=64,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=head_dim,
                num_attention_heads=2,
                joint_attention_dim=TEXT_WIDTH,
                pooled_projection_dim=TEXT_WIDTH,
                guidance_embeds=guidance_embeds,
                axes_dims_rope=(head_dim // 4, head_dim // 4, head_dim // 2),
            ),
        )
    save(pipeline, folder)
