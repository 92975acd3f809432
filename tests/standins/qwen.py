"""Stand-ins for Z-Image, Qwen-Image and Krea 2, whose text encoders are Qwen language models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    Krea2Pipeline,
    Krea2Transformer2DModel,
    NucleusMoEImagePipeline,
    NucleusMoEImageTransformer2DModel,
    QwenImageEditPlusPipeline,
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
    Qwen2VLImageProcessorPil,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLModel,
)

from tests.standins.parts import (
    TEXT_WIDTH,
    add_processor,
    picture_vae,
    qwen_tokenizer,
    save,
    seeded,
)

HEADS = 2
SEEING_MARKS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
"""Tokens that stand in a prompt for what is seen."""
LANGUAGE_MODEL: dict[str, Any] = {
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": TEXT_WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
}

EYE: dict[str, Any] = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": HEADS,
    "out_hidden_size": TEXT_WIDTH,
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


def build_writer(folder: Path, seed: int = 0) -> None:
    """A Qwen 3 that writes, with the sizes of Z-Image's text encoder."""
    tokenizer = qwen_tokenizer()
    with seeded(seed):
        model = Qwen3ForCausalLM(
            Qwen3Config(**LANGUAGE_MODEL, vocab_size=len(tokenizer), head_dim=16)
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def build_qwen_image(folder: Path, seed: int = 0) -> None:
    """Qwen-Image; its text encoder has an eye too, which drawing from text does not use."""
    tokenizer = qwen_tokenizer()
    with seeded(seed):
        pipeline = QwenImagePipeline(tokenizer=tokenizer, **_qwen_image(tokenizer))
    save(pipeline, folder)


def build_qwen_image_edit_plus(folder: Path, seed: int = 0) -> None:
    """Qwen-Image-Edit of September 2025 and after, which looks at several pictures."""
    tokenizer = qwen_tokenizer(SEEING_MARKS)
    with seeded(seed):
        pipeline = QwenImageEditPlusPipeline(
            tokenizer=tokenizer, processor=None, **_qwen_image(tokenizer)
        )
    save(pipeline, folder)
    pictures = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=56 * 56)
    add_processor(folder, "processor", "Qwen2VLProcessor", pictures, tokenizer)


def build_krea2(folder: Path, seed: int = 0, *, turbo: bool = True) -> None:
    """Krea 2, or Krea 2 Turbo. It listens to twelve of its text encoder's 36 layers."""
    tokenizer = qwen_tokenizer()
    with seeded(seed):
        pipeline = Krea2Pipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(
                use_dynamic_shifting=True,
                base_shift=0.5,
                max_shift=1.15,
                base_image_seq_len=256,
                max_image_seq_len=6400,
            ),
            vae=_qwen_image_vae(),
            text_encoder=Qwen3VLModel(qwen3_vl_config(len(tokenizer), layers=36)).eval(),
            tokenizer=tokenizer,
            transformer=Krea2Transformer2DModel(
                in_channels=64,
                num_layers=1,
                attention_head_dim=16,
                num_attention_heads=HEADS,
                num_key_value_heads=HEADS,
                intermediate_size=32,
                timestep_embed_dim=8,
                text_hidden_dim=TEXT_WIDTH,
                num_text_layers=12,
                text_num_attention_heads=HEADS,
                text_num_key_value_heads=HEADS,
                text_intermediate_size=32,
                num_layerwise_text_blocks=1,
                num_refiner_text_blocks=1,
                axes_dims_rope=(8, 4, 4),
            ),
            is_distilled=turbo,
        )
    save(pipeline, folder)


def build_nucleus_image(folder: Path, seed: int = 0) -> None:
    """Nucleus-Image, a mixture of experts, which listens to its text encoder's eighth layer from
    the end."""
    tokenizer = qwen_tokenizer(SEEING_MARKS)
    with seeded(seed):
        pipeline = NucleusMoEImagePipeline(
            transformer=NucleusMoEImageTransformer2DModel(
                in_channels=64,
                out_channels=16,
                num_layers=5,
                attention_head_dim=16,
                num_attention_heads=HEADS,
                num_key_value_heads=HEADS,
                joint_attention_dim=TEXT_WIDTH,
                axes_dims_rope=(8, 4, 4),
                num_experts=4,
                moe_intermediate_dim=32,
                capacity_factors=2.0,
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(
                use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15
            ),
            vae=_qwen_image_vae(),
            text_encoder=Qwen3VLForConditionalGeneration(
                qwen3_vl_config(len(tokenizer), layers=8)
            ).eval(),
            processor=None,
        )
        for name, parameter in pipeline.transformer.named_parameters():
            if ".experts." in name:
                # The class leaves these as memory happened to be.
                nn.init.normal_(parameter, std=0.02)
    save(pipeline, folder)
    pictures = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=56 * 56)
    add_processor(folder, "processor", "Qwen3VLProcessor", pictures, tokenizer)


def qwen3_vl_config(vocabulary: int, *, layers: int) -> Qwen3VLConfig:
    """A Qwen 3 language model of so many layers, with an eye."""
    return Qwen3VLConfig(
        text_config={
            **LANGUAGE_MODEL,
            "num_hidden_layers": layers,
            "head_dim": 16,
            "vocab_size": vocabulary,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [4, 2, 2],
            },
        },
        vision_config={**EYE, "deepstack_visual_indexes": [0]},
    )


def qwen25_sizes(tokenizer: Qwen2Tokenizer) -> dict[str, Any]:
    """The configuration of a Qwen 2.5 language model, of one that has an eye too."""
    return {
        **LANGUAGE_MODEL,
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [2, 3, 3],
        },
    }


def _qwen_image(tokenizer: Qwen2Tokenizer) -> dict[str, Any]:
    """All that Qwen-Image and Qwen-Image-Edit have in common, but the tokenizer."""
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True,
            base_shift=0.5,
            max_shift=0.9,
            max_image_seq_len=8192,
            shift_terminal=0.02,
            time_shift_type="exponential",
        ),
        "vae": _qwen_image_vae(),
        "text_encoder": Qwen2_5_VLForConditionalGeneration(_eye_and_language(tokenizer)).eval(),
        "transformer": QwenImageTransformer2DModel(
            in_channels=64,
            out_channels=16,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=HEADS,
            joint_attention_dim=TEXT_WIDTH,
            axes_dims_rope=(8, 4, 4),
        ),
    }


def _qwen_image_vae() -> AutoencoderKLQwenImage:
    return AutoencoderKLQwenImage(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval()


def _eye_and_language(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLConfig:
    return Qwen2_5_VLConfig(
        text_config=qwen25_sizes(tokenizer),
        vision_config={**EYE, "fullatt_block_indexes": [0]},
        **{
            f"{mark[2:-2].replace('pad', 'token')}_id": id_
            for mark, id_ in tokenizer.get_added_vocab().items()
            if mark in SEEING_MARKS and mark.endswith("_pad|>")
        },
    )
