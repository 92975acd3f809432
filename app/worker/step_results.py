"""Cache of step results: a step that would make the same result again is not run.

Artifacts are stored as copies in RAM and returned as copies, so that no later step can change the
cached ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from pydantic import JsonValue
from pydantic_core import to_jsonable_python

from app.dialect.fingerprint import computing_versions
from app.dialect.plan import Plan
from app.models.specs import AdapterSpec
from app.planning.result_keys import answered, result_key, steps_to_run
from app.tasks.media import AudioVideo
from app.worker.device import Device
from app.worker.loading.parts import Part, StepParts
from app.worker.lru_cache import LruCache
from app.worker.steps.step_output import CallOutput, StepOutput


class UnknownArtifactError(Exception):
    """Raised for an artifact that cannot be copied reliably."""


class StepResult(NamedTuple):
    made_by: str
    """Run id."""
    made_at: float
    """Unix seconds."""
    kept: tuple[_Copy, ...]
    notices: tuple[str, ...] = ()

    @property
    def made(self) -> StepOutput:
        """A new copy of the result, tensors on the device they were on."""
        return StepOutput(map(_restored, self.kept))

    @property
    def origin(self) -> dict[str, Any]:
        """Run id and time, for the record beside a file."""
        made = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(self.made_at))
        return {"run_id": self.made_by, "created": made}


class CachedResults(NamedTuple):
    """The cached results for a plan, and the steps that have to run."""

    keys: dict[str, str | None]
    """By step name; None for results that must not be cached."""
    results: dict[str, StepResult]
    running: set[str]
    """Names of the steps that have to run."""

    @property
    def made_at(self) -> float | None:
        """Time of the newest result (Unix seconds) if no step has to run, else None."""
        if self.running:
            return None
        return max((result.made_at for result in self.results.values()), default=None)


class StepResults:
    """LRU cache of step results, bounded in bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.cache: LruCache[StepResult] = LruCache(max_bytes)

    def look_up(
        self, plan: Plan, needed: Mapping[str, StepParts], device: Device, *, fresh: bool
    ) -> CachedResults:
        """Returns the cached results and the steps to run: all of them when `fresh`.

        `needed` has the parts of every step that has any; they need not be loaded.
        """
        machine: JsonValue = [str(device), device.name, dict(computing_versions())]
        keys: dict[str, str | None] = {}
        for step in plan.steps:
            loaded = _identity(needed[step.name]) if step.name in needed else None
            keys[step.name] = result_key(step, loaded=loaded, machine=machine, earlier=keys)
        results = {}
        for name, key in keys.items():
            if key is not None and not fresh and (found := self.cache.get(key)) is not None:
                results[name] = found
        used = answered(plan.steps, results)
        results = {name: results[name] for name in used}
        return CachedResults(keys, results, steps_to_run(plan.steps, used))

    def keep(
        self, key: str | None, made: StepOutput, run_id: str, notices: Sequence[str] = ()
    ) -> None:
        """Caches a step's result, unless it is too large or of an unknown kind."""
        if key is None:
            return
        try:
            size_bytes = sum(map(_size_bytes, made.returned))
            if size_bytes <= self._max_bytes:
                kept = tuple(map(_copied, made.returned))
                self.cache.put(key, StepResult(run_id, time.time(), kept, (*notices,)), size_bytes)
        except UnknownArtifactError:
            return

    def clear(self) -> None:
        self.cache.clear()


def _identity(parts: StepParts) -> JsonValue:
    """Returns everything in the parts but the folder, as JSON, with classes, components and
    adapters by their identities."""
    identities = {
        name: _json_of(value) for name, value in parts._asdict().items() if name != "folder"
    }
    found: JsonValue = to_jsonable_python(identities)
    return found


def _json_of(value: Any) -> Any:
    match value:
        case type():
            return f"{value.__module__}.{value.__qualname__}"
        case AdapterSpec():
            return value.files
        case Part():
            return [value.name, value.key]
        case tuple():
            return [*map(_json_of, value)]
    return value


# --- copies of images, arrays, tensors, text, data, and containers of them ------------------------


class _CopiedTensor(NamedTuple):
    tensor: torch.Tensor
    device: torch.device


_Copy = Any
"""A copy of a returned value, with a `_CopiedTensor` for every tensor."""
SCALARS = (str, int, float, bool, type(None))
OBJECT_BYTES = 6 * 1024
"""Approximate overhead of an image, array or tensor, with its cache entry: measured over a thousand
images of 128 pixels (`benchmarks/growth.py`)."""
SCALAR_BYTES = 64
"""Approximate size of a number or an empty string."""


def _size_bytes(returned: Any) -> int:
    if isinstance(returned, Image.Image):
        # Pillow takes four bytes a pixel for every mode of more than eight bits.
        pixel_bytes = 1 if returned.mode in ("1", "L", "P") else 4
        return returned.width * returned.height * pixel_bytes + OBJECT_BYTES
    if type(returned) in (np.ndarray, torch.Tensor):
        return int(returned.nbytes) + OBJECT_BYTES
    if type(returned) in SCALARS:
        return SCALAR_BYTES + (len(returned) if isinstance(returned, str) else 0)
    if type(returned) in (list, tuple):
        return sum(map(_size_bytes, returned))
    if type(returned) in (dict, CallOutput):
        return sum(map(_size_bytes, returned.values()))
    if type(returned) is AudioVideo:
        return _size_bytes(returned.frames) + _size_bytes(returned.audio)
    raise UnknownArtifactError(type(returned).__name__)


def _copied(returned: Any) -> _Copy:
    """Returns a copy in RAM of a value that `_size_bytes` accepts."""
    if isinstance(returned, torch.Tensor):
        return _CopiedTensor(returned.detach().to("cpu", copy=True), returned.device)
    return _copied_as(returned, _copied)


def _restored(kept: _Copy) -> Any:
    if isinstance(kept, _CopiedTensor):
        return kept.tensor.to(kept.device, copy=True)
    return _copied_as(kept, _restored)


def _copied_as(value: Any, copied: Callable[[Any], Any]) -> Any:
    """Returns a copy of the value, with everything inside copied by `copied`."""
    if type(value) in SCALARS:
        return value
    if type(value) in (list, tuple):
        return type(value)(map(copied, value))
    if type(value) in (dict, CallOutput):
        return type(value)({key: copied(item) for key, item in value.items()})
    if type(value) is AudioVideo:
        return replace(value, frames=copied(value.frames), audio=copied(value.audio))
    return value.copy()
