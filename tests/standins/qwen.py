"""Stand-ins for Z-Image Turbo and Qwen-Image, whose text encoders are Qwen language models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from torch import nn
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
)

from tests.standins.parts import TEXT_WIDTH, picture_vae, qwen_tokenizer, save, seeded

HEADS = 2
LANGUAGE_MODEL: dict[str, Any] = {
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": TEXT_WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
}


def build_zimage(folder: Path, seed: int = 0) -> None:
    """Z-Image Turbo."""
    tokenizer = qwen_tokenizer()
    with seeded(seed):
        transformer = ZImageTransformer2DModel(
            in_channels=16,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=HEADS,
            n_kv_heads=HEADS,
            cap_feat_dim=TEXT_WIDTH,
            axes_dims=[8, 4, 4],
            # Positions of text and pictures: as many as 1024x1024 with 512 tokens can have.
            axes_lens=[1024, 64, 64],
        )
        # The class leaves these as memory happened to be.
        nn.init.normal_(transformer.x_pad_token, std=0.02)
        nn.init.normal_(transformer.cap_pad_token, std=0.02)
        pipeline = ZImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=picture_vae(16, scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=Qwen3Model(
                Qwen3Config(**LANGUAGE_MODEL, vocab_size=len(tokenizer), head_dim=16)
            ).eval(),
            tokenizer=tokenizer,
            transformer=transformer,
        )
    save(pipeline, folder)


def build_qwen_image(folder: Path, seed: int = 0) -> None:
    """Qwen-Image; its text encoder has an eye too, which drawing from text does not use."""
    tokenizer = qwen_tokenizer()
    with seeded(seed):
        pipeline = QwenImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(
                use_dynamic_shifting=True,
                base_shift=0.5,
                max_shift=0.9,
                max_image_seq_len=8192,
                shift_terminal=0.02,
                time_shift_type="exponential",
            ),
            vae=AutoencoderKLQwenImage(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
            text_encoder=Qwen2_5_VLForConditionalGeneration(_eye_and_language(tokenizer)).eval(),
            tokenizer=tokenizer,
            transformer=QwenImageTransformer2DModel(
                in_channels=64,
                out_channels=16,
                num_layers=2,
                attention_head_dim=16,
                num_attention_heads=HEADS,
                joint_attention_dim=TEXT_WIDTH,
                axes_dims_rope=(8, 4, 4),
            ),
        )
    save(pipeline, folder)


def _eye_and_language(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLConfig:
    return Qwen2_5_VLConfig(
        text_config={
            **LANGUAGE_MODEL,
            "vocab_size": len(tokenizer),
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [2, 3, 3],
            },
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": HEADS,
            "out_hidden_size": TEXT_WIDTH,
            "fullatt_block_indexes": [0],
        },
    )
