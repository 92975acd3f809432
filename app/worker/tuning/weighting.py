"""Prompt weighting: encoders read plain text; each token's embedding is multiplied by its weight.

Weights of 1 change nothing, so `(a cat:1)` equals `a cat` to the last bit. CLIP embeddings keep
their mean, as the denoisers were trained; T5 embeddings are only multiplied.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch

from app.dialect.weighting import (
    Chunk,
    can_be_weighed,
    has_marks,
    is_read_in_chunks,
    plain,
    read_weights,
    weights_of_characters,
)
from app.worker.tuning.prompt_chunks import (
    PLACES,
    in_chunks,
    is_text,
    multiplied,
    texts_of,
    weights_of_tokens,
)


class Region(NamedTuple):
    """The part of the embeddings that comes from one encoder and one text."""

    tokenizer: Any
    argument: str
    """Suffix of its `prompt` argument: "", "_2" or "_3"."""
    tokens: slice
    channels: slice
    keeps_mean: bool


@contextlib.contextmanager
def weighting_prompts(pipeline: Any) -> Iterator[None]:
    """Weights the results of the pipeline's `encode_prompt` inside.

    Enter before the prompt memo, so that it stores weighted embeddings. Unsupported pipelines take
    prompts literally.
    """
    match reading_of(pipeline):
        case "chunks":
            pipeline.encode_prompt = in_chunks(pipeline, pipeline.encode_prompt)
        case "whole":
            pipeline.encode_prompt = _weighed(pipeline, pipeline.encode_prompt)
    try:
        yield
    finally:
        # The memo, which wraps it, may have removed it already.
        vars(pipeline).pop("encode_prompt", None)


def reading_of(pipeline: Any) -> Literal["chunks", "whole", "literal"]:
    """Returns how a pipeline reads prompts with weights: in chunks, so that they may be of any
    length, as a whole, or not at all."""
    name = type(pipeline).__name__
    if not (can_be_weighed(name) and hasattr(pipeline, "encode_prompt")):
        return "literal"
    if is_read_in_chunks(name):
        return "chunks"
    # (Redux has no text encoders of its own.)
    is_flux_without = name.startswith("Flux") and getattr(pipeline, "tokenizer_2", None) is None
    return "literal" if is_flux_without else "whole"


def _regions(pipeline: Any) -> list[Region]:
    """Returns the layout of the embeddings of Flux and Stable Diffusion 3."""
    everything = slice(None)
    if type(pipeline).__name__.startswith("Flux"):
        return [Region(pipeline.tokenizer_2, "_2", everything, everything, keeps_mean=False)]
    tokens = slice(0, pipeline.tokenizer_max_length)
    rest = slice(pipeline.tokenizer_max_length, None)
    first = pipeline.text_encoder
    width = 0 if first is None else int(first.config.hidden_size)
    found = [
        Region(pipeline.tokenizer, "", tokens, slice(0, width), keeps_mean=True),
        Region(pipeline.tokenizer_2, "_2", tokens, slice(width, None), keeps_mean=True),
        Region(pipeline.tokenizer_3, "_3", rest, everything, keeps_mean=False),
    ]
    return [region for region in found if region.tokenizer is not None]


def _weighed(pipeline: Any, encode: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(encode)
    is_flux = type(pipeline).__name__.startswith("Flux")

    @functools.wraps(encode)
    def weighed(*positional: Any, **named: Any) -> Any:
        bound = signature.bind(*positional, **named)
        bound.apply_defaults()
        arguments = bound.arguments
        read = {
            name: [read_weights(each) for each in texts_of(text)]
            for name, text in arguments.items()
            if "prompt" in name and is_text(text)
        }
        if not any(has_marks(text) for name in read for text in texts_of(arguments[name])):
            return encode(*positional, **named)
        for name, prompts in read.items():
            texts = [plain(chunks) for chunks in prompts]
            arguments[name] = texts[0] if isinstance(arguments[name], str) else texts
        result = list(encode(*bound.args, **bound.kwargs))
        for prefix, place in [("", 0)] if is_flux else PLACES.items():
            if isinstance(result[place], torch.Tensor):
                for region in _regions(pipeline):
                    encoded = _read(read, prefix, region.argument)
                    if encoded is not None:
                        read_by = _expanded(pipeline, region.tokenizer, encoded)
                        result[place] = _multiplied(result[place], region, read_by)
        if is_flux and "prompt" in read:
            result[1] = _pooled(pipeline, read["prompt"], result[1])
        return tuple(result)

    return weighed


def _read(
    read: dict[str, list[tuple[Chunk, ...]]], prefix: str, argument: str
) -> list[tuple[Chunk, ...]] | None:
    """Returns the encoder's own prompt, or the first prompt if it has none."""
    return read.get(f"{prefix}prompt{argument}") or read.get(f"{prefix}prompt")


def _expanded(
    pipeline: Any, tokenizer: Any, prompts: list[tuple[Chunk, ...]]
) -> list[tuple[Chunk, ...]]:
    """Returns the prompts as this tokenizer gets them: a textual inversion's word may become
    several."""
    if not hasattr(pipeline, "maybe_convert_prompt"):
        return prompts
    convert = pipeline.maybe_convert_prompt
    return [
        tuple(
            tuple(piece._replace(text=convert(piece.text, tokenizer)) for piece in chunk)
            for chunk in chunks
        )
        for chunks in prompts
    ]


def _multiplied(
    embeddings: torch.Tensor, region: Region, prompts: list[tuple[Chunk, ...]]
) -> torch.Tensor:
    part = embeddings[:, region.tokens, region.channels]
    rows = [_weights(region.tokenizer, chunks, part.shape[1]) for chunks in prompts]
    if (changed := multiplied(part, rows, keeps_mean=region.keeps_mean)) is part:
        return embeddings
    result = embeddings.clone()
    result[:, region.tokens, region.channels] = changed
    return result


def _weights(tokenizer: Any, chunks: tuple[Chunk, ...], length: int) -> list[float]:
    """Returns the weight of each token of the plain prompt, as it is encoded."""
    text = plain(chunks)
    spans = tokenizer(
        text,
        padding="max_length",
        max_length=length,
        truncation=True,
        return_offsets_mapping=True,
    )["offset_mapping"]
    return weights_of_tokens(text, weights_of_characters(chunks), spans)


def _pooled(pipeline: Any, prompts: list[tuple[Chunk, ...]], pooled: torch.Tensor) -> torch.Tensor:
    """Returns CLIP's pooled embedding of each prompt: the mean over its chunks, if several."""
    tokenizer, encoder = pipeline.tokenizer, pipeline.text_encoder
    if tokenizer is None or encoder is None:
        return pooled
    each = pooled.shape[0] // len(prompts)
    result = pooled.clone()
    for number, chunks in enumerate(prompts):
        texts = ["".join(piece.text for piece in chunk) for chunk in chunks]
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        cut = tokenizer.model_max_length - 2
        parts = [one[at : at + cut] for one in ids for at in range(0, len(one) or 1, cut)]
        if len(parts) > 1:
            filled = [_framed(tokenizer, part, cut) for part in parts]
            tokens = torch.tensor(filled, device=pipeline._execution_device)
            made = encoder(tokens, output_hidden_states=False).pooler_output
            result[number * each : (number + 1) * each] = made.mean(dim=0).to(pooled)
    return result


def _framed(tokenizer: Any, part: list[int], length: int) -> list[int]:
    padding = [tokenizer.pad_token_id] * (length - len(part))
    return [tokenizer.bos_token_id, *part, tokenizer.eos_token_id, *padding]
