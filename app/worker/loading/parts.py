"""What a step is put together from: its components, known but not necessarily loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from app.workflow.fingerprint import changed_key
from app.workflow.models.quantised import component_bytes
from app.workflow.plan_settings import ComponentChanges, DType
from app.workflow.quantisation import Quantisation, QuantiserKind


class Part(NamedTuple):
    """One component of a step, known but not necessarily loaded."""

    name: str
    component_class: type[Any]
    folder: Path
    dtype: DType
    variant: str | None
    model: str
    short_name: str
    key: str
    weight_bytes: int
    """As it will be held; an estimate where it is quantised while it is loaded."""
    quantisation: Quantisation | None = None
    quantiser: QuantiserKind | None = None
    """What its weights are quantised with: now, or before they were published."""
    file: Path | None = None
    """The single file that has its weights; `folder` then has its configuration alone."""

    sdnq_matmul: bool = False
    """Whether it multiplies as SDNQ has quantised it."""
    changes: ComponentChanges | None = None
    """What is done to it when it has been loaded."""

    @property
    def title(self) -> str:
        """`unet of shapes (float32)`, `transformer of FLUX.1-dev (bfloat16, nf4)`."""
        how: list[str] = [self.dtype]
        how += [self.quantisation.label] if self.quantisation else []
        how += [self.changes.words] if self.changes else []
        return f"{self.name} of {self.short_name} ({', '.join(how)})"

    def with_changes(self, changes: ComponentChanges | None) -> Part:
        """The part that is this one, changed so when it has been loaded."""
        if changes is None:
            return self
        size_bytes = self.weight_bytes
        if self.file is None:
            size_bytes = component_bytes(
                self.folder, self.variant, self.dtype, self.quantisation, changes
            )
        key = changed_key(self.key, changes)
        return self._replace(key=key, weight_bytes=size_bytes, changes=changes)


class Parts(NamedTuple):
    """Everything a step's pipeline is put together from."""

    pipeline_class: type[Any]
    folder: Path
    parts: tuple[Part, ...]
    settings: Mapping[str, Any]
    """Further arguments of the pipeline's constructor: absent components, plain values."""

    @property
    def weight_bytes(self) -> int:
        """Of all of them together."""
        return sum({part.key: part.weight_bytes for part in self.parts}.values())


class TaskParts(NamedTuple):
    """Everything a task computes with."""

    parts: tuple[Part, ...]

    @property
    def weight_bytes(self) -> int:
        """Of all of them together."""
        return sum({part.key: part.weight_bytes for part in self.parts}.values())


StepParts = Parts | TaskParts
