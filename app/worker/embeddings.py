"""Stored prompt embeddings: in memory, and in small files across restarts."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from app.outputs import replacing
from app.settings import MIB

log = logging.getLogger(__name__)

ENCODERS = "text_encoder"
"""Prefix of components that only `encode_prompt` calls."""
MemoLookup = Callable[[Any, Callable[[], Any]], Any]
"""Returns an encoder's result, given the key material and a function that computes the result."""
MAX_FILE_BYTES = 16 * MIB
"""Larger embeddings are not written: computing them is about as fast as reading them."""


class NotEmbeddingsError(Exception):
    """Raised for a result that holds something other than tensors, None, lists and tuples."""


class Embeddings(NamedTuple):
    """An encoder's result, as private tensors on the CPU."""

    structure: str
    """JSON: null, {"tensor": index, "device": where it was}, {"list": […]} or {"tuple": […]}."""
    tensors: tuple[torch.Tensor, ...]

    @classmethod
    def of(cls, result: Any) -> Embeddings:
        """Returns a copy of this result. Raises NotEmbeddingsError."""
        tensors: list[torch.Tensor] = []

        def describe(value: Any) -> Any:
            if value is None:
                return None
            if type(value) is torch.Tensor:
                contiguous = torch.contiguous_format
                tensors.append(value.detach().to("cpu", copy=True, memory_format=contiguous))
                return {"tensor": len(tensors) - 1, "device": str(value.device)}
            if type(value) in (list, tuple):
                return {type(value).__name__: [describe(item) for item in value]}
            raise NotEmbeddingsError(type(value).__name__)

        return cls(json.dumps(describe(result)), tuple(tensors))

    def result(self) -> Any:
        """Returns a new copy of the result, on the devices it came from."""

        def rebuild(node: Any) -> Any:
            match node:
                case None:
                    return None
                case {"tensor": index, "device": device}:
                    return self.tensors[index].to(device, copy=True)
                case {"list": items}:
                    return [rebuild(item) for item in items]
                case {"tuple": items}:
                    return tuple(rebuild(item) for item in items)

        return rebuild(json.loads(self.structure))

    @property
    def size_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of everything that decides the result."""
        digest = hashlib.sha256(self.structure.encode())
        for tensor in self.tensors:
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


class EmbeddingsFolder:
    """One safetensors file per key, bounded in bytes."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def find(self, key: str) -> Embeddings | None:
        """Returns the embeddings under the key; removes a damaged file."""
        path = self._file(key)
        try:
            found = _read(path)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            log.warning(
                "Stored prompt embeddings could not be read and are computed again: %s", error
            )
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            # The folder may be read-only.
            os.utime(path)
        return found

    def write(self, key: str, embeddings: Embeddings) -> None:
        """Writes small embeddings and removes the least recently used files. Raises OSError."""
        if embeddings.size_bytes > min(MAX_FILE_BYTES, self._max_bytes):
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        tensors = {str(index): tensor for index, tensor in enumerate(embeddings.tensors)}
        metadata = {"structure": embeddings.structure, "sha256": embeddings.digest}
        with replacing(self._file(key)) as file:
            file.write(save(tensors, metadata))
        self._trim()

    def _trim(self) -> None:
        # Counts every file, so that half-written ones of a killed process age out too.
        status = {path: path.stat() for path in self._folder.iterdir()}
        held_bytes = sum(each.st_size for each in status.values())
        for path in sorted(status, key=lambda path: status[path].st_mtime_ns):
            if held_bytes <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            held_bytes -= status[path].st_size

    def _file(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"


def _read(path: Path) -> Embeddings:
    with safe_open(path, framework="pt", device="cpu") as file:
        metadata = file.metadata()
        names = sorted(file.keys(), key=int)
        # Copies: the file is mapped into memory, and may be removed while they are in use.
        tensors = tuple(file.get_tensor(name).clone() for name in names)
    found = Embeddings(metadata["structure"], tensors)
    # The format checks its header only; a flipped bit would silently change images.
    if found.digest != metadata["sha256"]:
        raise ValueError(f"'{path.name}' is damaged")
    return found
