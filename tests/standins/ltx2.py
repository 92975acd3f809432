"""Stand-in for LTX-2.5: films with their sound, from text or from a picture, and its upsampler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    FlowMatchEulerDiscreteScheduler,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
)
from diffusers.pipelines.ltx2 import LTX2DurationHead, LTX2TextConnectors
from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from transformers import (
    Gemma4UnifiedConfig,
    Gemma4UnifiedForConditionalGeneration,
    GemmaTokenizer,
)

from tests.standins.gemma import gemma_tokenizer
from tests.standins.parts import TEXT_WIDTH, save, seeded
from tests.standins.qwen import LANGUAGE_MODEL

LATENT_CHANNELS, LAYERS = 8, LANGUAGE_MODEL["num_hidden_layers"]
MEL_BINS, SOUND_LATENT_CHANNELS = 64, 2
LATENT_MEL_BINS = MEL_BINS // 4
SOUND_RATE = 24_000
"""Samples per second of what the vocoder makes."""
HEADS, HEAD_WIDTH, SOUND_HEAD_WIDTH = 2, 8, 4


def build_ltx2(folder: Path, seed: int = 0) -> None:
    """LTX-2.5: a film is 32 times smaller in its latents, in time 8 times."""
    tokenizer = gemma_tokenizer()
    with seeded(seed):
        pipeline = LTX2Pipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(
                use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, shift_terminal=0.1
            ),
            vae=_film_vae(),
            audio_vae=AutoencoderKLLTX2Audio(
                base_channels=SOUND_LATENT_CHANNELS * LATENT_MEL_BINS,
                ch_mult=(1, 1, 1),
                num_res_blocks=1,
                latent_channels=SOUND_LATENT_CHANNELS,
                mel_bins=MEL_BINS,
            ).eval(),
            text_encoder=_text_encoder(tokenizer),
            tokenizer=tokenizer,
            connectors=LTX2TextConnectors(
                caption_channels=TEXT_WIDTH,
                text_proj_in_factor=LAYERS + 1,
                **_connector("video"),
                **_connector("audio"),
                rope_type="split",
            ),
            transformer=_transformer(),
            vocoder=LTX2Vocoder(
                in_channels=2 * MEL_BINS,
                hidden_channels=32,
                resnet_kernel_sizes=[3],
                resnet_dilations=[[1, 3, 5]],
                output_sampling_rate=SOUND_RATE,
            ),
            duration_head=LTX2DurationHead(
                video_cross_attention_dim=TEXT_WIDTH,
                audio_cross_attention_dim=TEXT_WIDTH,
                pooler_hidden_dim=8,
                num_queries=1,
                num_pooler_heads=2,
                mlp_hidden_dim=8,
            ),
        )
        upsampler = LTX2LatentUpsamplerModel(
            in_channels=LATENT_CHANNELS, mid_channels=32, num_blocks_per_stage=1
        )
    save(pipeline, folder)
    upsampler.save_pretrained(folder / "latent_upsampler")


def _film_vae() -> AutoencoderKLLTX2Video:
    return AutoencoderKLLTX2Video(
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(4, 8, 16, 32),
        decoder_block_out_channels=(8, 16, 32),
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 4,
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    ).eval()


def _connector(kind: str) -> dict[str, Any]:
    sizes = {
        "num_attention_heads": HEADS,
        "attention_head_dim": TEXT_WIDTH // HEADS,
        "num_layers": 1,
        "num_learnable_registers": 8,
    }
    return {f"{kind}_connector_{name}": size for name, size in sizes.items()}


def _text_encoder(tokenizer: GemmaTokenizer) -> Gemma4UnifiedForConditionalGeneration:
    text = {
        **LANGUAGE_MODEL,
        "head_dim": 16,
        "vocab_size": len(tokenizer),
        "layer_types": ["sliding_attention", "full_attention"],
    }
    config = Gemma4UnifiedConfig(text_config=text, vision_config=None, audio_config=None)
    return Gemma4UnifiedForConditionalGeneration(config).eval()


def _transformer() -> LTX2VideoTransformer3DModel:
    return LTX2VideoTransformer3DModel(
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_WIDTH,
        cross_attention_dim=HEADS * HEAD_WIDTH,
        audio_in_channels=SOUND_LATENT_CHANNELS * LATENT_MEL_BINS,
        audio_out_channels=SOUND_LATENT_CHANNELS * LATENT_MEL_BINS,
        audio_num_attention_heads=HEADS,
        audio_attention_head_dim=SOUND_HEAD_WIDTH,
        audio_cross_attention_dim=HEADS * SOUND_HEAD_WIDTH,
        num_layers=2,
        caption_channels=TEXT_WIDTH,
        rope_type="split",
    )
