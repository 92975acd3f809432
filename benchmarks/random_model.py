"""A model of random weights with the architecture of Stable Diffusion 1.5, for benchmarks.

Its size is real (1.07 billion parameters, 2.1 GB in float16, no safety checker); its images are
noise.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from app.settings import PROJECT

FOLDER = PROJECT / "outputs" / "benchmark-random-model"
INDEX = "model_index.json"
LETTERS = "abcdefghijklmnopqrstuvwxyz"


# --- the model -----------------------------------------------------------------------------------


class Sizes(NamedTuple):
    """Sizes of a model's networks."""

    unet: tuple[int, ...]
    """Channels by block."""
    vae: tuple[int, ...]
    text: int
    """Width of the text encoder."""
    text_layers: int
    tokens: int
    """Vocabulary size."""


SD15 = Sizes((320, 640, 1280, 1280), (128, 256, 512, 512), 768, 12, 49_408)
SMALLEST = Sizes((32, 32, 32, 32), (32, 32, 32, 32), 24, 1, 1_000)


def make_model(folder: Path, sizes: Sizes = SD15) -> None:
    """Writes a model into the folder, unless a complete one is there."""
    if (folder / INDEX).is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            layers_per_block=2,
            block_out_channels=sizes.unet,
            down_block_types=(*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
            up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
            cross_attention_dim=sizes.text,
            attention_head_dim=8,
        )
        vae = AutoencoderKL(
            sample_size=512,
            block_out_channels=sizes.vae,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=sizes.tokens,
                hidden_size=sizes.text,
                intermediate_size=4 * sizes.text,
                projection_dim=sizes.text,
                num_hidden_layers=sizes.text_layers,
                num_attention_heads=12,
                bos_token_id=sizes.tokens - 2,
                eos_token_id=sizes.tokens - 1,
                pad_token_id=sizes.tokens - 1,
            )
        )
    tokenizer = build_tokenizer(sizes.tokens)
    scheduler = PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1)
    index: dict[str, Any] = {"_class_name": "StableDiffusionPipeline"}
    index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    for name, library, component in (
        ("unet", "diffusers", unet),
        ("vae", "diffusers", vae),
        ("text_encoder", "transformers", text_encoder),
        ("tokenizer", "transformers", tokenizer),
        ("scheduler", "diffusers", scheduler),
    ):
        index[name] = [library, type(component).__name__]
        part = folder / name
        part.mkdir(parents=True)
        if isinstance(component, torch.nn.Module):
            stem = "diffusion_pytorch_model" if library == "diffusers" else "model"
            save_file(random_weights(component), part / f"{stem}.safetensors", {"format": "pt"})
        if name in ("unet", "vae"):
            component.save_config(part)
        elif name == "text_encoder":
            component.config.save_pretrained(part)
        else:
            component.save_pretrained(part)
    # Last, since it marks a complete model.
    (folder / INDEX).write_text(json.dumps(index, indent=2))


def random_weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Returns float16 weights as before training: norms are identities and layers keep the scale of
    their input, so that no value overflows."""
    random = torch.Generator().manual_seed(0)
    weights = {}
    for name, parameter in module.state_dict().items():
        if parameter.ndim < 2:
            is_norms = "norm" in name and name.endswith("weight")
            numbers = torch.full(parameter.shape, float(is_norms))
        else:
            widest = (3 / parameter[0].numel()) ** 0.5
            numbers = torch.empty(parameter.shape).uniform_(-widest, widest, generator=random)
        weights[name] = numbers.to(torch.float16)
    return weights


def build_tokenizer(tokens: int) -> CLIPTokenizer:
    """Returns a tokenizer of so many tokens, which alone decide its loading time."""
    symbols = [chr(code) for code in range(0x21, 0x7F)]
    vocabulary = [*symbols, *(f"{symbol}</w>" for symbol in symbols)]
    merges: list[tuple[str, str]] = []
    words = list(LETTERS)
    for word in words:
        for letter in LETTERS:
            if len(vocabulary) < tokens - 2:
                merges.append((word, letter))
                vocabulary.append(word + letter)
                words.append(word + letter)
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    numbered = {token: number for number, token in enumerate(vocabulary)}
    return CLIPTokenizer(vocab=numbered, merges=merges, model_max_length=77)
