"""Stand-ins for Stable Diffusion 1.5, 2.1, XL, XL Turbo and 3.5, and for their ControlNets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
)

from tests.standins.parts import (
    NOISE,
    TEXT_WIDTH,
    clip_processor,
    clip_text,
    clip_tokenizer,
    picture_vae,
    quiet,
    save,
    seeded,
    t5_encoder,
    t5_tokenizer,
)

TIME_IDS, TIME_WIDTH = 6, 8
"""Numbers an SDXL denoiser is told about sizes and crops, and the channels of each."""


def build_sd(folder: Path, seed: int = 0) -> None:
    """Stable Diffusion 1.5, with the safety checker its repository has."""
    tokenizer = clip_tokenizer()
    with seeded(seed):
        pipeline = StableDiffusionPipeline(
            vae=picture_vae(4, scaling_factor=0.18215),
            text_encoder=clip_text(CLIPTextModel, tokenizer),
            tokenizer=tokenizer,
            unet=small_unet(),
            scheduler=PNDMScheduler(**NOISE, skip_prk_steps=True, steps_offset=1),
            safety_checker=_safety_checker(),
            feature_extractor=clip_processor(),
        )
    save(pipeline, folder)


def build_sd21(folder: Path, seed: int = 0) -> None:
    """Stable Diffusion 2.1, without a safety checker."""
    tokenizer = clip_tokenizer()
    with seeded(seed):
        pipeline = StableDiffusionPipeline(
            vae=picture_vae(4, scaling_factor=0.18215),
            text_encoder=clip_text(CLIPTextModel, tokenizer),
            tokenizer=tokenizer,
            unet=small_unet(use_linear_projection=True),
            scheduler=DDIMScheduler(
                **NOISE,
                prediction_type="v_prediction",
                clip_sample=False,
                set_alpha_to_one=False,
                steps_offset=1,
            ),
            safety_checker=None,
            feature_extractor=clip_processor(),
            requires_safety_checker=False,
        )
    save(pipeline, folder)


def build_controlnet(folder: Path, seed: int = 0, *, linear: bool = False) -> None:
    """A ControlNet for Stable Diffusion 1.5; with `linear` projections for 2.1."""
    with seeded(seed):
        controlnet = controlnet_of(small_unet(use_linear_projection=linear))
    controlnet.save_pretrained(folder, safe_serialization=True)


def controlnet_of(unet: UNet2DConditionModel) -> ControlNetModel:
    """Returns a ControlNet for this denoiser that has an effect."""
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 4, 8, 8))
    # Untrained, its own convolutions make zeros, and it would control nothing.
    for block in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
        nn.init.normal_(block.weight, std=0.2)
    nn.init.normal_(controlnet.controlnet_cond_embedding.conv_out.weight, std=0.2)
    return controlnet


def small_unet(**changes: Any) -> UNet2DConditionModel:
    """The denoiser of Stable Diffusion 1 and 2, with these `changes` of its settings."""
    settings: dict[str, Any] = {
        "sample_size": 8,
        "layers_per_block": 1,
        "block_out_channels": (16, 32),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**settings | changes)


def small_sdxl_unet(*, time_ids: int = TIME_IDS, **changes: Any) -> UNet2DConditionModel:
    """The denoiser of Stable Diffusion XL, which also receives `time_ids` numbers."""
    return small_unet(
        attention_head_dim=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_WIDTH,
        projection_class_embeddings_input_dim=time_ids * TIME_WIDTH + TEXT_WIDTH,
        **changes,
    )


def build_sdxl(
    folder: Path, seed: int = 0, *, turbo: bool = False, inpainting: bool = False
) -> None:
    """Stable Diffusion XL; XL Turbo, which differs in its scheduler; or for inpainting, whose
    denoiser also receives the mask and the masked picture."""
    kind = StableDiffusionXLInpaintPipeline if inpainting else StableDiffusionXLPipeline
    tokenizer = clip_tokenizer()
    if turbo:
        with quiet():
            scheduler = EulerAncestralDiscreteScheduler(**NOISE, timestep_spacing="trailing")
    else:
        scheduler = EulerDiscreteScheduler(**NOISE, timestep_spacing="leading", steps_offset=1)
    with seeded(seed):
        pipeline = kind(
            vae=picture_vae(4, scaling_factor=0.13025),
            text_encoder=clip_text(CLIPTextModel, tokenizer),
            text_encoder_2=clip_text(CLIPTextModelWithProjection, tokenizer),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=small_sdxl_unet(
                cross_attention_dim=2 * TEXT_WIDTH,
                transformer_layers_per_block=(1, 2),
                in_channels=9 if inpainting else 4,
            ),
            scheduler=scheduler,
        )
    save(pipeline, folder)


def build_sdxl_refiner(folder: Path, seed: int = 0) -> None:
    """The refiner of Stable Diffusion XL, which has the larger of the two text encoders alone."""
    tokenizer = clip_tokenizer()
    with seeded(seed):
        pipeline = StableDiffusionXLImg2ImgPipeline(
            vae=picture_vae(4, scaling_factor=0.13025),
            text_encoder=None,
            text_encoder_2=clip_text(CLIPTextModelWithProjection, tokenizer),
            tokenizer=None,
            tokenizer_2=tokenizer,
            # It receives the wanted aesthetic score instead of a size: one number fewer.
            unet=small_sdxl_unet(time_ids=TIME_IDS - 1),
            scheduler=EulerDiscreteScheduler(**NOISE, timestep_spacing="leading", steps_offset=1),
            requires_aesthetics_score=True,
        )
    save(pipeline, folder)


def build_sd3(folder: Path, seed: int = 0) -> None:
    """Stable Diffusion 3.5 Medium, with its three text encoders."""
    clip, t5 = clip_tokenizer(), t5_tokenizer()
    with seeded(seed):
        pipeline = StableDiffusion3Pipeline(
            transformer=SD3Transformer2DModel(
                sample_size=32,
                patch_size=2,
                in_channels=16,
                out_channels=16,
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=2 * TEXT_WIDTH,
                caption_projection_dim=16,
                pooled_projection_dim=2 * TEXT_WIDTH,
                pos_embed_max_size=24,
                dual_attention_layers=(0,),
                qk_norm="rms_norm",
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=picture_vae(16, scaling_factor=1.5305, shift_factor=0.0609),
            text_encoder=clip_text(CLIPTextModelWithProjection, clip),
            text_encoder_2=clip_text(CLIPTextModelWithProjection, clip),
            text_encoder_3=t5_encoder(t5, 2 * TEXT_WIDTH),
            tokenizer=clip,
            tokenizer_2=clip,
            tokenizer_3=t5,
        )
    save(pipeline, folder)


def _safety_checker() -> StableDiffusionSafetyChecker:
    tower = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    return StableDiffusionSafetyChecker(
        CLIPConfig(
            text_config={**tower, "vocab_size": 16, "bos_token_id": 0, "eos_token_id": 1},
            vision_config={**tower, "image_size": 16, "patch_size": 8},
            projection_dim=16,
        )
    )
