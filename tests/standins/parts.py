"""What several stand-ins share: tokenizers, text encoders, the picture autoencoder, saving."""

from __future__ import annotations

import contextlib
import json
import string
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    BaseImageProcessor,
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from app.models.model_index import is_component
from models.shapes.tokenizer import MAX_TOKENS, build_tokenizer

TEXT_WIDTH = 32
"""Channels of every text encoder here, and of what it projects to."""
NOISE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
"""The noise of Stable Diffusion, and of what came from it."""
EYE_PX = 16
"""What every image encoder here sees a picture in."""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{{ part.text }}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NAMES_ON_THE_HUB = {"T5Tokenizer": "T5TokenizerFast"}
"""Classes whose names in the indexes of published models differ from those saved today."""

ClipText = TypeVar("ClipText", CLIPTextModel, CLIPTextModelWithProjection)
ClipEye = TypeVar("ClipEye", CLIPVisionModel, CLIPVisionModelWithProjection)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, libraries may do what others have deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, weights are drawn from this seed; outside, torch's own generator is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def fill_zeros(module: torch.nn.Module) -> None:
    """Draw the weights that a class starts with zeros, which would pass nothing on."""
    for weight in module.parameters():
        if weight.ndim > 1 and not weight.any():
            torch.nn.init.normal_(weight, std=0.1)


def save(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Write the pipeline as a published model of its family is laid out."""
    pipeline.save_pretrained(folder, safe_serialization=True)
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    for entry in index.values():
        if is_component(entry) and entry[1] is not None:
            name = entry[1].replace("ImageProcessorPil", "ImageProcessor")
            entry[1] = NAMES_ON_THE_HUB.get(name, name)
    path.write_text(json.dumps(index, indent=2) + "\n")


def add_processor(
    folder: Path,
    name: str,
    class_name: str,
    pictures: BaseImageProcessor,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Give the pipeline in `folder` a processor of this class of transformers, which without
    torchvision cannot be made here: its files are those of its two parts."""
    pictures.save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / name)
    (folder / name / "processor_config.json").write_text(
        json.dumps({"processor_class": class_name})
    )
    path = folder / "model_index.json"
    index = {**json.loads(path.read_text()), name: ["transformers", class_name]}
    path.write_text(json.dumps(index, indent=2) + "\n")


def save_modular(
    parts: Mapping[str, Any],
    folder: Path,
    family: str,
    *,
    model: str,
    others: Mapping[str, list[str]] = MappingProxyType({}),
    **configs: Any,
) -> None:
    """Write these components as a modular pipeline's repository is laid out; `others` are there
    already, with their libraries and classes."""
    kinds = dict(others)
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        kinds[name] = [type(part).__module__.partition(".")[0], type(part).__name__]
    index: dict[str, Any] = {
        "_class_name": f"{family}ModularPipeline",
        "_blocks_class_name": f"{family}Blocks",
        **configs,
    }
    for name, kind in kinds.items():
        spec = {"pretrained_model_name_or_path": model, "subfolder": name, "type_hint": kind}
        index[name] = [*kind, {**spec, "variant": None, "revision": None}]
    (folder / "modular_model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def clip_text(
    kind: type[ClipText], tokenizer: CLIPTokenizer, positions: int = MAX_TOKENS
) -> ClipText:
    """A CLIP text encoder for this tokenizer and prompts of so many tokens."""
    return kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=positions,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()


def clip_eye(kind: type[ClipEye], side_px: int = EYE_PX) -> ClipEye:
    """A CLIP image encoder, which projects to as many channels as it has."""
    return kind(
        CLIPVisionConfig(
            hidden_size=TEXT_WIDTH,
            intermediate_size=TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=side_px,
            patch_size=side_px // 2,
        )
    ).eval()


def clip_processor() -> CLIPImageProcessorPil:
    """What brings a picture into the size of these image encoders."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": EYE_PX}, crop_size={"height": EYE_PX, "width": EYE_PX}
    )


def clip_tokenizer() -> CLIPTokenizer:
    """The bundled model's, which takes any text."""
    return build_tokenizer()


def t5_tokenizer() -> T5Tokenizer:
    """One token for each printable ASCII character."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    characters = ["▁", *string.ascii_letters, *string.digits, *string.punctuation]
    return T5Tokenizer(vocab=[*special, *((c, -2.0) for c in characters)], extra_ids=0)


def t5_encoder(tokenizer: T5Tokenizer, width: int = TEXT_WIDTH) -> T5EncoderModel:
    """A T5 text encoder for this tokenizer."""
    return T5EncoderModel(T5Config(**t5_sizes(tokenizer, width))).eval()


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


def qwen_tokenizer(marks: tuple[str, ...] = ()) -> Qwen2Tokenizer:
    """One token for each byte, the marks of a chat, and these further ones."""
    special = ["<|im_start|>", "<|im_end|>", *marks]
    vocabulary = [*sorted(ByteLevel.alphabet()), "<|endoftext|>", *special]
    tokenizer = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(vocabulary)},
        merges=[],
        additional_special_tokens=special,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def byte_vocabulary(*special: str) -> dict[str, int]:
    """These tokens, and one for each byte."""
    tokens = [*special, *sorted(ByteLevel.alphabet())]
    return {token: index for index, token in enumerate(tokens)}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte, and the marks of a chat, as the tokenizers of many models are."""
    tokens = byte_vocabulary("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
    tokenizer = Tokenizer(BPE(vocab=tokens, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


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
