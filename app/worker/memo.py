"""Memo of prompt embeddings: the same text is encoded once by the same encoders.

Diffusers has dozens of forms of `encode_prompt`, so the memo depends on none of them: it wraps the
method on a step's pipeline, and in a modular pipeline the blocks that call text encoders
(`modular_blocks`). The key is made of everything that decides the result, and a hit equals the
encoder's result to the last bit.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin
from PIL import Image
from safetensors import SafetensorError

from app.dialect.fingerprint import computing_versions
from app.dialect.plan import PipelineStep
from app.dialect.plan_settings import DENOISERS
from app.dialect.plan_sources import parameter_of
from app.errors import first_line
from app.worker.device import Device
from app.worker.embeddings import (
    ENCODERS,
    Embeddings,
    EmbeddingsFolder,
    MemoLookup,
    NotEmbeddingsError,
)
from app.worker.loading.parts import Parts
from app.worker.lru_cache import LruCache

log = logging.getLogger(__name__)

FOLDER = ".embeddings"
WEIGHTS_UNREAD = (*DENOISERS, "vae")
"""Components whose weights `encode_prompt` does not read, only their dtype and configuration."""
TRIM_EVERY = 1000
CALL_STATE = ("batch_size", "do_classifier_free_guidance")
"""Attributes that a call sets on the pipeline and `encode_prompt` reads."""


class UnknownArgumentError(Exception):
    """Raised for an argument that cannot be part of a key."""


class PromptMemo:
    """Prompt embeddings in memory and in a folder, both bounded."""

    def __init__(self, max_bytes: int, folder: Path, max_folder_bytes: int) -> None:
        self.cache: LruCache[Embeddings] = LruCache(max_bytes)
        self._folder = EmbeddingsFolder(folder, max_folder_bytes)
        self._unwritten: set[str] = set()
        self._new: set[str] = set()
        """Keys added since `begin`."""
        self.spared: set[str] = set()
        """Keys of encoders whose last prompt is memoised."""

    def begin(self) -> None:
        """Marks the beginning of a run, for `drop_new`."""
        self._new.clear()

    def drop_new(self) -> None:
        """Removes what was added since `begin`, because the encoders' files were replaced."""
        for key in self._new:
            self.cache.pop(key)
        self._unwritten -= self._new
        self.spared.clear()

    @contextlib.contextmanager
    def memoising(
        self, pipeline: Any, step: PipelineStep, parts: Parts, device: Device
    ) -> Iterator[None]:
        """Memoises the pipeline's `encode_prompt` inside.

        Enter after the step's LoRAs and textual inversions are loaded. Calls with tensors, a
        generator or other unknown arguments are not memoised, nor calls that draw random numbers.
        """
        is_modular = step.modular is not None
        if not (is_modular or hasattr(pipeline, "encode_prompt")):
            yield
            return
        encoders = _encoders(pipeline, step, parts, device)
        keys = {part.key for part in parts.parts if part.name.startswith(ENCODERS)}

        def lookup(call: Any, encode: Callable[[], Any]) -> Any:
            self.spared -= keys
            try:
                described = json.dumps([encoders, _described(call)])
            except UnknownArgumentError:
                return encode()
            key = hashlib.sha256(described.encode()).hexdigest()
            found = self._find(key)
            if found is None:
                before = _random_states(device)
                result = encode()
                try:
                    found = Embeddings.of(result)
                except NotEmbeddingsError:
                    return result
                if not all(map(torch.equal, before, _random_states(device))):
                    # A hit would change the random numbers that are drawn after it.
                    return result
                self.cache.put(key, found, found.size_bytes)
                # Bounds the set while the worker is never idle to write.
                self._unwritten.add(key)
                if len(self._unwritten) % TRIM_EVERY == 0:
                    self._unwritten = {each for each in self._unwritten if each in self.cache}
                self._new.add(key)
            if key in self.cache:
                self.spared |= keys
            # After a miss too: hit and miss must agree even in the tensors' memory layout.
            return found.result()

        if is_modular:
            # Imported late: it imports diffusers' blocks.
            from app.worker.modular_blocks import memoised_blocks

            with memoised_blocks(pipeline, lookup):
                yield
        else:
            with _memoised(pipeline, lookup):
                yield

    def flush(self) -> None:
        """Writes new embeddings that are still in memory to the folder; logs a full disk."""
        try:
            for key, embeddings in self.cache.items():
                if key in self._unwritten:
                    self._folder.write(key, embeddings)
        except (OSError, SafetensorError) as error:
            log.warning("Prompt embeddings could not be written: %s", first_line(error))
        self._unwritten.clear()

    def clear(self) -> None:
        self.cache.clear()
        self.spared.clear()

    def _find(self, key: str) -> Embeddings | None:
        found = self.cache.get(key)
        if found is None and (found := self._folder.find(key)) is not None:
            self.cache.put(key, found, found.size_bytes)
        if found is not None:
            log.debug("Reusing memoised prompt embeddings")
        return found


@contextlib.contextmanager
def _memoised(pipeline: Any, lookup: MemoLookup) -> Iterator[None]:
    """Wraps the pipeline's `encode_prompt` inside."""
    encode = pipeline.encode_prompt
    signature = inspect.signature(encode)

    @functools.wraps(encode)
    def memoised_encode(*positional: Any, **named: Any) -> Any:
        bound = signature.bind(*positional, **named)
        bound.apply_defaults()
        state = {name: getattr(pipeline, name, None) for name in CALL_STATE}
        return lookup([state, bound.arguments], lambda: encode(*positional, **named))

    pipeline.encode_prompt = memoised_encode
    try:
        yield
    finally:
        del pipeline.encode_prompt


def _random_states(device: Device) -> list[torch.Tensor]:
    """Returns the states of torch's own generators, of the CPU and of the device."""
    states = [torch.random.get_rng_state()]
    if device.torch_device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device.torch_device))
    return states


def _encoders(pipeline: Any, step: PipelineStep, parts: Parts, device: Device) -> list[Any]:
    """Returns everything but the call itself that decides what the encoders return."""
    components: dict[str, Any] = {}
    for part in parts.parts:
        component = getattr(pipeline, parameter_of(part.name))
        if part.name in WEIGHTS_UNREAD and isinstance(component, ConfigMixin):
            # The key stays the same with another denoiser.
            config = {k: v for k, v in component.config.items() if not k.startswith("_")}
            components[part.name] = [part.dtype, json.dumps(config, sort_keys=True, default=str)]
        elif part.name != "scheduler":
            components[part.name] = part.key
    loras = [
        [lora.scale, [file.model_dump() for file in spec.files]]
        for lora, spec in zip(step.loras, parts.loras, strict=True)
    ]
    inversions = [
        [inversion.token, [file.model_dump() for file in spec.files]]
        for inversion, spec in zip(step.textual_inversions, parts.textual_inversions, strict=True)
    ]
    return [
        f"{type(pipeline).__module__}.{type(pipeline).__qualname__}",
        dict(parts.settings),
        components,
        loras,
        computing_versions(),
        # Rounding depends on the hardware.
        [str(device), device.name],
        *(["weighed in chunks"] if step.prompt_weighting else []),
        # (Left out where there are none: embeddings on the disk have keys without them.)
        *([{"inversions": inversions}] if inversions else []),
    ]


def _described(value: Any) -> Any:
    """Returns the argument as JSON, equal only for equal arguments. Raises UnknownArgumentError."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list() | tuple():
            return [type(value).__name__, *map(_described, value)]
        case dict():
            return {"dict": [[_described(k), _described(v)] for k, v in value.items()]}
        case torch.device() | torch.dtype():
            return {"torch": str(value)}
        case Image.Image():
            pixels = hashlib.sha256(value.tobytes()).hexdigest()
            return {"image": [value.mode, value.size, value.getpalette(), pixels]}
    raise UnknownArgumentError(type(value).__name__)
