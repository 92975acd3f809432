"""Prompt embeddings are remembered: the same text through the same encoders is encoded once.

Diffusers has dozens of forms of `encode_prompt`, so none of them is known here: the method is
replaced, on the one pipeline of a step, by one that looks its call up; of a modular pipeline so are
the blocks that call text encoders (`modular_blocks`). A call is known by all that decides what it
returns, and what a hit hands out is what the encoder returned, to the last bit.
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

from app.errors import first_line
from app.worker.device import Device
from app.worker.embeddings import (
    ENCODERS,
    Embeddings,
    EmbeddingsFolder,
    NotEmbeddingsError,
    Recalled,
)
from app.worker.loading.parts import Parts
from app.worker.recent import Recent
from app.workflow.fingerprint import computing_versions
from app.workflow.models.resolve import lora_spec
from app.workflow.models.specs import local_folder
from app.workflow.plan import PipelineStep
from app.workflow.plan_settings import DENOISERS

log = logging.getLogger(__name__)

FOLDER = ".embeddings"
WEIGHTS_UNREAD = (*DENOISERS, "vae")
"""Components of which encoding reads at most the dtype and the configuration."""
TRIM_EVERY = 1000
CALL_STATE = ("batch_size", "do_classifier_free_guidance")
"""What a call leaves on the pipeline for its `encode_prompt` to read beside the arguments."""


class UnknownArgumentError(Exception):
    """An argument that cannot be part of a key."""


class PromptMemo:
    """What encoders returned, in memory and in a folder; both bounded."""

    def __init__(self, max_bytes: int, folder: Path, max_folder_bytes: int) -> None:
        self.recent: Recent[Embeddings] = Recent(max_bytes)
        self._folder = EmbeddingsFolder(folder, max_folder_bytes)
        self._unwritten: set[str] = set()
        self._new: set[str] = set()
        """Keys of what was encoded since `begin`."""
        self.spared: set[str] = set()
        """Keys of the encoders that would not be called for their last prompt again."""

    def begin(self) -> None:
        """A run begins."""
        self._new.clear()

    def forget_new(self) -> None:
        """Forget what was encoded since `begin`: what it was made with was not what it seemed."""
        for key in self._new:
            self.recent.take(key)
        self._unwritten -= self._new
        self.spared.clear()

    @contextlib.contextmanager
    def remembering(
        self, pipeline: Any, step: PipelineStep, parts: Parts, device: Device
    ) -> Iterator[None]:
        """Inside, the pipeline's `encode_prompt` computes only what is not remembered.

        To be entered when the step's LoRAs are in place. A call with tensors, a generator or
        anything else of unknown kind is passed through, and one that draws at random.
        """
        is_modular = step.modular is not None
        if not (is_modular or hasattr(pipeline, "encode_prompt")):
            yield
            return
        encoders = _encoders(pipeline, step, parts, device)
        keys = {part.key for part in parts.parts if part.name.startswith(ENCODERS)}

        def recalled(call: Any, encode: Callable[[], Any]) -> Any:
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
                    # What is drawn after it would be drawn otherwise without it.
                    return result
                self.recent.keep(key, found, found.size_bytes)
                # Where there is no idle moment, what has left memory meanwhile is not written.
                self._unwritten.add(key)
                if len(self._unwritten) % TRIM_EVERY == 0:
                    self._unwritten = {each for each in self._unwritten if each in self.recent}
                self._new.add(key)
            if key in self.recent:
                self.spared |= keys
            # After a miss too: a hit must not differ even in how its tensors lie in memory.
            return found.result()

        if is_modular:
            # Only now: it imports diffusers' blocks.
            from app.worker.modular_blocks import recalling

            with recalling(pipeline, recalled):
                yield
        else:
            with _recalling(pipeline, recalled):
                yield

    def write_down(self) -> None:
        """Write what is new and still held into the folder. A full disk is only logged."""
        try:
            for key, embeddings in self.recent.items():
                if key in self._unwritten:
                    self._folder.write(key, embeddings)
        except (OSError, SafetensorError) as error:
            log.warning("Prompt embeddings could not be written: %s", first_line(error))
        self._unwritten.clear()

    def clear(self) -> None:
        """Let go of what is in memory; the folder stays."""
        self.recent.clear()
        self.spared.clear()

    def _find(self, key: str) -> Embeddings | None:
        found = self.recent.get(key)
        if found is None and (found := self._folder.find(key)) is not None:
            self.recent.keep(key, found, found.size_bytes)
        if found is not None:
            log.debug("Reusing remembered prompt embeddings")
        return found


@contextlib.contextmanager
def _recalling(pipeline: Any, recalled: Recalled) -> Iterator[None]:
    """Inside, calls of the pipeline's `encode_prompt` are looked up."""
    encode = pipeline.encode_prompt
    signature = inspect.signature(encode)

    @functools.wraps(encode)
    def encode_or_remember(*positional: Any, **named: Any) -> Any:
        bound = signature.bind(*positional, **named)
        bound.apply_defaults()
        state = {name: getattr(pipeline, name, None) for name in CALL_STATE}
        return recalled([state, bound.arguments], lambda: encode(*positional, **named))

    pipeline.encode_prompt = encode_or_remember
    try:
        yield
    finally:
        del pipeline.encode_prompt


def _random_states(device: Device) -> list[torch.Tensor]:
    """Where torch's own generators are, of the CPU and of the device."""
    states = [torch.random.get_rng_state()]
    if device.torch_device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device.torch_device))
    return states


def _encoders(pipeline: Any, step: PipelineStep, parts: Parts, device: Device) -> list[Any]:
    """Everything but the call itself that decides what the pipeline's encoders return."""
    components: dict[str, Any] = {}
    for part in parts.parts:
        component = getattr(pipeline, part.name)
        if part.name in WEIGHTS_UNREAD and isinstance(component, ConfigMixin):
            # So another denoiser between the same encoders does not make them encode again.
            config = {k: v for k, v in component.config.items() if not k.startswith("_")}
            components[part.name] = [part.dtype, json.dumps(config, sort_keys=True, default=str)]
        elif part.name != "scheduler":
            components[part.name] = part.key
    loras = [
        [lora.scale, [file.model_dump() for file in lora_spec(lora, local_folder).files]]
        for lora in step.loras
    ]
    return [
        f"{type(pipeline).__module__}.{type(pipeline).__qualname__}",
        dict(parts.settings),
        components,
        loras,
        computing_versions(),
        # Other hardware rounds otherwise.
        [str(device), device.name],
        *(["weighed"] if step.prompt_weighting else []),
    ]


def _described(value: Any) -> Any:
    """The argument as JSON; equal only for equal arguments. Raises UnknownArgumentError."""
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
