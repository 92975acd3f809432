"""Hashes that identify a workflow's documents, a request, and a model's files."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from app.dialect.files import HEADER_LENGTH_BYTES, object_in
from app.dialect.plan_settings import ComponentChanges, DType, StorageDType
from app.frozen import Frozen
from app.stamps import FileStamp, stamp_of

DTYPE_BYTES: dict[StorageDType, int] = {
    "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1,
}  # fmt: skip
FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
"""The types of safetensors that a load converts, with their bytes per number."""
METADATA = "__metadata__"
MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""
WEIGHTS = ".safetensors"
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft", "pillow", "numpy")
EXTRAS = ("bitsandbytes", "torchao", "gguf", "sdnq", "optimum-quanto", "cache-dit")
VARIANT_IN_NAME = re.compile(r"^[^.]+\.(?P<variant>[\w-]+?)(-\d+-of-\d+)?\.safetensors$")


class FileIdentity(Frozen):
    """Identifies one version of a file without reading it."""

    name: str
    content: str
    """The blob's hash for a file of the hub's cache; else its path and stamp."""


def workflow_hash(documents: Iterable[bytes]) -> str:
    """Returns the SHA-256 (hex) of a workflow: its own file, then those of its sub-workflows in
    order.

    Each file's length is hashed before its bytes, so that text moved from one file to the next
    changes the hash.
    """
    digest = hashlib.sha256()
    for content in documents:
        digest.update(len(content).to_bytes(8, "big"))
        digest.update(content)
    return digest.hexdigest()


@functools.cache
def library_versions() -> dict[str, str]:
    """Returns the versions of the libraries a result depends on, by name."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


@functools.cache
def computing_versions() -> dict[str, str]:
    """Returns `library_versions` with those of the installed quantisers and caches."""
    found = library_versions()
    for name in EXTRAS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found = {**found, name: importlib.metadata.version(name)}
    return found


def identify_files(folder: Path, variant: str | None) -> tuple[FileIdentity, ...]:
    """Returns the identities of the files in this folder that a load with this variant may read."""
    with os.scandir(os.path.realpath(folder)) as entries:
        files = {entry.name: entry for entry in entries if entry.is_file()}
    read = {*of_variant((name for name in files if name.endswith(WEIGHTS)), variant)}
    return tuple(
        identity_of(files[name])
        for name in sorted(files)
        if name in read or not name.endswith(WEIGHTS)
    )


_note: ContextVar[Callable[[Path], None] | None] = ContextVar("note", default=None)


@contextlib.contextmanager
def noting_files(note: Callable[[Path], None]) -> Iterator[None]:
    """Calls `note` with every file identified inside the block, before it is."""
    before = _note.set(note)
    try:
        yield
    finally:
        _note.reset(before)


def identify_file(path: Path) -> FileIdentity:
    """Returns the identity of one file, without reading it."""
    return _identity(path, path.resolve())


def identity_of(file: os.DirEntry[str]) -> FileIdentity:
    """Returns the identity of a file in a folder whose own path is resolved."""
    path = Path(file.path)
    return _identity(path, path.resolve() if file.is_symlink() else path)


def _identity(path: Path, real: Path) -> FileIdentity:
    if (note := _note.get()) is not None:
        note(real)
    if real.parent.name == "blobs" and path.is_symlink():
        return FileIdentity(name=path.name, content=real.name)
    return FileIdentity(name=path.name, content=":".join(map(str, (real, *stamp_of(real)))))


def weight_files(folder: Path, variant: str | None) -> tuple[Path, ...]:
    """Returns the safetensors files a load with this variant reads.

    Files of the variant where there are any, else those without one, as in diffusers.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(WEIGHTS)]
    except OSError:
        return ()
    return tuple(folder / name for name in of_variant(names, variant))


def of_variant(names: Iterable[str], variant: str | None) -> list[str]:
    """Returns the weight files of one folder that a load with this variant reads, sorted."""
    by_variant: dict[str | None, list[str]] = {}
    for name in sorted(names):
        by_variant.setdefault(variant_in(name), []).append(name)
    return by_variant.get(variant) or by_variant.get(None) or []


def variant_in(name: str) -> str | None:
    """Returns the variant in the name of a weight file (`fp16`); None for one without."""
    match = VARIANT_IN_NAME.match(name)
    return match["variant"] if match else None


def variants_of(names: Iterable[str]) -> set[str | None]:
    """Returns the variants of the weight files among the files of one folder."""
    return {variant_in(name) for name in names if name.endswith(WEIGHTS)}


def weight_bytes(
    folder: Path,
    variant: str | None,
    dtype: DType | None = None,
    changes: ComponentChanges | None = None,
) -> int:
    """Returns the bytes of the tensors in the component's weight files, from their headers; see
    `tensor_bytes`.

    An upper bound after changes: removed layers count where files have other names for them. Raises
    ValueError where a file is not a safetensors file, OSError where it cannot be read.
    """
    files = weight_files(folder, variant)
    if changes is None:
        return sum(tensor_bytes(path, dtype) for path in files)
    stored = dtype if changes.casting is None else changes.casting.storage_dtype
    return sum(
        _loaded_bytes(entry["dtype"], entry["data_offsets"][1] - entry["data_offsets"][0], stored)
        for path in files
        for name, entry in read_header(path).tensors.items()
        if not changes.leaves_out(name)
    )


def tensor_bytes(path: Path, dtype: DType | None = None) -> int:
    """Returns the bytes of all tensors of one safetensors file: as stored, or loaded in this dtype.

    A load converts floats and leaves the others. Raises ValueError for another kind of file.
    """
    stored = _bytes_by_type(path, stamp_of(path))
    return sum(_loaded_bytes(name, count, dtype) for name, count in stored.items())


def _loaded_bytes(type_name: str, count: int, dtype: StorageDType | None) -> int:
    if dtype is None or type_name not in FLOAT_BYTES:
        return count
    return count * DTYPE_BYTES[dtype] // FLOAT_BYTES[type_name]


@functools.lru_cache(maxsize=512)
def _bytes_by_type(path: Path, _stamp: FileStamp) -> dict[str, int]:
    """Returns bytes by the types' names in the format (`F16`); read again when the file has
    changed."""
    found: dict[str, int] = {}
    for entry in read_header(path).tensors.values():
        begin, end = entry["data_offsets"]
        found[entry["dtype"]] = found.get(entry["dtype"], 0) + end - begin
    return found


def tensor_places(path: Path) -> dict[str, tuple[int, int]]:
    """Returns where each tensor of a safetensors file begins and ends, in bytes from its start.

    Reads only the header. Raises ValueError for another kind of file.
    """
    start, header, _ = read_header(path)
    offsets = {name: entry["data_offsets"] for name, entry in header.items()}
    return {name: (start + begin, start + end) for name, (begin, end) in offsets.items()}


def tensor_shapes(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Returns type (`F16`) and shape of each tensor of a safetensors file, by name.

    Reads only the header. Raises ValueError for another kind of file.
    """
    header = read_header(path).tensors
    return {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}


class Header(NamedTuple):
    """The header of a safetensors file."""

    start: int
    """Offset of the first tensor, in bytes from the file's start."""
    tensors: dict[str, dict[str, Any]]
    """`dtype`, `shape` and `data_offsets` of each tensor."""
    metadata: dict[str, str]
    """What its author wrote about it: any text."""


def read_header(path: Path) -> Header:
    """Returns the header of a safetensors file, and reads no more of it.

    Raises ValueError for another kind of file, OSError where it cannot be read.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(HEADER_LENGTH_BYTES), "little")
        if not 0 < length <= path.stat().st_size - HEADER_LENGTH_BYTES:
            raise ValueError(f"'{path.name}' is not a safetensors file")
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"the header of '{path.name}' has {length} bytes")
        try:
            header = object_in(file.read(length))
        except ValueError as error:
            raise ValueError(f"the header of '{path.name}' cannot be read: {error}") from error
    metadata = header.pop(METADATA, None)
    for name, entry in header.items():
        if not _is_tensor(entry):
            raise ValueError(
                f"the header of '{path.name}' has no dtype, shape and place of '{name}'"
            )
    texts = metadata.items() if isinstance(metadata, dict) else ()
    told = {key: text for key, text in texts if isinstance(text, str)}
    return Header(HEADER_LENGTH_BYTES + length, header, told)


def missing_end(path: Path) -> str:
    """Returns how much of a safetensors file is here, as the end of a sentence, where its end is
    missing: `is cut off: 10 of 20 bytes are here`; else "".

    Raises what `read_header` raises.
    """
    return _missing_end(path, stamp_of(path))


# Planning asks for it at each request.
@functools.lru_cache(maxsize=512)
def _missing_end(path: Path, stamp: FileStamp) -> str:
    header, here = read_header(path), stamp.size_bytes
    ends = (entry["data_offsets"][1] for entry in header.tensors.values())
    end = header.start + max(ends, default=0)
    return f"is cut off: {here:,} of {end:,} bytes are here" if here < end else ""


def _is_tensor(entry: Any) -> bool:
    """Returns True for a valid tensor entry of a safetensors header."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not _are_counts(shape) or not _are_counts(offsets):
        return False
    return len(offsets) == 2 and offsets[0] <= offsets[1]


def _are_counts(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
