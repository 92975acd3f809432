"""The parts of a step: its component specs, with their classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from app.models.specs import AdapterSpec, ComponentSpec


@dataclass(frozen=True)
class Part(ComponentSpec):
    """A component spec with its class; not necessarily loaded."""

    component_class: type[Any] = object

    @classmethod
    def of(cls, spec: ComponentSpec, component_class: type[Any]) -> Part:
        known = {each.name: getattr(spec, each.name) for each in fields(ComponentSpec)}
        return cls(**known, component_class=component_class)


class Parts(NamedTuple):
    """Everything that makes up a step's pipeline."""

    pipeline_class: type[Any]
    folder: Path
    parts: tuple[Part, ...]
    settings: Mapping[str, Any]
    """Further arguments of the pipeline's constructor: absent components, plain values."""
    loras: tuple[AdapterSpec, ...] = ()
    textual_inversions: tuple[AdapterSpec, ...] = ()
    ip_adapters: tuple[AdapterSpec, ...] = ()

    @property
    def weight_bytes(self) -> int:
        return sum({part.key: part.weight_bytes for part in self.parts}.values())


class TaskParts(NamedTuple):
    parts: tuple[Part, ...]

    @property
    def weight_bytes(self) -> int:
        return sum({part.key: part.weight_bytes for part in self.parts}.values())


StepParts = Parts | TaskParts
