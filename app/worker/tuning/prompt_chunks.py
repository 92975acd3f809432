"""Prompts of any length for CLIP: it reads them in chunks, as AUTOMATIC1111's web UI has it.

Each chunk is encoded on its own, between the marks of begin and end; the embeddings lie one after
the other along the token axis, and the pooled embedding is that of the first chunk. All prompts of
a call get as many chunks as the longest, with empty ones at the end.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from transformers import BatchEncoding

from app.dialect.weighting import read_weights, weights_of_characters

PLACES = {"": 0, "negative_": 1}
"""Where `encode_prompt` returns the embeddings of the prompt and of the negative one."""


class _Chunk(NamedTuple):
    """Tokens of one text, without the marks of begin and end."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


class ChunkReader:
    """A tokenizer for prompts with weights, in the place of a pipeline's own: it returns the chunk
    of `number` of each prompt, framed and padded."""

    def __init__(self, pipeline: Any, tokenizer: Any) -> None:
        # (Only of a step's textual inversions; diffusers' own would change nothing.)
        self._convert = vars(pipeline).get("maybe_convert_prompt")
        self._tokenizer = tokenizer
        self._size = int(tokenizer.model_max_length) - 2
        self._read: dict[str, list[_Chunk]] = {}
        self.number = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, prompts: str | list[str], **_options: Any) -> BatchEncoding:
        own = self._tokenizer
        rows, masks = [], []
        for prompt in texts_of(prompts):
            ids, padding = self._chunk(prompt).ids, self._padding(prompt)
            rows.append([own.bos_token_id, *ids, own.eos_token_id, *[own.pad_token_id] * padding])
            masks.append([1] * (len(ids) + 2) + [0] * padding)
        return BatchEncoding(
            {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(masks)}
        )

    def tokenize(self, _prompt: str) -> list[str]:
        """Returns nothing: here diffusers looks for words of several tokens, which are replaced
        already."""
        return []

    def weights(self, prompt: str) -> list[float]:
        """Returns the weight of each token of the chunk, its marks and its padding."""
        return [1.0, *self._chunk(prompt).weights, 1.0, *[1.0] * self._padding(prompt)]

    def count(self, prompt: str) -> int:
        """Returns how many chunks the prompt has: one or more."""
        return len(self._chunks(prompt))

    def _padding(self, prompt: str) -> int:
        return self._size - len(self._chunk(prompt).ids)

    def _chunk(self, prompt: str) -> _Chunk:
        chunks = self._chunks(prompt)
        return chunks[self.number] if self.number < len(chunks) else _Chunk((), ())

    def _chunks(self, prompt: str) -> list[_Chunk]:
        if prompt not in self._read:
            self._read[prompt] = [*self._split(prompt)]
        return self._read[prompt]

    def _split(self, prompt: str) -> Iterator[_Chunk]:
        for chunk in read_weights(prompt):
            if self._convert is not None:
                # A textual inversion's word may become several.
                chunk = tuple(
                    piece._replace(text=self._convert(piece.text, self._tokenizer))
                    for piece in chunk
                )
            text = "".join(piece.text for piece in chunk)
            read = self._tokenizer(
                text,
                add_special_tokens=False,
                truncation=False,
                verbose=False,
                return_offsets_mapping=True,
            )
            weights = weights_of_tokens(
                text, weights_of_characters((chunk,)), read["offset_mapping"]
            )
            ids = read["input_ids"]
            for begin in range(0, len(ids) or 1, self._size):
                part = slice(begin, begin + self._size)
                yield _Chunk(tuple(ids[part]), tuple(weights[part]))


def in_chunks(pipeline: Any, encode: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the `encode_prompt` of a pipeline with one or two CLIP encoders for prompts with
    weights, of any length. Beside embeddings that are given, a prompt has one chunk."""
    signature = inspect.signature(encode)

    @functools.wraps(encode)
    def encoded(*positional: Any, **named: Any) -> Any:
        bound = signature.bind(*positional, **named)
        bound.apply_defaults()
        given = any(isinstance(value, torch.Tensor) for value in bound.arguments.values())
        guided = bound.arguments.get("do_classifier_free_guidance", True)
        prompts = {
            name: texts_of(value)
            for name, value in bound.arguments.items()
            if "prompt" in name and is_text(value) and (guided or not name.startswith("negative_"))
        }
        readers = {
            name: ChunkReader(pipeline, tokenizer)
            for name in ("tokenizer", "tokenizer_2")
            if (tokenizer := getattr(pipeline, name, None)) is not None
        }
        counts = [
            reader.count(text)
            for reader in readers.values()
            for listed in prompts.values()
            for text in listed
        ]
        made = []
        with _in_place(pipeline, readers):
            for number in range(1 if given else max(counts, default=1)):
                for reader in readers.values():
                    reader.number = number
                result = encode(*positional, **named)
                made.append(_weighted(pipeline, result, [*readers.values()], prompts))
        return tuple(
            torch.cat(parts, dim=1)
            if torch.is_tensor(parts[0]) and parts[0].ndim == 3
            else parts[0]
            for parts in zip(*made, strict=True)
        )

    return encoded


@contextlib.contextmanager
def _in_place(pipeline: Any, replaced: dict[str, Any]) -> Iterator[None]:
    own = {name: vars(pipeline)[name] for name in replaced}
    # (Not by assignment, which registers a component.)
    vars(pipeline).update(replaced)
    try:
        yield
    finally:
        vars(pipeline).update(own)


def _weighted(
    pipeline: Any, result: Any, readers: Sequence[ChunkReader], prompts: dict[str, list[str]]
) -> list[Any]:
    """Returns the embeddings of one chunk with its weights."""
    changed = list(result)
    encoders = [getattr(pipeline, name, None) for name in ("text_encoder", "text_encoder_2")]
    widths = [int(encoder.config.hidden_size) for encoder in encoders if encoder is not None]
    for prefix, place in PLACES.items():
        first = prompts.get(f"{prefix}prompt")
        if first is None or not torch.is_tensor(changed[place]):
            continue
        for number, reader in enumerate(readers):
            own = prompts.get(f"{prefix}prompt_2") if number else None
            begin = sum(widths[:number])
            channels = slice(begin, begin + widths[number])
            rows = [reader.weights(text) for text in own or first]
            part = changed[place][..., channels]
            if (weighted := multiplied(part, rows, keeps_mean=True)) is not part:
                changed[place] = changed[place].clone()
                changed[place][..., channels] = weighted
    return changed


def multiplied(
    embeddings: torch.Tensor, rows: Sequence[Sequence[float]], *, keeps_mean: bool
) -> torch.Tensor:
    """Returns the embeddings times each prompt's weights of tokens; the same ones if all are 1."""
    if all(weight == 1 for row in rows for weight in row):
        return embeddings
    weights = torch.tensor(rows, dtype=embeddings.dtype, device=embeddings.device)
    # The images of one prompt are adjacent in the batch.
    weights = weights.repeat_interleave(embeddings.shape[0] // len(rows), dim=0).unsqueeze(-1)
    changed = embeddings * weights
    if keeps_mean:
        mean = embeddings.float().mean(dim=(1, 2), keepdim=True)
        new_mean = changed.float().mean(dim=(1, 2), keepdim=True)
        same = (weights == 1).all(dim=1, keepdim=True)
        factor = torch.where(same | (new_mean == 0), torch.ones_like(mean), mean / new_mean)
        changed = changed * factor.to(embeddings.dtype)
    return changed


def weights_of_tokens(
    text: str, weights: Sequence[float], spans: Sequence[tuple[int, int]]
) -> list[float]:
    """Returns the weight of each token: that of its first non-space character, or 1."""
    found = []
    for begin, end in spans:
        inside = [at for at in range(begin, end) if not text[at].isspace()]
        found.append(weights[inside[0]] if inside else 1.0)
    return found


def is_text(value: Any) -> bool:
    """Returns True for a prompt or a list of prompts."""
    return isinstance(value, str) or (
        isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in value)
    )


def texts_of(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
