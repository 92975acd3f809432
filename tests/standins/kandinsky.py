"""Stand-ins for Kandinsky 2.2, its prior, its decoder and the one that is shown depth, and 3."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    DDPMScheduler,
    Kandinsky3Pipeline,
    Kandinsky3UNet,
    KandinskyV22ControlnetPipeline,
    KandinskyV22Pipeline,
    KandinskyV22PriorPipeline,
    PriorTransformer,
    UnCLIPScheduler,
    UNet2DConditionModel,
    VQModel,
)
from torch import nn
from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

from models.shapes.tokenizer import MAX_TOKENS
from tests.standins.parts import (
    TEXT_WIDTH,
    clip_eye,
    clip_processor,
    clip_text,
    clip_tokenizer,
    save,
    seeded,
    t5_encoder,
    t5_tokenizer,
)


def build_kandinsky_prior(folder: Path, seed: int = 0) -> None:
    """The prior: words → what a picture of them would be encoded to."""
    tokenizer = clip_tokenizer()
    with seeded(seed):
        prior = PriorTransformer(
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=1,
            embedding_dim=TEXT_WIDTH,
            num_embeddings=MAX_TOKENS,
        )
        # Untrained, these make everything zero.
        prior.clip_std = nn.Parameter(torch.ones_like(prior.clip_std))
        pipeline = KandinskyV22PriorPipeline(
            prior=prior,
            image_encoder=clip_eye(CLIPVisionModelWithProjection),
            text_encoder=clip_text(CLIPTextModelWithProjection, tokenizer),
            tokenizer=tokenizer,
            scheduler=UnCLIPScheduler(
                variance_type="fixed_small_log",
                prediction_type="sample",
                clip_sample_range=5.0,
            ),
            image_processor=clip_processor(),
        )
    save(pipeline, folder)


def build_kandinsky_decoder(folder: Path, seed: int = 0, *, controlnet: bool = False) -> None:
    """The decoder, or the one that is shown the depth of a scene."""
    kind = KandinskyV22ControlnetPipeline if controlnet else KandinskyV22Pipeline
    with seeded(seed):
        pipeline = kind(
            unet=UNet2DConditionModel(
                sample_size=8,
                in_channels=8 if controlnet else 4,
                # Mean and variance.
                out_channels=8,
                down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
                up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
                mid_block_type="UNetMidBlock2DSimpleCrossAttn",
                block_out_channels=(32, 32),
                layers_per_block=1,
                encoder_hid_dim=TEXT_WIDTH,
                encoder_hid_dim_type="image_proj",
                addition_embed_type="image_hint" if controlnet else "image",
                cross_attention_dim=TEXT_WIDTH,
                attention_head_dim=16,
                resnet_time_scale_shift="scale_shift",
            ),
            scheduler=DDPMScheduler(
                beta_schedule="linear", beta_start=0.00085, beta_end=0.012, clip_sample=False
            ),
            movq=_movq(),
        )
    save(pipeline, folder)


def build_kandinsky3(folder: Path, seed: int = 0) -> None:
    """Kandinsky 3, which reads its words with a T5."""
    tokenizer = t5_tokenizer()
    with seeded(seed):
        pipeline = Kandinsky3Pipeline(
            tokenizer=tokenizer,
            text_encoder=t5_encoder(tokenizer),
            unet=Kandinsky3UNet(
                time_embedding_dim=16,
                groups=4,
                attention_head_dim=8,
                layers_per_block=2,
                block_out_channels=(16, 32, 64, 128),
                cross_attention_dim=16,
                encoder_hid_dim=TEXT_WIDTH,
            ),
            scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False),
            movq=_movq(),
        )
    save(pipeline, folder)


def _movq() -> VQModel:
    return VQModel(
        # The library norms over 32 groups whatever the size.
        block_out_channels=(32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 3 + ("AttnDownEncoderBlock2D",),
        up_block_types=("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        layers_per_block=1,
        norm_type="spatial",
        num_vq_embeddings=16,
        vq_embed_dim=4,
    ).eval()
