"""Loads components from files, at the speed at which files can be read.

The library constructs a component at its first load. On eviction its weights are removed and the
rest, its shell, is kept; a reload fills the shell from the files. Weights whose files have another
dtype are converted by the library once, written to disk while the worker is idle, and loaded from
there afterwards.

Only the worker's main thread does this. While a library constructs a module it patches torch for
the whole process; a module that another thread constructs or calls at that time can silently lose
its weights. So only one construction may happen at a time.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import ModelMixin
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoProcessor, PreTrainedModel, ProcessorMixin

from app.dialect.files import format_of
from app.dialect.fingerprint import weight_files
from app.errors import LoadError, first_line
from app.models.hub import TEXT_FILES
from app.settings import MIB
from app.worker.context import RunContext
from app.worker.device import Device, is_out_of_memory
from app.worker.embeddings import ENCODERS
from app.worker.loading.changes import change, state_bytes
from app.worker.loading.components import has_weights
from app.worker.loading.converted import ConvertedWeights
from app.worker.loading.foreign import Foreign
from app.worker.loading.interruptible import CancelPoint, interruptible
from app.worker.loading.origins import (
    ORIGINS_ARE_KNOWN,
    Origin,
    fill_weights,
    find_origin,
    strip_weights,
)
from app.worker.loading.parts import Part
from app.worker.loading.processors import load_processor
from app.worker.loading.quantising import finish_loading, held_bytes, quantised_loading, seeded_load
from app.worker.loading.single_files import load_component
from app.worker.lru_cache import LruCache
from app.worker.residency import Entry, Residency

log = logging.getLogger(__name__)

SHELLS_BYTES = 64 * MIB
"""Bound for all shells in RAM; they stay when memory is freed."""
MODULE_BYTES = 2 * 1024
"""Size of a module without weights: 1.3 MB for the 709 of a Stable Diffusion 1.5 UNet."""
TOOL_FACTOR = 8
"""Size in RAM of a component without weights, relative to its files: a CLIP tokenizer of 3 MB takes
20 MB, a Qwen2 tokenizer of 10 MB takes 81 MB."""
SHARD_BYTES = 128 * MIB
"""File size of converted weights. Writing can be interrupted between two files, so that a run waits
for a second at most."""


class Shell(NamedTuple):
    """A component without its weights, and where to restore them from."""

    component: Any
    origin: Origin | None
    """Where its weights are in files; None if it has none there."""
    size_bytes: int
    """Size without weights."""
    counted_bytes: int | None = None
    """Size of its weights, if the files' headers do not tell."""


class InterruptedWriteError(Exception):
    """Raised to stop writing converted weights; the write starts again later."""


class Weights:
    """Loads components, keeps the shells of evicted ones, and writes converted weights to disk."""

    def __init__(self, device: Device, converted: ConvertedWeights) -> None:
        self._device = device
        self._converted = converted
        self.shells: LruCache[Shell] = LruCache(SHELLS_BYTES)
        self._unwritten: dict[str, Part] = {}
        """Parts whose weights were converted during the load, by key."""

    def load(self, part: Part, context: RunContext) -> Entry:
        """Loads the part and reports it. Raises LoadError."""
        context.cancel_point()
        context.report_loading(part.name, part.model, 0)
        log.info("Loading %s from model: %s", part.name, part.model)
        started = time.monotonic()
        shell = self._refilled(part) or self._constructed(part, context.cancel_point)
        context.report_loading(part.name, part.model, part.weight_bytes)
        return Entry(
            part.key,
            part.title,
            shell.component,
            _weight_bytes(part, shell),
            place="ram" if self._is_in_ram(shell.component, part) else "device",
            origin=shell.origin,
            file_backed_bytes=shell.origin.size_bytes if shell.origin else 0,
            shell_bytes=shell.size_bytes,
            load_s=time.monotonic() - started,
        )

    def _is_in_ram(self, component: Any, part: Part) -> bool:
        is_module = isinstance(component, torch.nn.Module)
        return is_module and self._device.is_accelerator and part.quantiser is None

    def on_evict(self, entry: Entry) -> None:
        """Removes the weights of an evicted component, and keeps its shell.

        Tokenizers, schedulers and other components without weights are kept whole.
        """
        component, origin = entry.component, entry.origin
        self._unwritten.pop(entry.key, None)
        if isinstance(component, torch.nn.Module):
            if origin is None or set(component.state_dict()) != origin.names:
                return
            strip_weights(component, origin)
        self.shells.put(entry.key, Shell(component, origin, entry.shell_bytes), entry.shell_bytes)

    def drop_shells(self, keys: Iterable[str]) -> None:
        """Drops the shells of these, whose files were replaced during the load."""
        for key in keys:
            self.shells.pop(key)

    def write_converted(self, residency: Residency, interrupted: Callable[[], bool]) -> bool:
        """Writes converted weights that are still held to disk; returns whether any were.

        For idle moments: stops when `interrupted` returns True, and starts an unfinished component
        again the next time. Written files are read back and compared to the last bit; the live
        component then uses their mapped pages. A full disk is only logged.
        """
        wrote = False
        for key, part in list(self._unwritten.items()):
            # Removed first: a write that fails would fail again.
            del self._unwritten[key]
            entry = residency[key]
            try:
                if self._converted.has_room(sum(map(_bytes, _state(entry.component).values()))):
                    log.info("Keeping the converted %s", part.title)
                    self._rebase(entry, self._written(part, entry.component, interrupted))
                    wrote = True
            except InterruptedWriteError:
                self._unwritten[key] = part
                break
            except (OSError, SafetensorError, LoadError) as error:
                log.warning("The converted %s could not be cached: %s", part.title, error)
        return wrote

    # --- loading ---------------------------------------------------------------------------------

    def _refilled(self, part: Part) -> Shell | None:
        shell = self.shells.pop(part.key)
        if shell is None:
            return None
        if shell.origin is not None:
            if not shell.origin.is_unchanged:
                return None
            fill_weights(shell.component, shell.origin)
        return shell

    def _constructed(self, part: Part, cancel_point: CancelPoint) -> Shell:
        converted = None if part.quantiser else self._converted.find(part.key)
        source = replace(part, folder=converted, variant=None, file=None) if converted else part
        component = _from_pretrained(source, self._device, cancel_point)
        if not isinstance(component, torch.nn.Module):
            files = (path for pattern in TEXT_FILES for path in part.folder.glob(pattern))
            files_bytes = sum(path.stat().st_size for path in files)
            return Shell(component, None, TOOL_FACTOR * files_bytes)
        if part.changes is not None:
            change(component, part.changes, part.title)
        if part.quantiser is not None:
            return Shell(component, None, 0, held_bytes(component))
        origin = find_origin(component, _weight_files(source))
        size_bytes = _bytes_beside_state(component)
        counted_bytes = held_bytes(component) if part.file else None
        if origin.is_whole:
            return Shell(component, origin, size_bytes + origin.private_bytes, counted_bytes)
        may_write = part.changes is None and not isinstance(component, Foreign)
        if converted is None and may_write and ORIGINS_ARE_KNOWN:
            self._unwritten[part.key] = part
        return Shell(component, None, size_bytes, counted_bytes)

    # --- converted weights -----------------------------------------------------------------------

    def _written(
        self, part: Part, component: torch.nn.Module, interrupted: Callable[[], bool]
    ) -> Origin:
        def cancel_point() -> None:
            if interrupted():
                raise InterruptedWriteError

        with self._converted.writing(part.key, part.title) as folder:
            for path in part.folder.glob("*.json"):
                if not path.name.endswith(".index.json"):
                    shutil.copy(path, folder)
            for path, tensors in _shards(component, folder).items():
                cancel_point()
                save_file(tensors, path, {"format": "pt"})
                _to_disk(path)
            again = _from_pretrained(
                replace(part, folder=folder, variant=None, file=None), self._device, cancel_point
            )
            origin = find_origin(again, weight_files(folder, None))
            if not (origin.is_whole and _are_equal(component, again, cancel_point)):
                raise LoadError("its library does not read back what was written")
        return origin.moved_to(self._converted.folder_of(part.key))

    def _rebase(self, entry: Entry, origin: Origin) -> None:
        """Maps the live component to the files that were written from it."""
        entry.origin = origin
        if entry.place == "ram" or not self._device.is_accelerator:
            fill_weights(entry.component, origin)
            entry.file_backed_bytes = origin.size_bytes
            self._device.release()


def _weight_bytes(part: Part, shell: Shell) -> int:
    """Returns the bytes of the weights, from the files' headers or counted."""
    if shell.counted_bytes is not None:
        return shell.counted_bytes
    return part.weight_bytes if part.changes is None else state_bytes(shell.component)


def _from_pretrained(part: Part, device: Device, cancel_point: CancelPoint) -> Any:
    """Loads the component by its library. Raises LoadError, and what `cancel_point` raises."""
    arguments: dict[str, Any] = {"local_files_only": True}
    if part.component_class.__name__.startswith("Auto"):
        arguments["trust_remote_code"] = False
    if part.component_class is AutoImageProcessor:
        # The default backend needs torchvision.
        arguments["backend"] = "pil"
    if has_weights(part.component_class):
        arguments |= {"dtype": getattr(torch, part.dtype), "use_safetensors": True}
        arguments |= {"variant": part.variant} if part.variant and _has_variant(part) else {}
    try:
        if issubclass(part.component_class, (ProcessorMixin, AutoProcessor)):
            return load_processor(part.component_class, part.folder)
        if issubclass(part.component_class, Foreign):
            return part.component_class.load().eval()
        arguments |= quantised_loading(part, device)
        with seeded_load(part, device), interruptible(cancel_point):
            component = _read(part, arguments)
        if isinstance(component, torch.nn.Module):
            _refuse_missing(part, _without_weights(component))
            component = finish_loading(component.eval(), part, device)
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, LoadError | InterruptedWriteError):
            raise
        if isinstance(error, NotImplementedError) and "meta tensor" in str(error):
            # diffusers, of weights that its single-file loader did not find.
            raise _incomplete(part, "some of its weights are missing") from error
        raise LoadError(
            f"The {part.name} of '{part.model}' could not be loaded.",
            hint=f"{type(error).__name__}: {first_line(error)}",
        ) from error
    return component


def _read(part: Part, arguments: dict[str, Any]) -> Any:
    """Loads the component by its library, from its folder or its single file."""
    if part.file is None:
        return _read_folder(part, arguments)
    given = {"local_files_only": True, "torch_dtype": arguments["dtype"]}
    if "device_map" in arguments:
        given["device"] = arguments["device_map"][""]
    if "quantization_config" in arguments:
        given["quantization_config"] = arguments["quantization_config"]
    return load_component(part.file, part.folder, part.name, part.component_class, **given)


def _read_folder(part: Part, arguments: dict[str, Any]) -> Any:
    if issubclass(part.component_class, PreTrainedModel):
        # transformers would fill what is missing with random numbers.
        component, told = part.component_class.from_pretrained(
            part.folder, **arguments, output_loading_info=True
        )
        missing = sorted(told["missing_keys"])
        if part.name.startswith(ENCODERS):
            _refuse_missing(part, missing)
        elif missing:
            # Published models of tasks lack weights that they do not use (Intel/dpt-large, say).
            log.warning("The %s of '%s' has no weights for %s", part.name, part.model, missing[0])
        return component
    return part.component_class.from_pretrained(part.folder, **arguments)


def _without_weights(component: torch.nn.Module) -> list[str]:
    """Returns the names of the weights that the library did not find: it leaves them empty."""
    return [name for name, tensor in component.state_dict().items() if tensor.is_meta]


def _refuse_missing(part: Part, names: Sequence[str]) -> None:
    """Raises LoadError for a component without these weights."""
    if names:
        count = f"{len(names)} of its weights are" if len(names) > 1 else "one of its weights is"
        raise _incomplete(part, f"{count} missing, for example '{names[0]}'")


def _incomplete(part: Part, what: str) -> LoadError:
    return LoadError(
        f"The {part.name} of '{part.model}' is incomplete: {what}.",
        hint="Download it again, or take a file that has them: this one may be cut off, or of"
        " another kind of model.",
    )


def _weight_files(part: Part) -> tuple[Path, ...]:
    if part.file is None:
        return weight_files(part.folder, part.variant)
    return (part.file,) if format_of(part.file) == "safetensors" else ()


def _has_variant(part: Part) -> bool:
    return any(f".{part.variant}." in path.name for path in part.folder.iterdir())


def _state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Returns the module's state; tied tensors under their first name only, as in files."""
    state: dict[tuple[int, torch.Size], tuple[str, torch.Tensor]] = {}
    for name, tensor in module.state_dict().items():
        state.setdefault((tensor.data_ptr(), tensor.shape), (name, tensor))
    return dict(state.values())


def _bytes_beside_state(module: torch.nn.Module) -> int:
    state = module.state_dict().keys()
    buffers = (buffer for name, buffer in module.named_buffers() if name not in state)
    return MODULE_BYTES * sum(1 for _ in module.modules()) + sum(map(_bytes, buffers))


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.nbytes


def _shards(module: torch.nn.Module, folder: Path) -> dict[Path, dict[str, torch.Tensor]]:
    """Returns the tensors for each file, named as the module's library does; writes the index."""
    stem = "diffusion_pytorch_model" if isinstance(module, ModelMixin) else "model"
    state = _state(module)
    split = split_torch_state_dict_into_shards(
        state, filename_pattern=f"{stem}{{suffix}}.safetensors", max_shard_size=SHARD_BYTES
    )
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    return {
        folder / file_name: {name: state[name].contiguous() for name in names}
        for file_name, names in split.filename_to_tensors.items()
    }


def _to_disk(path: Path) -> None:
    """Flushes the file to disk, so that a power cut cannot truncate it."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _are_equal(module: torch.nn.Module, other: torch.nn.Module, cancel_point: CancelPoint) -> bool:
    """Returns whether both have bit-identical weights and buffers."""
    mine, others = ({**m.state_dict(), **dict(m.named_buffers())} for m in (module, other))
    if mine.keys() != others.keys():
        return False
    for name, tensor in mine.items():
        cancel_point()
        if tensor.dtype != others[name].dtype or tensor.shape != others[name].shape:
            return False
        if not torch.equal(_bits(tensor), _bits(others[name])):
            return False
    return True


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    # NaN is not equal to itself, but its bits are.
    return tensor.to("cpu").reshape(-1).view(torch.uint8)
