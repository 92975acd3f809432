"""Stand-ins for Wan: text to video (2.1), picture to video (2.1 and 2.2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import CLIPVisionModel, UMT5Config, UMT5EncoderModel

from tests.standins.parts import (
    TEXT_WIDTH,
    clip_eye,
    clip_processor,
    save,
    seeded,
    t5_sizes,
    t5_tokenizer,
)

LATENTS = 16
SEEN_CHANNELS = LATENTS + 4
"""What a denoiser is shown of a picture: its latents, and which of four frames are given."""


def build_wan(folder: Path, seed: int = 0, *, version: str = "2.1") -> None:
    """Wan 2.1 text to video, or 2.2, which has a second denoiser."""
    with seeded(seed):
        second = (
            {} if version == "2.1" else {"transformer_2": _transformer(), "boundary_ratio": 0.9}
        )
        pipeline = WanPipeline(**_common(), transformer=_transformer(), **second)
    save(pipeline, folder)


def build_wan_i2v(folder: Path, seed: int = 0, *, version: str = "2.1") -> None:
    """Wan 2.1 picture to video, which has an eye, or 2.2, which has a second denoiser instead."""
    with seeded(seed):
        seen: dict[str, Any] = {"in_channels": LATENTS + SEEN_CHANNELS}
        if version == "2.1":
            eye = clip_eye(CLIPVisionModel)
            pipeline = WanImageToVideoPipeline(
                **_common(),
                image_encoder=eye,
                image_processor=clip_processor(),
                transformer=_transformer(
                    **seen, image_dim=eye.config.hidden_size, added_kv_proj_dim=24
                ),
            )
        else:
            pipeline = WanImageToVideoPipeline(
                **_common(),
                transformer=_transformer(**seen),
                transformer_2=_transformer(**seen),
                boundary_ratio=0.9,
            )
    save(pipeline, folder)


def _second(version: str) -> dict[str, Any]:
    """Returns the denoiser of the low noise levels, which 2.1 does not have."""
    if version == "2.1":
        return {}
    return {"transformer_2": _transformer(), "boundary_ratio": 0.9}


def _common() -> dict[str, Any]:
    tokenizer = t5_tokenizer()
    return {
        "tokenizer": tokenizer,
        "text_encoder": UMT5EncoderModel(UMT5Config(**t5_sizes(tokenizer))).eval(),
        "vae": AutoencoderKLWan(base_dim=2, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        "scheduler": UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    }


def _transformer(**changes: Any) -> WanTransformer3DModel:
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=TEXT_WIDTH,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=64,
        **changes,
    )
