"""Stand-ins for models of films: CogVideoX, Allegro, Mochi, HunyuanVideo, LTX-Video, SVD."""

from __future__ import annotations

from pathlib import Path

from diffusers import (
    AllegroPipeline,
    AllegroTransformer3DModel,
    AutoencoderKLAllegro,
    AutoencoderKLCogVideoX,
    AutoencoderKLLTXVideo,
    AutoencoderKLMochi,
    AutoencoderKLTemporalDecoder,
    CogVideoXDPMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    MochiPipeline,
    MochiTransformer3DModel,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from transformers import CLIPVisionModelWithProjection

from tests.standins.parts import (
    NOISE,
    TEXT_WIDTH,
    clip_eye,
    clip_processor,
    quiet,
    save,
    seeded,
    t5_encoder,
    t5_tokenizer,
)

FILM_PX = 64
"""Side of the films that a stand-in makes which, like its model, can make one size only."""

ALLEGRO_PX, ALLEGRO_FRAMES = 128, 24
"""The smallest film that the stand-in of Allegro makes."""


def build_cogvideox(folder: Path, seed: int = 0, *, from_image: bool = False) -> None:
    """CogVideoX 5B, from text or from a picture; the latter makes films of one size."""
    tokenizer = t5_tokenizer()
    with seeded(seed):
        kind = CogVideoXImageToVideoPipeline if from_image else CogVideoXPipeline
        pipeline = kind(
            tokenizer=tokenizer,
            text_encoder=t5_encoder(tokenizer),
            vae=AutoencoderKLCogVideoX(
                block_out_channels=(4, 4, 4, 8),
                latent_channels=16,
                layers_per_block=1,
                norm_num_groups=2,
                scaling_factor=0.7,
                invert_scale_latents=from_image,
            ).eval(),
            transformer=CogVideoXTransformer3DModel(
                num_attention_heads=2,
                attention_head_dim=16,
                in_channels=32 if from_image else 16,
                out_channels=16,
                time_embed_dim=8,
                text_embed_dim=TEXT_WIDTH,
                num_layers=1,
                sample_width=FILM_PX // 8,
                sample_height=FILM_PX // 8,
                sample_frames=9,
                use_rotary_positional_embeddings=True,
                use_learned_positional_embeddings=from_image,
            ),
            scheduler=CogVideoXDPMScheduler(
                **NOISE,
                prediction_type="v_prediction",
                rescale_betas_zero_snr=True,
                snr_shift_scale=1.0,
                timestep_spacing="trailing",
            ),
        )
    save(pipeline, folder)


def build_allegro(folder: Path, seed: int = 0) -> None:
    """Allegro, whose autoencoder works on tiles of 24 frames alone, and on nothing smaller."""
    tokenizer = t5_tokenizer()
    with seeded(seed), quiet():
        pipeline = AllegroPipeline(
            tokenizer=tokenizer,
            text_encoder=t5_encoder(tokenizer),
            vae=AutoencoderKLAllegro(
                block_out_channels=(4, 4, 4, 8),
                latent_channels=4,
                layers_per_block=1,
                norm_num_groups=2,
                # The library lets neighbours overlap by 120 pixels, whatever their size.
                sample_size=ALLEGRO_PX,
            ).eval(),
            transformer=AllegroTransformer3DModel(
                num_attention_heads=2,
                attention_head_dim=24,
                num_layers=1,
                cross_attention_dim=48,
                sample_width=ALLEGRO_PX // 8,
                sample_height=ALLEGRO_PX // 8,
                sample_frames=6,
                caption_channels=TEXT_WIDTH,
            ),
            scheduler=EulerAncestralDiscreteScheduler(**NOISE),
        )
    save(pipeline, folder)


def build_mochi(folder: Path, seed: int = 0) -> None:
    """Mochi 1 preview."""
    tokenizer = t5_tokenizer()
    with seeded(seed):
        pipeline = MochiPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
            vae=AutoencoderKLMochi(
                # The library norms over 32 groups whatever the size.
                encoder_block_out_channels=(32, 32, 32, 32),
                decoder_block_out_channels=(32, 32, 32, 32),
                layers_per_block=(1, 1, 1, 1, 1),
            ).eval(),
            text_encoder=t5_encoder(tokenizer),
            tokenizer=tokenizer,
            transformer=MochiTransformer3DModel(
                num_attention_heads=2,
                attention_head_dim=16,
                num_layers=2,
                pooled_projection_dim=16,
                text_embed_dim=TEXT_WIDTH,
                time_embed_dim=8,
            ),
        )
    save(pipeline, folder)


def build_ltx(folder: Path, seed: int = 0) -> None:
    """LTX-Video 0.9: latents 32 times smaller, eight frames in one."""
    tokenizer = t5_tokenizer()
    with seeded(seed):
        pipeline = LTXPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            vae=AutoencoderKLLTXVideo(
                block_out_channels=(4, 4, 4, 8),
                decoder_block_out_channels=(4, 4, 4, 8),
                layers_per_block=(1, 1, 1, 1, 1),
                decoder_layers_per_block=(1, 1, 1, 1, 1),
            ).eval(),
            text_encoder=t5_encoder(tokenizer),
            tokenizer=tokenizer,
            transformer=LTXVideoTransformer3DModel(
                num_attention_heads=2,
                attention_head_dim=16,
                cross_attention_dim=32,
                num_layers=1,
                caption_channels=TEXT_WIDTH,
            ),
        )
    save(pipeline, folder)


def build_svd(folder: Path, seed: int = 0) -> None:
    """Stable Video Diffusion, which makes a film from a picture and no words."""
    with seeded(seed):
        pipeline = StableVideoDiffusionPipeline(
            vae=AutoencoderKLTemporalDecoder(
                down_block_types=("DownEncoderBlock2D",) * 4,
                # The library norms over 32 groups whatever the size.
                block_out_channels=(32, 32, 32, 32),
                layers_per_block=1,
                latent_channels=4,
                sample_size=FILM_PX,
            ).eval(),
            # The pipeline itself brings the picture into this size.
            image_encoder=clip_eye(CLIPVisionModelWithProjection, side_px=224),
            unet=UNetSpatioTemporalConditionModel(
                sample_size=FILM_PX // 8,
                down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
                up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
                block_out_channels=(32, 32),
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=3 * 8,
                layers_per_block=1,
                cross_attention_dim=TEXT_WIDTH,
                num_attention_heads=(2, 2),
                num_frames=5,
            ),
            scheduler=EulerDiscreteScheduler(
                **NOISE,
                prediction_type="v_prediction",
                sigma_max=700.0,
                sigma_min=0.002,
                timestep_spacing="leading",
                timestep_type="continuous",
                use_karras_sigmas=True,
            ),
            feature_extractor=clip_processor(),
        )
    save(pipeline, folder)
