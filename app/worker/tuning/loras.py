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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from app.dialect.block_scales import Scale, scale_at
from app.dialect.plan import PipelineStep
from app.dialect.plan_sources import LoraSource
from app.errors import LoadError
from app.models.specs import AdapterSpec
from app.worker.loading.parts import Parts
from app.worker.lru_cache import LruCache
from app.worker.tuning.lora_files import load_lora

Scales = tuple[tuple[str, Scale], ...]
"""Names of active LoRAs, in order, with their scales."""


class HeldLoras:
    """LoRAs on held components, bounded in bytes; the least recently used go first."""

    def __init__(self, max_bytes: int) -> None:
        self.cache: LruCache[tuple[str, ...]] = LruCache(max_bytes)
        """By name, the keys of the components that have them."""
        self._wrapped: dict[str, _Wrapped] = {}
        """By the components' keys."""
        self._losses: dict[str, tuple[str, ...]] = {}
        """By name, sentences about what of a LoRA is not applied."""

    @contextlib.contextmanager
    def applied(self, pipeline: Any, step: PipelineStep, parts: Parts) -> Iterator[tuple[str, ...]]:
        """Has the step's LoRAs in the pipeline's components inside, and returns sentences about
        what of them is not applied. Raises LoadError.

        Enter before offload is set up, and before random numbers are drawn: a load draws some.
        """
        if not step.loras:
            yield ()
            return
        if not hasattr(pipeline, "load_lora_weights"):
            raise LoadError(
                f"{type(pipeline).__name__} takes no LoRA.",
                hint=f"Remove 'loras' from {step.place}.pipeline.",
            )
        components = _components(pipeline, parts)
        names = _names(pipeline, step.loras, parts.loras, components)
        scales = tuple((name, lora.scale) for name, lora in zip(names, step.loras, strict=True))
        try:
            is_kept = self._put_in(pipeline, step, parts, components, scales)
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
        parts: Parts,
        components: Mapping[str, torch.nn.Module],
        scales: Scales,
    ) -> bool:
        """Puts the LoRAs in; returns False if they cannot stay after the step."""
        names = [name for name, _ in scales]
        missing = {name for name in names if self.cache.get(name) is None}
        # A face adapter brings and removes LoRAs of its own, sequential offload takes each layer
        # apart.
        keeps = step.ip_adapter is None and step.offload != "sequential"
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
            weights = [_Weights(component) for component in components.values()]
            for name, lora, spec in zip(names, step.loras, parts.loras, strict=True):
                if name in missing:
                    self._losses[name] = load_lora(pipeline, name, lora, spec, step)
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
                self._wrapped[key] = _Wrapped(component)
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


class _Wrapper(NamedTuple):
    """A wrapper of one layer, and its place."""

    parent: torch.nn.Module
    attribute: str
    layer: Any
    """The wrapper, with the component's own layer inside."""
    kinds: tuple[Any, ...]
    """It and the wrappers inside of it, each for another kind of LoRA."""

    @classmethod
    def of(cls, parent: torch.nn.Module, attribute: str, kinds: Sequence[Any]) -> _Wrapper:
        """Returns the wrapper, in its place, of wrappers inside one another: in the same order
        whichever was loaded first, on which the last bits of a result depend."""
        inmost = kinds[-1].base_layer
        in_order = sorted(kinds, key=lambda layer: type(layer).__module__)
        for layer, inner in zip(in_order, [*in_order[1:], inmost], strict=True):
            layer._modules["base_layer"] = inner
        found = cls(parent, attribute, in_order[0], tuple(in_order))
        found.put_in()
        return found

    # (A module's own `__setattr__` would take ten times as long.)

    def put_in(self) -> None:
        self.parent._modules[self.attribute] = self.layer

    def take_out(self) -> None:
        self.parent._modules[self.attribute] = self.kinds[-1].base_layer

    def weights_of(self, name: str) -> Iterator[torch.Tensor]:
        """Yields one LoRA's tensors of this layer."""
        for layer in self.kinds:
            for attribute in layer.adapter_layer_names:
                found = getattr(layer, attribute)
                if name in found:
                    held = found[name]
                    yield from held.parameters() if isinstance(held, torch.nn.Module) else (held,)

    @property
    def names(self) -> set[str]:
        """Names of the LoRAs that it has."""
        return {name for layer in self.kinds for name in layer._get_available_adapters()}


class _Wrapped:
    """The wrappers of one component, and what peft notes on it."""

    def __init__(self, component: torch.nn.Module) -> None:
        """The component has its wrappers in."""
        # Imported late: it takes a second, and most workers load no LoRA.
        from peft.tuners.tuners_utils import BaseTunerLayer

        self._component = component
        modules = dict(component.named_modules())
        places = {path: modules[path.rpartition(".")[0]] for path in modules}

        def kinds(layer: Any) -> list[Any]:
            inner = layer.base_layer
            return [layer, *(kinds(inner) if isinstance(inner, BaseTunerLayer) else ())]

        self.layers = [
            _Wrapper.of(places[path], path.rpartition(".")[2], kinds(module))
            for path, module in modules.items()
            if isinstance(module, BaseTunerLayer) and not isinstance(places[path], BaseTunerLayer)
        ]
        self._notes = {name: vars(component)[name] for name in NOTES if name in vars(component)}
        self.scales: Scales = ()
        """What is active."""
        self._active: list[_Wrapper] = []
        """Wrappers of layers that an active LoRA changes."""
        self._scalings: list[list[dict[str, float]]] = []
        """Their factors: a pipeline that scales LoRAs for a call leaves them rounded, and one that
        is cancelled leaves them scaled."""

    def put_in(self) -> None:
        """Puts the active wrappers in, as they were noted."""
        self._add_notes()
        for wrapper, scaling in zip(self._active, self._scalings, strict=True):
            for layer, scales in zip(wrapper.kinds, scaling, strict=True):
                layer.scaling.update(scales)
            wrapper.put_in()
        self._follow_component()

    def put_all_in(self) -> None:
        self._add_notes()
        for wrapper in self.layers:
            wrapper.put_in()
        self._follow_component()

    def note_active(self, scales: Scales) -> None:
        """Notes what is active now, and takes out the other wrappers."""
        names = {name for name, _ in scales}
        self.scales = scales
        self._active = []
        for wrapper in self.layers:
            if names & wrapper.names:
                self._active.append(wrapper)
            else:
                wrapper.take_out()
        self._scalings = [
            [dict(layer.scaling) for layer in wrapper.kinds] for wrapper in self._active
        ]

    def take_out(self) -> None:
        """Gives the component its own layers back."""
        for wrapper in self._active:
            wrapper.take_out()
        for name in self._notes:
            vars(self._component).pop(name, None)

    def bytes_of(self, name: str) -> int:
        return sum(weight.nbytes for each in self.layers for weight in each.weights_of(name))

    def keep_only(self, names: LruCache[Any]) -> None:
        """Deletes other LoRAs; the wrappers must be out."""
        configurations = self._notes.get("peft_config", {})
        gone = [name for name in configurations if name not in names]
        if not gone:
            return
        for name in gone:
            del configurations[name]
            for layer in (layer for wrapper in self.layers for layer in wrapper.kinds):
                # (peft warns when it deletes an active one.)
                layer.set_adapter([])
                layer.delete_adapter(name)
        self.layers = [each for each in self.layers if each.names]
        self.scales, self._active, self._scalings = (), [], []

    def _add_notes(self) -> None:
        for name, value in self._notes.items():
            setattr(self._component, name, value)

    def _follow_component(self) -> None:
        """Moves the wrappers' weights to where the component is."""
        where = next(self._component.parameters()).device
        first = self.layers[0]
        if any(w.device != where for name in first.names for w in first.weights_of(name)):
            for wrapper in self.layers:
                wrapper.layer.to(where)


NOTES = ("peft_config", "_hf_peft_config_loaded")
"""Attributes that diffusers and transformers set on a component with LoRAs."""


class _Weights:
    """A component's own weights, to find out whether a load has changed more than layers: LoRAs of
    FLUX's control models enlarge an input layer, others replace norms."""

    def __init__(self, component: torch.nn.Module) -> None:
        self._component = component
        self._weights = [(weight, _version(weight)) for weight in component.parameters()]
        self._notes = {*vars(component), *NOTES}

    def have_changed(self) -> bool:
        present = {id(weight) for weight in self._component.parameters()}
        return not {*vars(self._component)} <= self._notes or any(
            id(weight) not in present or _version(weight) != version
            for weight, version in self._weights
        )


def _version(weight: torch.Tensor) -> int:
    """Returns a number that changes with the tensor's content."""
    return -1 if weight.is_inference() else weight._version


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


def _names(
    pipeline: Any,
    loras: Sequence[LoraSource],
    specs: Sequence[AdapterSpec],
    components: Iterable[str],
) -> list[str]:
    """Returns a name for each LoRA: the same for the same files on the same components."""
    names: list[str] = []
    for lora, spec in zip(loras, specs, strict=True):
        decisive = [
            type(pipeline).__qualname__,
            *components,
            str(lora.weight_name),
            *(file.model_dump() for file in spec.files),
        ]
        digest = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:16]
        again = sum(name.startswith(digest) for name in names)
        names.append(f"{digest}_{again}")
    return names
