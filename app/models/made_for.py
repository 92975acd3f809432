"""Compares the family of models that a LoRA or a ControlNet was made for with a denoiser's.

What decides is the width of the texts that both attend to: in layers of another width neither
works.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from app.dialect.files import config_of, format_of
from app.errors import WorkbenchError
from app.models.base_family import BY_WIDTH, attended_widths, base_family
from app.models.single_files import Shapes, file_shapes
from app.stamps import FileStamp, stamp_of


class Unfit(WorkbenchError):
    """It was made for another family."""


class MadeFor(NamedTuple):
    """What a file of weights, or a component's folder, attends to."""

    name: str
    family: str
    """"" if unknown."""
    widths: frozenset[int]
    """Of the texts; empty if unknown."""


def of_shapes(name: str, shapes: Shapes, *, is_lora: bool = False) -> MadeFor:
    """Returns what a file of this name with these tensors attends to."""
    return MadeFor(name, base_family(shapes, is_lora=is_lora), attended_widths(shapes))


def of_file(file: Path) -> MadeFor:
    """Returns what this file attends to; nothing for a pickle, which is not opened here, and for a
    file that cannot be read, which its load reports."""
    try:
        return _of_file(file, stamp_of(file))
    except (OSError, ValueError):
        return MadeFor(file.name, "", frozenset())


@functools.lru_cache(maxsize=64)
def _of_file(file: Path, _stamp: FileStamp) -> MadeFor:
    is_safetensors = format_of(file) == "safetensors"
    return of_shapes(file.name, file_shapes(file, _unread) if is_safetensors else {})


def of_folder(name: str, folder: Path) -> MadeFor:
    """Returns what the component with this folder's configuration attends to."""
    width = _width(config_of(folder))
    return MadeFor(name, BY_WIDTH.get(width, ""), frozenset({width} - {0}))


def _width(config: Mapping[str, Any]) -> int:
    width = config.get("cross_attention_dim")
    return width if isinstance(width, int) else 0


def _unread(file: Path) -> Shapes:
    raise ValueError(f"'{file.name}' may hold code")


def check_made_for(kind: str, given: MadeFor, denoiser: MadeFor) -> None:
    """Raises Unfit for a LoRA or a ControlNet (`kind`) that is not for this denoiser."""
    if not given.widths or not denoiser.widths or given.widths & denoiser.widths:
        return
    alike = given.family.startswith(denoiser.family) or denoiser.family.startswith(given.family)
    if not alike:
        raise Unfit(
            f"The {kind} '{given.name}' was made for {given.family}, but the family of"
            f" '{denoiser.name}' is {denoiser.family}.",
            hint=f"Take one that was made for {denoiser.family}.",
        )
    one, other = (", ".join(map(str, sorted(each.widths))) for each in (given, denoiser))
    raise Unfit(
        f"The {kind} '{given.name}' was made for models whose texts have {one} numbers for each"
        f" token; those of '{denoiser.name}' have {other}.",
        hint="Take one that was made for this model's family.",
    )
