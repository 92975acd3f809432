"""Prompt weighting: encoders read plain text; each token's embedding is multiplied by its weight.

Weights of 1 change nothing, so `(a cat:1)` equals `a cat` to the last bit. CLIP embeddings keep
their mean, as the denoisers were trained; T5 embeddings are only multiplied.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from app.dialect.weighting import (
    NOT_SUPPORTED,
    Chunk,
    has_marks,
    plain,
    read_weights,
    weights_of_characters,
)

log = logging.getLogger(__name__)


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
    regions = _regions_of(pipeline)
    if regions is None:
        log.warning(
            "%s does not support prompt weights and takes prompts literally",
            type(pipeline).__name__,
        )
        yield
        return
    pipeline.encode_prompt = _weighed(pipeline, pipeline.encode_prompt, regions)
    try:
        yield
    finally:
        # The memo, which wraps it, may have removed it already.
        vars(pipeline).pop("encode_prompt", None)


def _regions_of(pipeline: Any) -> Callable[[torch.Tensor], list[Region]] | None:
    """Returns the layout of the family's embeddings; None if unsupported."""
    name = type(pipeline).__name__
    everything = slice(None)
    if name.startswith("Flux") and not name.startswith(NOT_SUPPORTED):
        if getattr(pipeline, "tokenizer_2", None) is None or not hasattr(pipeline, "encode_prompt"):
            return None
        t5 = Region(pipeline.tokenizer_2, "_2", everything, everything, keeps_mean=False)
        return lambda _embeddings: [t5]
    if not name.startswith("StableDiffusion") or not hasattr(pipeline, "encode_prompt"):
        return None
    clips = [getattr(pipeline, name, None) for name in ("tokenizer", "tokenizer_2")]

    def regions(embeddings: torch.Tensor) -> list[Region]:
        t5 = getattr(pipeline, "tokenizer_3", None)
        is_sd3 = hasattr(pipeline, "tokenizer_3")
        tokens = slice(0, pipeline.tokenizer_max_length) if is_sd3 else everything
        first = getattr(pipeline, "text_encoder", None)
        width = 0 if first is None or clips[0] is None else int(first.config.hidden_size)
        if clips[1] is None:
            width = embeddings.shape[-1]
        found = [
            Region(clips[0], "", tokens, slice(0, width), keeps_mean=True),
            Region(clips[1], "_2", tokens, slice(width, None), keeps_mean=True),
        ]
        if t5 is not None:
            rest = slice(pipeline.tokenizer_max_length, None)
            found.append(Region(t5, "_3", rest, everything, keeps_mean=False))
        return [region for region in found if region.tokenizer is not None]

    return regions


def _weighed(
    pipeline: Any, encode: Callable[..., Any], regions: Callable[[torch.Tensor], list[Region]]
) -> Callable[..., Any]:
    signature = inspect.signature(encode)
    is_flux = type(pipeline).__name__.startswith("Flux")

    @functools.wraps(encode)
    def weighed(*positional: Any, **named: Any) -> Any:
        bound = signature.bind(*positional, **named)
        bound.apply_defaults()
        arguments = bound.arguments
        read = {
            name: [read_weights(each) for each in ([text] if isinstance(text, str) else text)]
            for name, text in arguments.items()
            if "prompt" in name and _is_text(text)
        }
        if not any(has_marks(text) for name in read for text in _texts(arguments[name])):
            return encode(*positional, **named)
        for name, prompts in read.items():
            texts = [plain(chunks) for chunks in prompts]
            arguments[name] = texts[0] if isinstance(arguments[name], str) else texts
        result = list(encode(*bound.args, **bound.kwargs))
        places = {"": 0} if is_flux else {"": 0, "negative_": 1}
        for prefix, place in places.items():
            if isinstance(result[place], torch.Tensor):
                for region in regions(result[place]):
                    encoded = _read(read, prefix, region.argument)
                    if encoded is not None:
                        read_by = _expanded(pipeline, region.tokenizer, encoded)
                        result[place] = _multiplied(result[place], region, read_by)
        if is_flux and "prompt" in read:
            result[1] = _pooled(pipeline, read["prompt"], result[1])
        return tuple(result)

    return weighed


def _is_text(text: Any) -> bool:
    return isinstance(text, str) or (
        isinstance(text, list) and bool(text) and all(isinstance(each, str) for each in text)
    )


def _texts(text: str | list[str]) -> list[str]:
    return [text] if isinstance(text, str) else text


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
    if all(weight == 1 for row in rows for weight in row):
        return embeddings
    weights = torch.tensor(rows, dtype=part.dtype, device=part.device)
    # The images of one prompt are adjacent in the batch.
    weights = weights.repeat_interleave(part.shape[0] // len(rows), dim=0).unsqueeze(-1)
    changed = part * weights
    if region.keeps_mean:
        mean = part.float().mean(dim=(1, 2), keepdim=True)
        new_mean = changed.float().mean(dim=(1, 2), keepdim=True)
        same = (weights == 1).all(dim=1, keepdim=True)
        factor = torch.where(same | (new_mean == 0), torch.ones_like(mean), mean / new_mean)
        changed = changed * factor.to(part.dtype)
    result = embeddings.clone()
    result[:, region.tokens, region.channels] = changed
    return result


def _weights(tokenizer: Any, chunks: tuple[Chunk, ...], length: int) -> list[float]:
    """Returns the weight of each token: that of its first non-space character."""
    text, weights = plain(chunks), weights_of_characters(chunks)
    spans = tokenizer(
        text,
        padding="max_length",
        max_length=length,
        truncation=True,
        return_offsets_mapping=True,
    )["offset_mapping"]
    found = []
    for begin, end in spans:
        inside = [at for at in range(begin, end) if not text[at].isspace()]
        found.append(weights[inside[0]] if inside else 1.0)
    return found


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
