"""Finds the tensors of a live module in its files, and restores them from there.

A library's `from_pretrained` maps weights that have the wanted dtype into memory and makes the
mapped tensors the module's parameters, under names it converts for each class. These conversions
need not be known here: a mapped tensor is found by its address. Afterwards the weights can leave
the module (`strip_weights`) and come back (`fill_weights`) without the library: no module is
constructed, nothing is converted, and nothing is read before it is used. benchmarks/loading.py
measures that this is as fast as copying the files from the page cache.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open

from app.dialect.fingerprint import FileIdentity, identify_file, tensor_places

ORIGINS_ARE_KNOWN = sys.platform == "linux"
"""Only Linux reports the addresses of mapped files; elsewhere the library does every load."""
PRIVATE_SHARE = 0.001
"""Maximum share of a module's weights that is in no file; it stays in the shell."""


class FileTensor(NamedTuple):
    """One tensor of a safetensors file, with the dtype and shape in which a module uses it."""

    path: Path
    name: str
    dtype: torch.dtype
    shape: torch.Size


class Origin(NamedTuple):
    """The places in files of one module's state."""

    names: frozenset[str]
    """All names of the module's state dict."""
    tensors: Mapping[str, FileTensor]
    """Tensors that are in files, by name in the state dict."""
    files: Mapping[Path, FileIdentity]
    size_bytes: int
    """Bytes in files."""
    private_bytes: int
    """Bytes of the state that are in no file."""

    @property
    def is_whole(self) -> bool:
        """True if the files hold practically all of the module's weights."""
        return self.private_bytes <= PRIVATE_SHARE * (self.size_bytes + self.private_bytes)

    @property
    def is_unchanged(self) -> bool:
        """True if the files still exist unchanged."""
        try:
            return all(identify_file(path) == it for path, it in self.files.items())
        except OSError:
            return False

    def moved_to(self, folder: Path) -> Origin:
        """Returns the origin after its files were moved into another folder."""
        return self._replace(
            tensors={
                name: t._replace(path=folder / t.path.name) for name, t in self.tensors.items()
            },
            files={folder / p.name: identify_file(folder / p.name) for p in self.files},
        )


def find_origin(module: torch.nn.Module, files: Iterable[Path]) -> Origin:
    """Returns where the tensors of a newly loaded module are in these safetensors files."""
    mapped = _mapped(files)
    paths = {path for *_, path in mapped}
    begins = {
        (path, begin): (name, end - begin)
        for path in paths
        for name, (begin, end) in tensor_places(path).items()
    }
    state = module.state_dict(keep_vars=True)
    found: dict[str, FileTensor] = {}
    sizes_bytes: dict[int, int] = {}
    private_bytes: dict[int, int] = {}
    for name, tensor in state.items():
        address = tensor.data_ptr()
        place = next(
            ((p, address - start + at) for start, end, at, p in mapped if start <= address < end),
            None,
        )
        inside, size_bytes = begins.get(place, ("", -1)) if place else ("", -1)
        if place and size_bytes == tensor.nbytes and tensor.is_contiguous():
            found[name] = FileTensor(place[0], inside, tensor.dtype, tensor.shape)
            sizes_bytes[address] = size_bytes
        else:
            private_bytes[address] = tensor.nbytes
    return Origin(
        frozenset(state),
        found,
        {path: identify_file(path) for path in paths},
        sum(sizes_bytes.values()),
        sum(private_bytes.values()),
    )


def strip_weights(module: torch.nn.Module, origin: Origin) -> None:
    """Removes the weights that are in files from the module, which leaves its shell, in RAM.

    The shell has the modules, ties between parameters, non-persistent buffers (positions, rotary
    tables), and the part of the state that is in no file.
    """

    def emptied(name: str, held: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(held, device="meta") if name in origin.tensors else held.to("cpu")

    _replace(module, emptied)


def fill_weights(module: torch.nn.Module, origin: Origin) -> None:
    """Maps the files' pages as the module's weights, in RAM.

    Previous weights (none, copies, or on an accelerator) are released, not copied.
    """
    opened: dict[FileTensor, torch.Tensor] = {}
    with contextlib.ExitStack() as open_files:
        files = {
            path: open_files.enter_context(safe_open(path, framework="pt")) for path in origin.files
        }
        for tensor in set(origin.tensors.values()):
            data = files[tensor.path].get_tensor(tensor.name)
            opened[tensor] = data.view(tensor.dtype).view(tensor.shape)

    def from_file(name: str, held: torch.Tensor) -> torch.Tensor:
        tensor = origin.tensors.get(name)
        return held.to("cpu") if tensor is None else opened[tensor]

    _replace(module, from_file)


def _replace(
    module: torch.nn.Module, replacement: Callable[[str, torch.Tensor], torch.Tensor]
) -> None:
    """Replaces the tensors of the module's state; keeps ties between parameters."""
    owners = dict(module.named_modules(remove_duplicate=False))
    state = module.state_dict(keep_vars=True)
    made: dict[int, torch.Tensor] = {}
    for name, held in state.items():
        if id(held) not in made:
            new = replacement(name, held.detach())
            is_parameter = isinstance(held, torch.nn.Parameter)
            made[id(held)] = torch.nn.Parameter(new, held.requires_grad) if is_parameter else new
        owner, _, slot = name.rpartition(".")
        setattr(owners[owner], slot, made[id(held)])
    for owner_module in module.modules():
        for slot in owner_module._non_persistent_buffers_set:
            if (buffer := getattr(owner_module, slot)) is not None:
                setattr(owner_module, slot, buffer.to("cpu"))


def _mapped(files: Iterable[Path]) -> list[tuple[int, int, int, Path]]:
    """Returns start and end address, file offset, and path of each mapping of these files."""
    if not ORIGINS_ARE_KNOWN:
        return []
    wanted = {str(path.resolve()): path for path in files}
    lines = (line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines())
    mapped = []
    for fields in lines:
        if len(fields) == 6 and (path := wanted.get(fields[5])) is not None:
            start, end = (int(address, 16) for address in fields[0].split("-"))
            mapped.append((start, end, int(fields[2], 16), path))
    return mapped
