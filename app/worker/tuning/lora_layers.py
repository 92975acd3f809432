"""The layers of a component that its LoRAs change, and their wrappers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from app.dialect.block_scales import Scale
from app.worker.lru_cache import LruCache

Scales = tuple[tuple[str, Scale], ...]
"""Names of active LoRAs, in order, with their scales."""


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


class Wrapped:
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


class Weights:
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
