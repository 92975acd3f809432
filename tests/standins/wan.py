"""Stand-in for Wan 2.1 text to video."""

from __future__ import annotations

from pathlib import Path

from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import UMT5Config, UMT5EncoderModel

from tests.standins.parts import TEXT_WIDTH, save, seeded, t5_sizes, t5_tokenizer


def build_wan(folder: Path, seed: int = 0) -> None:
    """Wan 2.1 text to video."""
    tokenizer = t5_tokenizer()
    with seeded(seed):
        pipeline = WanPipeline(
            tokenizer=tokenizer,
            text_encoder=UMT5EncoderModel(UMT5Config(**t5_sizes(tokenizer))).eval(),
            vae=AutoencoderKLWan(base_dim=2, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
            scheduler=UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            ),
            transformer=WanTransformer3DModel(
                num_attention_heads=2,
                attention_head_dim=12,
                text_dim=TEXT_WIDTH,
                ffn_dim=32,
                num_layers=2,
                rope_max_seq_len=64,
            ),
        )
    save(pipeline, folder)
