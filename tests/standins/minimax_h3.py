"""A stand-in for MiniMax-H3, which there is as a modular pipeline only: films with sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKLMiniMaxH3,
    AutoencoderKLMiniMaxH3Audio,
    MiniMaxH3Scheduler,
    MiniMaxH3Transformer3DModel,
)
from transformers import (
    Qwen2Tokenizer,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from tests.standins.parts import TEXT_WIDTH, qwen_tokenizer, save_modular, seeded

HEADS, HEAD_WIDTH = 2, 16
LAYERS = 52
"""The text is read after the 50th, and there has to be a 51st; documents leave the rest away."""
MARKS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
WHERE = "MiniMaxAI/MiniMax-H3"
FRAMES = 124
"""The fewest it makes: a little over five seconds."""


def build_minimax_h3(folder: Path, seed: int = 0) -> None:
    """MiniMax-H3, with its transformer for references too."""
    tokenizer = qwen_tokenizer(MARKS)
    with seeded(seed):
        parts: dict[str, Any] = {
            "text_encoder": _reader(tokenizer),
            "tokenizer": tokenizer,
            "vae": _film_vae(),
            "audio_vae": _sound_vae(),
            "transformer": _transformer(),
            "transformer_ref": _transformer(),
            "scheduler": MiniMaxH3Scheduler(shift=12.0),
            "audio_scheduler": MiniMaxH3Scheduler(shift=3.0),
        }
    # As it lies on the hub: one file for each of the two that the combined processor is made of.
    tokenizer.save_pretrained(folder / "processor")
    Qwen2VLImageProcessorPil(patch_size=PATCH_PX, merge_size=2).save_pretrained(
        folder / "processor"
    )
    save_modular(
        parts,
        folder,
        "MiniMaxH3",
        model=WHERE,
        others={"processor": ["transformers", "Qwen3VLProcessor"]},
        canvas_short_edge=768,
        canvas_max_pixels=1032192,
        reference_image_short_edge=2048,
    )


PATCH_PX, SOUND_CHANNELS = 16, 32


def _reader(tokenizer: Qwen2Tokenizer) -> Qwen3VLForConditionalGeneration:
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": TEXT_WIDTH,
            "intermediate_size": TEXT_WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "head_dim": HEAD_WIDTH,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [2, 3, 3],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": HEADS,
            "patch_size": PATCH_PX,
            "out_hidden_size": TEXT_WIDTH,
            "deepstack_visual_indexes": [0],
            "num_position_embeddings": 64,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )
    return Qwen3VLForConditionalGeneration(config).eval()


def _transformer() -> MiniMaxH3Transformer3DModel:
    return MiniMaxH3Transformer3DModel(
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_WIDTH,
        hidden_size=32,
        num_layers=2,
        num_refiner_layers=1,
        ffn_dim=32,
        text_dim=TEXT_WIDTH,
        freq_dim=16,
        time_embed_hidden_dim=32,
        time_embed_dim=16,
        rope_freq_dim=2,
    )


def _film_vae() -> AutoencoderKLMiniMaxH3:
    return AutoencoderKLMiniMaxH3(
        block_out_channels=(4, 4, 4, 4, 4, 4),
        layers_per_block=1,
        norm_num_groups=2,
        decoder_num_layers=1,
        decoder_num_attention_heads=HEADS,
        decoder_attention_head_dim=HEAD_WIDTH,
        decoder_ffn_mult=1,
    ).eval()


def _sound_vae() -> AutoencoderKLMiniMaxH3Audio:
    return AutoencoderKLMiniMaxH3Audio(
        encoder_dim=2,
        latent_dim=32,
        num_attention_heads=HEADS,
        decoder_dim=128,
        resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1,),),
        latents_mean=[0.0] * SOUND_CHANNELS,
        latents_std=[1.0] * SOUND_CHANNELS,
    ).eval()
