"""Checks a guest's run: form limits, a bounded size, and only models that the catalog or the
operator names.

An operator's run is not checked here. Pure: plan and inputs in, problems out.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from pydantic import BaseModel, JsonValue

from app.catalog.catalog import Catalog, CatalogEntry
from app.dialect.inputs import check_inputs
from app.dialect.loader import read_document
from app.dialect.plan import PipelineStep, Plan
from app.dialect.plan_sources import ModelSource
from app.dialect.plan_values import FileValue, LiteralValue
from app.dialect.references import parse
from app.errors import InvalidInputs, Problem, WorkbenchError
from app.media.images import WrongMediaError, size_of
from app.models.activations import Size
from app.models.asked_size import asked_size

Kind = TypeVar("Kind")
BELOW_ARGUMENTS = re.compile(
    r"/steps/[0-9]+/(pipeline|pipeline_reference|task|workflow)/arguments/.+"
)
OPERATORS = "An operator may: whoever starts the server, or logs in with DW_OPERATOR_AUTH."


@dataclass(frozen=True)
class GuestLimits:
    """Limits of one guest's run."""

    pixels: int
    """Pixels of everything its pipelines draw, and of each input image."""
    steps: int
    """Denoising steps of one call."""


@dataclass(frozen=True)
class GuestCheck:
    """Raises InvalidInputs for a plan that a guest may not run."""

    catalog: Catalog
    entry: CatalogEntry
    inputs: Mapping[str, JsonValue]
    changes: Mapping[str, JsonValue]
    limits: GuestLimits

    def __call__(self, plan: Plan) -> None:
        """Checks the plan made of these inputs and changes."""
        problems = [
            *self._wrong_changes(plan),
            *self._foreign_models(plan),
            *limit_problems(plan, self.limits),
        ]
        if problems:
            raise InvalidInputs(
                f"A guest cannot run '{self.entry.name}' with these values.",
                problems,
                hint=OPERATORS,
            )

    def _wrong_changes(self, plan: Plan) -> Iterator[Problem]:
        specs = {spec.name: spec for spec in self.entry.inputs}
        for pointer, value in self.changes.items():
            if not BELOW_ARGUMENTS.fullmatch(pointer):
                yield Problem(
                    place=pointer, message="Only values below the arguments of a step can be"
                    " changed.",
                )  # fmt: skip
                continue
            reference = parse(value_at(plan.document, pointer))
            spec = specs.get(reference.target) if reference is not None else None
            # The form's limits hold here too. The planner checks media.
            if spec is not None and spec.media is None:
                _, wrong = check_inputs((spec,), {spec.name: value}, ())
                yield from (
                    Problem(place=pointer, message=each.message, hint=each.hint) for each in wrong
                )

    def _foreign_models(self, plan: Plan) -> Iterator[Problem]:
        """Yields problems of repositories that only the guest names. The planner checks folders."""
        given = [unquote(text) for text in texts([self.inputs, self.changes])]
        asked = dict.fromkeys(
            source.model
            for source in instances(plan.steps, ModelSource)
            if source.folder is None and any(source.model in text for text in given)
        )
        if not asked:
            return
        named = list(self._texts_of_catalog())
        for model in asked:
            whole = re.compile(rf"(?<![\w.-]){re.escape(model)}(?![\w.-])")
            if not any(whole.search(text) for text in named):
                yield Problem(
                    place="",
                    message=f"No workflow here names the model '{model}'.",
                    hint="Choose one that a workflow names.",
                )

    def _texts_of_catalog(self) -> Iterator[str]:
        for entry in self.catalog.entries():
            # An unreadable workflow names nothing.
            with contextlib.suppress(WorkbenchError):
                yield from texts(read_document(Path(entry.path)).tree)


def limit_problems(plan: Plan, limits: GuestLimits) -> Iterator[Problem]:
    """Yields problems where the plan exceeds the limits of pixels or steps."""
    total, sizes = 0, dict[str, Size]()
    for step in plan.steps:
        for picture in instances(step, FileValue):
            # The run reports a file that has gone or changed meanwhile.
            with contextlib.suppress(OSError, WrongMediaError):
                if picture.kind != "image":
                    continue
                width, height = size_of(Path(picture.path))
                if width * height > limits.pixels:
                    yield Problem(
                        place=step.place,
                        message=f"A picture of {width}x{height} pixels is handed in; a guest's may"
                        f" have {_millions(limits.pixels)}.",
                        hint="Make it smaller first.",
                    )
        if not isinstance(step, PipelineStep):
            continue
        size = asked_size(step, step.pipeline_class.rpartition(".")[2], (), {}, sizes)
        sizes[step.name] = size
        segments = (step.chain.segments or 1) if step.chain is not None else 1
        total += size.width_px * size.height_px * size.frames * size.batch * segments
        count = step.arguments.get("num_inference_steps")
        steps = count.value if isinstance(count, LiteralValue) else None
        if isinstance(steps, int | float) and steps > limits.steps:
            yield Problem(
                place=step.place,
                message=f"{steps:g} steps are asked for; a guest's run may have {limits.steps}.",
            )
    if total > limits.pixels:
        yield Problem(
            place="",
            message=f"{_millions(total)} pixels would be drawn (width x height x pictures); a"
            f" guest's run may draw {_millions(limits.pixels)}.",
            hint="Ask for fewer or smaller ones.",
        )


def instances(value: Any, kind: type[Kind]) -> Iterator[Kind]:
    """Yields all objects of this type anywhere in a plan or a part of one."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from instances(getattr(value, name), kind)
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from instances(item, kind)


def texts(value: Any) -> Iterator[str]:
    """Yields every text in this JSON value, including keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from texts(item)
    elif isinstance(value, Iterable):
        for item in value:
            yield from texts(item)


def value_at(tree: JsonValue, pointer: str) -> JsonValue:
    """Returns the document's value at this pointer, None where there is none."""
    for word in pointer.split("/")[1:]:
        key = word.replace("~1", "/").replace("~0", "~")
        if isinstance(tree, Mapping):
            tree = tree.get(key)
        elif isinstance(tree, list) and key.isdigit() and int(key) < len(tree):
            tree = tree[int(key)]
        else:
            return None
    return tree


def _millions(pixels: int) -> str:
    return f"{pixels / 1e6:.1f} million"
