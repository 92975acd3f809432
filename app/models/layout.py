"""Reads ComfyUI's `extra_model_paths.yaml`, which says where models of each kind lie."""

from __future__ import annotations

import difflib
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.dialect.model_kinds import NAMES, Kind
from app.errors import BadRequest, first_line
from app.mistakes import shown
from app.stamps import FileStamp, stamp_of

BASE, DEFAULT = "base_path", "is_default"
COMMENT = " #"
"""Begins a comment in a line of several, as ComfyUI's own example has it."""
ALIKE = 0.85
"""How alike a key and a kind's name are, from 0 to 1, for the key to be a typing error."""
MAX_BYTES = 1_000_000


def layout_folders(file: Path) -> tuple[tuple[Kind, Path], ...]:
    """Returns the folders of this file that exist, with their kinds, in its order.

    Kinds that are not used here are left out. Raises BadRequest for a file that is not understood.
    """
    try:
        return _folders(file.resolve(), stamp_of(file))
    except OSError as error:
        raise BadRequest(f"The layout '{file}' cannot be read: {error.strerror}.") from error


@functools.lru_cache(maxsize=8)
def _folders(file: Path, stamp: FileStamp) -> tuple[tuple[Kind, Path], ...]:
    if stamp.size_bytes > MAX_BYTES:
        raise _refused(file, f"it has {stamp.size_bytes} bytes, {MAX_BYTES} at most")
    sections = _read(file)
    if not isinstance(sections, dict):
        raise _refused(file, f"it holds {shown(sections)} instead of sections")
    found = [
        each for name, section in sections.items() for each in _of_section(file, name, section)
    ]
    return tuple((kind, path) for kind, path in found if path.is_dir())


def _read(file: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(file.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        why = getattr(error, "problem", None) or first_line(error)
        raise _refused(file, f"{where}{why}") from error


def _of_section(file: Path, name: Any, section: Any) -> Iterator[tuple[Kind, Path]]:
    if section is None:
        return
    if not isinstance(section, dict):
        raise _refused(file, f"section '{name}' holds {shown(section)} instead of folders by kind")
    base = _base(file, name, section.get(BASE))
    for key, value in section.items():
        if key in (BASE, DEFAULT):
            continue
        kind = NAMES.get(str(key).lower())
        if kind is None:
            close = difflib.get_close_matches(str(key).lower(), NAMES, n=1, cutoff=ALIKE)
            if close:
                raise _refused(
                    file, f"'{key}' of section '{name}' is no kind", f"Did you mean '{close[0]}'?"
                )
            continue
        if not isinstance(value, str):
            raise _refused(
                file,
                f"'{key}' of section '{name}' is {shown(value)}, not a folder or lines of them",
            )
        for line in value.splitlines():
            if named := line.partition(COMMENT)[0].strip():
                yield kind, base / Path(named).expanduser()


def _base(file: Path, name: Any, given: Any) -> Path:
    """Returns the folder from which a section's folders are named: the layout's own without one."""
    if given is None:
        return file.parent
    if not isinstance(given, str):
        raise _refused(file, f"'{BASE}' of section '{name}' is {shown(given)}, not a folder")
    base = file.parent / Path(os.path.expandvars(given.strip())).expanduser()
    if not base.is_dir():
        raise _refused(file, f"'{BASE}' of section '{name}' names no folder: '{base}'")
    return base


def _refused(file: Path, why: str, hint: str = "") -> BadRequest:
    return BadRequest(f"The layout '{file.name}' is not understood: {why}.", hint=hint)
