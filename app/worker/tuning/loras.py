"""LoRAs in the components of a step's pipeline, kept there between runs.

peft replaces each layer that a LoRA changes by a wrapper, which takes a second for some hundred
layers. The wrappers are therefore kept. During a call they are in their components; at all other
times the components have their own layers back, as if no LoRA had ever been loaded, for whoever
uses, moves or counts them. A wrapper has the weights of all kept LoRAs of its layer, of which those
of the step are active, so another scale or another choice among them loads nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from diffusers.loaders import IPAdapterMixin

from app.dialect.block_scales import Scale, scale_at
from app.dialect.plan import PipelineStep
from app.errors import LoadError
from app.models.specs import AdapterSpec
from app.worker.loading.parts import Parts
from app.worker.lru_cache import LruCache
from app.worker.tuning.ip_adapters import has_lora
from app.worker.tuning.lora_files import load_face_lora, load_lora
from app.worker.tuning.lora_layers import Scales, Weights, Wrapped

FACE = "of an IP-adapter"
"""Stands for the name of a LoRA that is a part of an IP-adapter's file."""

Load = Callable[[str], tuple[str, ...]]
"""Loads a LoRA under a name; returns sentences about what of it is not applied."""


class HeldLoras:
    """LoRAs on held components, bounded in bytes; the least recently used go first."""

    def __init__(self, max_bytes: int) -> None:
        self.cache: LruCache[tuple[str, ...]] = LruCache(max_bytes)
        """By name, the keys of the components that have them."""
        self._wrapped: dict[str, Wrapped] = {}
        """By the components' keys."""
        self._losses: dict[str, tuple[str, ...]] = {}
        """By name, sentences about what of a LoRA is not applied."""

    @contextlib.contextmanager
    def applied(self, pipeline: Any, step: PipelineStep, parts: Parts) -> Iterator[tuple[str, ...]]:
        """Has the step's LoRAs in the pipeline's components inside, and returns sentences about
        what of them is not applied. Raises LoadError.

        Enter before offload is set up, and before random numbers are drawn: a load draws some.
        """
        wanted = _wanted(pipeline, step, parts)
        if not wanted:
            yield ()
            return
        if not hasattr(pipeline, "load_lora_weights"):
            raise LoadError(
                f"{type(pipeline).__name__} takes no LoRA.",
                hint=f"Remove 'loras' from {step.place}.pipeline.",
            )
        components = _components(pipeline, parts)
        names = _names(pipeline, wanted, components)
        loads = {name: each.load for name, each in zip(names, wanted, strict=True)}
        scales = tuple((name, each.scale) for name, each in zip(names, wanted, strict=True))
        try:
            is_kept = self._put_in(pipeline, step, components, loads, scales)
        except BaseException:
            self._unload(pipeline, components)
            raise
        try:
            yield tuple(sentence for name in names for sentence in self._losses.get(name, ()))
        finally:
            if is_kept:
                for key in components:
                    if key in self._wrapped:
                        self._wrapped[key].take_out()
                self._drop_evicted()
            else:
                self._unload(pipeline, components)

    def forget(self, component_key: str) -> None:
        """Forgets the LoRAs of a component, which is dropped or moved; on its other components
        too."""
        if component_key not in self._wrapped:
            return
        for name in [name for name, keys in self.cache.items() if component_key in keys]:
            self.cache.pop(name)
        del self._wrapped[component_key]
        self._drop_evicted()

    def clear(self) -> int:
        """Drops all LoRAs; returns their bytes."""
        held_bytes = self.cache.held_bytes
        self.cache.clear()
        self._wrapped.clear()
        return held_bytes

    # --- private ---------------------------------------------------------------------------------

    def _put_in(
        self,
        pipeline: Any,
        step: PipelineStep,
        components: Mapping[str, torch.nn.Module],
        loads: Mapping[str, Load],
        scales: Scales,
    ) -> bool:
        """Puts the LoRAs in; returns False if they cannot stay after the step."""
        names = [name for name, _ in scales]
        missing = {name for name in names if self.cache.get(name) is None}
        # Sequential offload takes each layer apart.
        keeps = step.offload != "sequential"
        if not keeps:
            missing = set(names)
        else:
            wrapped = [self._wrapped[key] for key in components if key in self._wrapped]
            if not missing and all(each.scales == scales for each in wrapped):
                for each in wrapped:
                    each.put_in()
                return True
            for each in wrapped:
                each.put_all_in()
        if missing:
            weights = [Weights(component) for component in components.values()]
            for name in names:
                if name in missing:
                    self._losses[name] = loads[name](name)
            if not keeps or any(each.have_changed() for each in weights):
                _set_scales(pipeline, scales)
                return False
            self._note_loaded(components, missing)
        _set_scales(pipeline, scales)
        for key in components:
            if key in self._wrapped:
                self._wrapped[key].note_active(scales)
        return True

    def _note_loaded(
        self, components: Mapping[str, torch.nn.Module], missing: Iterable[str]
    ) -> None:
        for key, component in components.items():
            if getattr(component, "peft_config", None):
                self._wrapped[key] = Wrapped(component)
        for name in missing:
            size_bytes = sum(
                self._wrapped[key].bytes_of(name) for key in components if key in self._wrapped
            )
            self.cache.put(name, tuple(components), size_bytes)

    def _unload(self, pipeline: Any, components: Mapping[str, torch.nn.Module]) -> None:
        """Removes everything from the components, and forgets it."""
        pipeline.unload_lora_weights()
        for key in components:
            self.forget(key)

    def _drop_evicted(self) -> None:
        """Deletes the weights of LoRAs that are not in the cache any more."""
        self._losses = {name: told for name, told in self._losses.items() if name in self.cache}
        for key, wrapped in [*self._wrapped.items()]:
            wrapped.keep_only(self.cache)
            if not wrapped.layers:
                del self._wrapped[key]


def _components(pipeline: Any, parts: Parts) -> dict[str, torch.nn.Module]:
    """Returns the components that a LoRA may change, by their keys."""
    keys = {part.name: part.key for part in parts.parts}
    names = getattr(pipeline, "_lora_loadable_modules", keys)
    found = {name: getattr(pipeline, name, None) for name in names if name in keys}
    return {
        keys[name]: component
        for name, component in found.items()
        if isinstance(component, torch.nn.Module)
    }


def _set_scales(pipeline: Any, scales: Scales) -> None:
    """Activates these LoRAs. diffusers' own scales of blocks fail for layers outside of blocks."""
    plain = [scale if not isinstance(scale, dict) else 1.0 for _, scale in scales]
    pipeline.set_adapters([name for name, _ in scales], plain)
    by_block = [(name, scale) for name, scale in scales if isinstance(scale, dict)]
    if not by_block:
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for component_name in pipeline._lora_loadable_modules:
        component = getattr(pipeline, component_name, None)
        if not isinstance(component, torch.nn.Module):
            continue
        for path, module in component.named_modules():
            if isinstance(module, BaseTunerLayer):
                for name, scale in by_block:
                    module.set_scale(name, scale_at(scale, component_name, path))


class _Wanted(NamedTuple):
    """A LoRA of a step."""

    spec: AdapterSpec
    named: str
    """Beside its files, what decides which of its tensors are loaded."""
    scale: Scale
    load: Load


def _wanted(pipeline: Any, step: PipelineStep, parts: Parts) -> list[_Wanted]:
    """Returns the step's own LoRAs, and those that its IP-adapters include."""
    found = []
    for lora, spec in zip(step.loras, parts.loras, strict=True):
        load = partial(load_lora, pipeline, lora=lora, spec=spec, step=step)
        found.append(_Wanted(spec, str(lora.weight_name), lora.scale, load))
    if isinstance(pipeline, IPAdapterMixin):
        # As in diffusers, the adapter's scale does not scale its LoRA.
        found += [
            _Wanted(spec, FACE, 1.0, partial(load_face_lora, pipeline, spec=spec, step=step))
            for spec in parts.ip_adapters
            if has_lora(spec)
        ]
    return found


def _names(pipeline: Any, wanted: Sequence[_Wanted], components: Iterable[str]) -> list[str]:
    """Returns a name for each LoRA: the same for the same files on the same components."""
    names: list[str] = []
    for each in wanted:
        decisive = [
            type(pipeline).__qualname__,
            *components,
            each.named,
            *(file.model_dump() for file in each.spec.files),
        ]
        digest = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:16]
        again = sum(name.startswith(digest) for name in names)
        names.append(f"{digest}_{again}")
    return names
