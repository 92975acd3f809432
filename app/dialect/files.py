"""File names in documents and inputs, and JSON files of models."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Container
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from app.stamps import FileStamp, stamp_of

MAX_PATH_BYTES = 4000
MAX_NAME_BYTES = 255
GGUF_SUFFIX = ".gguf"
SAFE_SUFFIXES = {".safetensors", GGUF_SUFFIX}
PICKLE_SUFFIXES = {".ckpt", ".bin", ".pt", ".pth"}
"""Suffixes of weight files that hold no code, and of those that may."""


Format = Literal["safetensors", "GGUF", "pickle"]
FORMATS: dict[str, Format] = {
    ".safetensors": "safetensors", GGUF_SUFFIX: "GGUF", **dict.fromkeys(PICKLE_SUFFIXES, "pickle"),
}  # fmt: skip
"""Formats of weight files by their usual suffixes."""
PICKLES = (b"PK\x03\x04", b"\x80")
"""Beginnings of torch's archives and of bare pickles."""
SHOWN_BYTES = 24
HEADER_LENGTH_BYTES = 8
"""At the beginning of a safetensors file, the length of its header."""


def format_of(file: Path) -> Format | None:
    """Returns the format of a weight file by its content; None if it is none. Raises OSError."""
    with file.open("rb") as opened:
        head = opened.read(HEADER_LENGTH_BYTES + 1)
    # First: a length may begin as a pickle does.
    length = int.from_bytes(head[:HEADER_LENGTH_BYTES], "little")
    fits = 0 < length <= file.stat().st_size - HEADER_LENGTH_BYTES
    if fits and head[HEADER_LENGTH_BYTES:] == b"{":
        return "safetensors"
    if head.startswith(b"GGUF"):
        return "GGUF"
    return "pickle" if head.startswith(PICKLES) else None


def beginning_of(file: Path) -> str:
    """Returns how the file begins, as the end of a sentence: `begins with '<!DOCTYPE html>'`.
    Raises OSError."""
    with file.open("rb") as opened:
        head = opened.read(SHOWN_BYTES)
    if not head:
        return "is empty"
    text = head.decode("utf-8", "replace")
    shown = "".join(each if each.isprintable() else "." for each in text)
    return f"begins with '{shown}'"


def can_be_path(path: str | Path) -> bool:
    """Returns True if a file could have this path; the system raises for others."""
    text = str(path)
    return (
        "\0" not in text
        and len(os.fsencode(text)) <= MAX_PATH_BYTES
        and all(len(os.fsencode(part)) <= MAX_NAME_BYTES for part in Path(text).parts)
    )


def is_plain(name: str) -> bool:
    """Returns True if the name can only lead below a folder, and to no hidden file."""
    return (
        name.isprintable()
        and "\\" not in name
        and ":" not in name
        and can_be_path(name)
        and all(
            part and part == part.strip() and not part.startswith(".") for part in name.split("/")
        )
    )


def path_from(folder: Path, named: str) -> Path:
    """Returns the path that a document in this folder names; a backslash separates folders, as on
    Windows, where no file has one in its name."""
    path = folder / named
    return path if "\\" not in named or path.exists() else folder / named.replace("\\", "/")


def safe_name(name: str, files: Container[str], *, allow_pickles: bool = False) -> str | None:
    """Returns which of these files is read for this name; None where none may be.

    For a file that may hold code: the safetensors file of the same name beside it.
    """
    path = PurePosixPath(name)
    if path.suffix.lower() in SAFE_SUFFIXES:
        return name
    if path.suffix.lower() not in PICKLE_SUFFIXES:
        return None
    beside = str(path.with_suffix(".safetensors"))
    if beside in files:
        return beside
    return name if allow_pickles else None


def config_of(folder: Path) -> dict[str, Any]:
    """Returns a component's `config.json`; empty where it is missing or unreadable, which its load
    reports. Must not be changed."""
    try:
        return read_object(folder / "config.json")
    except (ValueError, OSError):
        return {}


def read_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a model's file, which must not be changed.

    Raises ValueError for anything else, OSError where it cannot be read.
    """
    return _read_object(path, stamp_of(path))


@functools.lru_cache(maxsize=256)
def _read_object(path: Path, _stamp: FileStamp) -> dict[str, Any]:
    return object_in(path.read_bytes())


def object_in(data: bytes) -> dict[str, Any]:
    """Returns the JSON object in these bytes. Raises ValueError for anything else."""
    try:
        found = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("it is not an object")
    return found
