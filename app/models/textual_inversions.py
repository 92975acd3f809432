"""Textual inversions: embeddings of a new word, and how their files name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from app.errors import WorkbenchError
from app.models.single_files import Shapes

USUAL = "learned_embeds.safetensors"
"""The name that diffusers gives, and looks for."""
OF_AUTOMATIC1111 = "emb_params"
"""The tensor's name in files of AUTOMATIC1111's web UI; the word is the file's name."""
OF_ENCODERS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
"""The tensors' names in files for Stable Diffusion XL, by its text encoders."""
MAX_LISTED = 4


class UnfitInversion(WorkbenchError):
    """The file is no textual inversion, or none for this model."""


class Inversion(NamedTuple):
    """What a file has."""

    file: str
    token: str
    """The word."""
    tensors: dict[str, tuple[int, ...]]
    """The shape of each tensor: one of any name, or those of OF_ENCODERS."""

    @property
    def is_for_two(self) -> bool:
        """True if it has the embeddings of Stable Diffusion XL's two encoders."""
        return set(self.tensors) == {*OF_ENCODERS.values()}

    @property
    def vectors(self) -> int:
        """Returns their number: that of the word's tokens."""
        return max(shape[0] if len(shape) > 1 else 1 for shape in self.tensors.values())


def inversion_of(file: str, tensors: Shapes, token: str | None) -> Inversion:
    """Returns what a file of this name has with these tensors; `token` replaces its own word.

    Raises UnfitInversion where they are not those of a textual inversion.
    """
    if len(tensors) != 1 and set(tensors) != {*OF_ENCODERS.values()}:
        named = ", ".join(f"'{name}'" for name in sorted(tensors)[:MAX_LISTED])
        more = ", …" if len(tensors) > MAX_LISTED else ""
        raise UnfitInversion(
            f"'{file}' is not a textual inversion: its tensors are {named}{more}."
            if tensors
            else f"'{file}' is not a textual inversion: it has no tensors.",
            hint=f"One has a tensor '{OF_AUTOMATIC1111}', or one of its word's name, or"
            f" {' and '.join(OF_ENCODERS.values())} for Stable Diffusion XL.",
        )
    shapes = {name: tuple(shape) for name, shape in tensors.items()}
    found = Inversion(file, token or _word_of(file, shapes), shapes)
    counts = {shape[0] if len(shape) > 1 else 1 for shape in shapes.values()}
    if any(len(shape) not in (1, 2) or 0 in shape for shape in shapes.values()) or len(counts) > 1:
        told = ", ".join(f"{name}: {list(shape)}" for name, shape in shapes.items())
        raise UnfitInversion(
            f"The tensors of '{file}' are not rows of embeddings, as those of a textual inversion"
            f" are ({told})."
        )
    return found


def _word_of(file: str, tensors: Shapes) -> str:
    (name, *others) = tensors
    if others or name == OF_AUTOMATIC1111:
        return file.rpartition("/")[2].rpartition(".")[0]
    return name


def tensors_by_encoder(inversion: Inversion, widths: Mapping[str, int]) -> dict[str, str]:
    """Returns the tensor for each of the model's text encoders, whose embeddings have these widths.

    Raises UnfitInversion where the file is not for such a model.
    """
    file, hint = inversion.file, "Take one that was made for a model of this family."
    if inversion.is_for_two and "text_encoder_2" not in widths:
        raise UnfitInversion(
            f"'{file}' has embeddings for the two text encoders of Stable Diffusion XL; this model"
            " has one.",
            hint=hint,
        )
    if len(widths) > 1 and not inversion.is_for_two:
        raise UnfitInversion(
            f"'{file}' has embeddings for one text encoder; this model has {len(widths)}, for which"
            f" a file has {' and '.join(OF_ENCODERS.values())}.",
            hint=hint,
        )
    (only, *_) = inversion.tensors
    found = {encoder: OF_ENCODERS[encoder] if inversion.is_for_two else only for encoder in widths}
    for encoder, tensor in found.items():
        width = inversion.tensors[tensor][-1]
        if width != widths[encoder]:
            raise UnfitInversion(
                f"'{file}' has embeddings of {width} numbers; the {encoder} of this model needs"
                f" {widths[encoder]}.",
                hint=hint,
            )
    return found
