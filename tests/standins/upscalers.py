"""Stand-ins for Stable Diffusion's two upscalers."""

from __future__ import annotations

from pathlib import Path

from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionLatentUpscalePipeline,
    StableDiffusionUpscalePipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel

from tests.standins.parts import TEXT_WIDTH, clip_text, clip_tokenizer, picture_vae, save, seeded
from tests.standins.stable_diffusion import small_unet

NOISE = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "scaled_linear"}


def build_upscaler(folder: Path, seed: int = 0) -> None:
    """Of x4, whose autoencoder makes latents four times smaller; its denoiser sees the picture."""
    tokenizer = clip_tokenizer()
    with seeded(seed):
        pipeline = StableDiffusionUpscalePipeline(
            vae=AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 3,
                up_block_types=("UpDecoderBlock2D",) * 3,
                block_out_channels=(2, 4, 4),
                latent_channels=4,
                norm_num_groups=2,
                scaling_factor=0.08333,
            ).eval(),
            text_encoder=clip_text(CLIPTextModel, tokenizer),
            tokenizer=tokenizer,
            unet=small_unet(in_channels=7, num_class_embeds=1000),
            low_res_scheduler=DDPMScheduler(**NOISE),
            scheduler=DDIMScheduler(prediction_type="v_prediction", clip_sample=False),
        )
    save(pipeline, folder)


def build_latent_upscaler(folder: Path, seed: int = 0) -> None:
    """Of x2, which draws between the latents of the picture."""
    tokenizer = clip_tokenizer()
    with seeded(seed):
        pipeline = StableDiffusionLatentUpscalePipeline(
            vae=picture_vae(4, scaling_factor=0.18215),
            text_encoder=clip_text(CLIPTextModel, tokenizer),
            tokenizer=tokenizer,
            unet=UNet2DConditionModel(
                in_channels=8,
                out_channels=5,
                act_fn="gelu",
                attention_head_dim=8,
                norm_num_groups=None,
                block_out_channels=(32, 32, 64, 64),
                time_cond_proj_dim=2 * 64 + TEXT_WIDTH,
                conv_in_kernel=1,
                conv_out_kernel=1,
                cross_attention_dim=TEXT_WIDTH,
                down_block_types=("KDownBlock2D", *("KCrossAttnDownBlock2D",) * 3),
                up_block_types=(*("KCrossAttnUpBlock2D",) * 3, "KUpBlock2D"),
                mid_block_type=None,
                resnet_time_scale_shift="scale_shift",
                time_embedding_type="fourier",
                timestep_post_act="gelu",
            ),
            scheduler=EulerDiscreteScheduler(prediction_type="sample"),
        )
    save(pipeline, folder)
