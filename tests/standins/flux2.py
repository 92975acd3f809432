"""Stand-ins for what came after FLUX.1 with its autoencoder: FLUX.2, ERNIE-Image, Ideogram 4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKLFlux2,
    ErnieImagePipeline,
    ErnieImageTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    Ideogram4Pipeline,
    Ideogram4Transformer2DModel,
)
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Mistral3Model,
    PixtralImageProcessorPil,
    Qwen3VLModel,
)

from tests.standins.parts import (
    TEXT_WIDTH,
    add_processor,
    byte_tokenizer,
    fill_zeros,
    qwen_tokenizer,
    save,
    seeded,
)
from tests.standins.qwen import qwen3_vl_config

LATENTS, PATCH = 32, 2 * 2


def build_flux2(folder: Path, seed: int = 0) -> None:
    """FLUX.2 dev. It listens to the 10th, 20th and 30th layer of its text encoder."""
    tokenizer = byte_tokenizer()
    with seeded(seed):
        pipeline = Flux2Pipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
            vae=flux2_vae(),
            text_encoder=Mistral3ForConditionalGeneration(
                mistral3_config(len(tokenizer), layers=30)
            ).eval(),
            tokenizer=tokenizer,
            transformer=Flux2Transformer2DModel(
                in_channels=LATENTS * PATCH,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=3 * TEXT_WIDTH,
                axes_dims_rope=(4, 4, 4, 4),
            ),
        )
    save(pipeline, folder)
    add_processor(
        folder, "tokenizer", "PixtralProcessor", PixtralImageProcessorPil(patch_size=8), tokenizer
    )


def build_ernie_image(folder: Path, seed: int = 0) -> None:
    """ERNIE-Image, without the language model that may rewrite its prompts."""
    tokenizer = byte_tokenizer()
    with seeded(seed):
        pipeline = ErnieImagePipeline(
            transformer=ErnieImageTransformer2DModel(
                hidden_size=32,
                num_attention_heads=2,
                num_layers=1,
                ffn_hidden_size=32,
                in_channels=LATENTS * PATCH,
                out_channels=LATENTS * PATCH,
                text_in_dim=TEXT_WIDTH,
                rope_axes_dim=(4, 6, 6),
            ),
            vae=flux2_vae(),
            text_encoder=Mistral3Model(mistral3_config(len(tokenizer), layers=2)).eval(),
            tokenizer=tokenizer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        )
        fill_zeros(pipeline.transformer)
    save(pipeline, folder)


def build_ideogram4(folder: Path, seed: int = 0) -> None:
    """Ideogram 4. It listens to 13 of its text encoder's 36 layers."""
    tokenizer = qwen_tokenizer()

    def transformer() -> Ideogram4Transformer2DModel:
        return Ideogram4Transformer2DModel(
            in_channels=LATENTS * PATCH,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            intermediate_size=32,
            adaln_dim=16,
            llm_features_dim=13 * TEXT_WIDTH,
            mrope_section=(4, 2, 2),
        )

    with seeded(seed):
        pipeline = Ideogram4Pipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=flux2_vae(),
            text_encoder=Qwen3VLModel(qwen3_vl_config(len(tokenizer), layers=36)).eval(),
            tokenizer=tokenizer,
            transformer=transformer(),
            unconditional_transformer=transformer(),
        )
    save(pipeline, folder)


def flux2_vae() -> AutoencoderKLFlux2:
    """Latents eight times smaller, which are then taken two by two: sixteen times, 128 channels."""
    return AutoencoderKLFlux2(
        block_out_channels=(4, 4, 4, 8),
        layers_per_block=1,
        latent_channels=LATENTS,
        norm_num_groups=2,
        sample_size=64,
    ).eval()


def mistral3_config(vocabulary: int, *, layers: int) -> Mistral3Config:
    """A language model of so many layers, with an eye."""
    tower: dict[str, Any] = {
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": TEXT_WIDTH,
        "num_attention_heads": 2,
    }
    return Mistral3Config(
        text_config={
            **tower,
            "model_type": "mistral",
            "vocab_size": vocabulary,
            "num_hidden_layers": layers,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "sliding_window": None,
        },
        vision_config={
            **tower,
            "model_type": "pixtral",
            "num_hidden_layers": 1,
            "image_size": 32,
            "patch_size": 8,
        },
        image_token_index=1,
    )
