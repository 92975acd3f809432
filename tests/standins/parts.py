"""What several stand-ins share: tokenizers, text encoders, the picture autoencoder, saving."""

from __future__ import annotations

import contextlib
import json
import string
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen2Tokenizer,
    T5Tokenizer,
)

from models.shapes.tokenizer import MAX_TOKENS, build_tokenizer

TEXT_WIDTH = 32
"""Channels of every text encoder here, and of what it projects to."""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NAMES_ON_THE_HUB = {
    "T5Tokenizer": "T5TokenizerFast",
    "CLIPImageProcessorPil": "CLIPImageProcessor",
}
"""Classes whose names in the indexes of published models differ from those saved today."""

ClipText = TypeVar("ClipText", CLIPTextModel, CLIPTextModelWithProjection)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, weights are drawn from this seed; outside, torch's own generator is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def save(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Write the pipeline as a published model of its family is laid out."""
    pipeline.save_pretrained(folder, safe_serialization=True)
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    for entry in index.values():
        if isinstance(entry, list):
            entry[1] = NAMES_ON_THE_HUB.get(entry[1], entry[1])
    path.write_text(json.dumps(index, indent=2) + "\n")


def clip_text(kind: type[ClipText], tokenizer: CLIPTokenizer) -> ClipText:
    """A CLIP text encoder for this tokenizer."""
    return kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()


def clip_tokenizer() -> CLIPTokenizer:
    """The bundled model's, which takes any text."""
    return build_tokenizer()


def t5_tokenizer() -> T5Tokenizer:
    """One token for each printable ASCII character."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    characters = ["▁", *string.ascii_letters, *string.digits, *string.punctuation]
    return T5Tokenizer(vocab=[*special, *((c, -2.0) for c in characters)], extra_ids=0)


def t5_sizes(tokenizer: T5Tokenizer, width: int = TEXT_WIDTH) -> dict[str, int | str]:
    """The configuration of a T5 or UMT5 encoder for this tokenizer."""
    return {
        "vocab_size": len(tokenizer),
        "d_model": width,
        "d_kv": 8,
        "d_ff": TEXT_WIDTH,
        "num_layers": 2,
        "num_heads": 2,
        "feed_forward_proj": "gated-gelu",
    }


def qwen_tokenizer() -> Qwen2Tokenizer:
    """One token for each byte, and the marks of a chat."""
    vocabulary = [*sorted(ByteLevel.alphabet()), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(vocabulary)},
        merges=[],
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def picture_vae(
    latent_channels: int, *, scaling_factor: float, shift_factor: float | None = None
) -> AutoencoderKL:
    """An autoencoder of pictures with latents eight times smaller, as all of its kind have.

    Those with 16 channels came without the two convolutions around the latents.
    """
    quantized = latent_channels == 4
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(2, 4, 4, 8),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=2,
        sample_size=64,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        use_quant_conv=quantized,
        use_post_quant_conv=quantized,
    ).eval()
