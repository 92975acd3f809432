"""Textual inversions in a step's pipeline, while it is called.

The words are added to copies of the tokenizers. Each text encoder's embeddings are inside a wrapper
that has those of the words; its own matrix is neither enlarged nor written.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from diffusers.loaders import TextualInversionLoaderMixin
from safetensors import SafetensorError
from safetensors.torch import load_file

from app.dialect.files import format_of
from app.dialect.plan import PipelineStep
from app.errors import LoadError, first_line
from app.models.textual_inversions import (
    OF_AUTOMATIC1111,
    OF_ENCODERS,
    Inversion,
    UnfitInversion,
    inversion_of,
    tensors_by_encoder,
)
from app.worker.loading.parts import Parts

log = logging.getLogger(__name__)

PICKLED = "string_to_param"
"""Key of AUTOMATIC1111's pickles for their tensors; it has one, of the name `*`."""


class _Loaded(NamedTuple):
    inversion: Inversion
    tensors: Mapping[str, torch.Tensor]

    @property
    def words(self) -> list[str]:
        """Returns a word for each vector, named as diffusers names them."""
        token = self.inversion.token
        return [token, *(f"{token}_{number}" for number in range(1, self.inversion.vectors))]


@contextlib.contextmanager
def using_textual_inversions(
    pipeline: Any, step: PipelineStep, parts: Parts
) -> Iterator[tuple[str, ...]]:
    """Has the step's textual inversions in the pipeline inside, and returns their words. Raises
    LoadError.

    Enter before offload is set up.
    """
    if not step.textual_inversions:
        yield ()
        return
    encoders = _encoders(pipeline)
    if not encoders or not isinstance(pipeline, TextualInversionLoaderMixin):
        raise LoadError(
            f"{type(pipeline).__name__} takes no textual inversion.",
            hint=f"Remove 'textual_inversions' from {step.place}.pipeline.",
        )
    widths = {
        name: int(encoder.get_input_embeddings().weight.shape[-1])
        for name, encoder in encoders.items()
    }
    loaded: list[_Loaded] = []
    chosen: list[dict[str, str]] = []
    for source, spec in zip(step.textual_inversions, parts.textual_inversions, strict=True):
        assert spec.file is not None
        log.info("Loading textual inversion: %s", spec.file.name)
        try:
            tensors = _read(spec.file)
            shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            inversion = inversion_of(spec.file.name, shapes, source.token)
            chosen.append(tensors_by_encoder(inversion, widths))
        except UnfitInversion as error:
            raise LoadError(f"Step '{step.name}': {error.message}", hint=error.hint) from error
        loaded.append(_Loaded(inversion, tensors))
    tokenizers = []
    with contextlib.ExitStack() as given_back:
        for name, encoder in encoders.items():
            at = name.replace("text_encoder", "tokenizer")
            held = getattr(pipeline, at)
            tokenizer = _with_words(held, [word for each in loaded for word in each.words])
            vectors = [
                each.tensors[tensors[name]].reshape(-1, widths[name])
                for each, tensors in zip(loaded, chosen, strict=True)
            ]
            given_back.enter_context(_embedding(encoder, len(held), torch.cat(vectors)))
            setattr(pipeline, at, tokenizer)
            tokenizers.append(tokenizer)
        pipeline.maybe_convert_prompt = _expanding(loaded, tokenizers)
        yield tuple(each.inversion.token for each in loaded)


def _encoders(pipeline: Any) -> dict[str, Any]:
    """Returns the pipeline's CLIP text encoders that have a tokenizer, by name."""
    found = {name: getattr(pipeline, name, None) for name in OF_ENCODERS}
    return {
        name: encoder
        for name, encoder in found.items()
        if type(encoder).__name__.startswith("CLIPText")
        and getattr(pipeline, name.replace("text_encoder", "tokenizer"), None) is not None
    }


def _read(file: Path) -> dict[str, torch.Tensor]:
    """Returns the file's tensors, under the names of a safetensors file. Raises LoadError."""
    try:
        if format_of(file) != "pickle":
            return load_file(file)
        # (Reads tensors and plain values only: it runs no code.)
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, UnpicklingError) as error:
        raise LoadError(
            f"The textual inversion '{file.name}' cannot be read.",
            hint=f"{type(error).__name__}: {first_line(error)}",
        ) from error
    if PICKLED in found:
        found = {OF_AUTOMATIC1111: next(iter(found[PICKLED].values()))}
    return {name: value.detach() for name, value in found.items() if torch.is_tensor(value)}


def _with_words(held: Any, words: Sequence[str]) -> Any:
    """Returns a copy of the tokenizer that knows these words too. Raises LoadError."""
    known = held.get_vocab()
    for index, word in enumerate(words):
        if word in known or word in words[:index]:
            raise LoadError(
                f"The textual inversion's word '{word}' is one that the model knows already.",
                hint="Give it another name with 'token'.",
            )
    tokenizer = copy.deepcopy(held)
    tokenizer.add_tokens(list(words))
    return tokenizer


class _Embeddings(torch.nn.Module):
    """A text encoder's embeddings, and those of further words."""

    def __init__(self, own: torch.nn.Module, first: int, vectors: torch.Tensor) -> None:
        super().__init__()
        self.own = own
        # (A module of its own: offload moves the weights of modules without others inside.)
        self.words = torch.nn.Embedding(
            len(vectors), vectors.shape[1], _weight=vectors, _freeze=True
        )
        self._first = first
        """Id of the first of these words; they are in order."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        is_word = ids >= self._first
        found: torch.Tensor = self.own(ids.masked_fill(is_word, 0))
        words = self.words((ids - self._first).clamp(min=0))
        return torch.where(is_word.unsqueeze(-1), words.to(found.dtype), found)


@contextlib.contextmanager
def _embedding(encoder: Any, first: int, vectors: torch.Tensor) -> Iterator[None]:
    """Has the encoder embed the words from this id on as these vectors inside."""
    own = encoder.get_input_embeddings()
    parent, attribute = next(
        (module, name)
        for module in encoder.modules()
        for name, child in module._modules.items()
        if child is own
    )
    vectors = vectors.to(own.weight.device)
    parent._modules[attribute] = _Embeddings(own, first, vectors)
    try:
        yield
    finally:
        parent._modules[attribute] = own


def _expanding(loaded: Sequence[_Loaded], tokenizers: Sequence[Any]) -> Any:
    """Returns diffusers' `maybe_convert_prompt` for these inversions: it replaces a word of several
    vectors by their words. diffusers' own misses a word that is written with capitals, although
    the tokenizer knows it."""
    several = {each.inversion.token.lower(): each.words for each in loaded if len(each.words) > 1}
    longest_first = sorted(several, key=len, reverse=True)
    named = "|".join(map(re.escape, longest_first)) or r"(?!)"
    pattern = re.compile(rf"(?:{named})(?!_\d)", re.IGNORECASE)

    def expanded(prompt: str | list[str], tokenizer: Any) -> str | list[str]:
        if not any(tokenizer is each for each in tokenizers):
            return prompt
        if isinstance(prompt, list):
            return [str(expanded(each, tokenizer)) for each in prompt]
        return pattern.sub(lambda found: " ".join(several[found[0].lower()]), prompt)

    return expanded
