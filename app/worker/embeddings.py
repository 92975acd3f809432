"""Prompt embeddings as they are kept: in memory, and in small files across restarts."""

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
"""How the names of components begin that nothing but `encode_prompt` calls."""
Recalled = Callable[[Any, Callable[[], Any]], Any]
"""Returns the result of an encoder's call, given what the call is known by and what computes it."""
MAX_FILE_BYTES = 16 * MIB
"""Larger embeddings are not written: an encoder is soon as quick as a disk."""


class NotEmbeddingsError(Exception):
    """A result that holds something other than tensors, None, lists and tuples."""


class Embeddings(NamedTuple):
    """What an encoder returned, as tensors on the CPU that nobody else holds."""

    structure: str
    """JSON: null, {"tensor": index, "device": where it was}, {"list": […]} or {"tuple": […]}."""
    tensors: tuple[torch.Tensor, ...]

    @classmethod
    def of(cls, result: Any) -> Embeddings:
        """A copy of this result. Raises NotEmbeddingsError where it is something else."""
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
        """The result anew, on the devices it came from; the caller may write into it."""

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
        """Bytes of all tensors."""
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
    """One safetensors file for each key; together within a bound of bytes."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def find(self, key: str) -> Embeddings | None:
        """What was written under the key. A file that cannot be trusted is removed."""
        path = self._file(key)
        try:
            found = _read(path)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            log.warning("Remembered embeddings could not be read and are made anew: %s", error)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            # In a folder that may only be read nothing is written either.
            os.utime(path)
        return found

    def write(self, key: str, embeddings: Embeddings) -> None:
        """Write this, if it is small; of too much the longest unused leaves. Raises OSError."""
        if embeddings.size_bytes > min(MAX_FILE_BYTES, self._max_bytes):
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        tensors = {str(index): tensor for index, tensor in enumerate(embeddings.tensors)}
        metadata = {"structure": embeddings.structure, "sha256": embeddings.digest}
        with replacing(self._file(key)) as file:
            file.write(save(tensors, metadata))
        self._trim()

    def _trim(self) -> None:
        # Every file counts, so what a killed process left half written ages out too.
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
    # The format checks its header only; a wrong number would silently change pictures.
    if found.digest != metadata["sha256"]:
        raise ValueError(f"'{path.name}' is damaged")
    return found
