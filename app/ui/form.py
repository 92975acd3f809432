"""Builds form components from a workflow's inputs, and inputs from the components' values.

An image and its painted mask are one component: the image is uploaded into an editor, and the
painting becomes a mask file, white where the image shall change.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from pydantic import JsonValue

from app.dialect.inputs import MAX_EXACT, InputSpec
from app.errors import InvalidInputs, Problem, shortened
from app.media.files import MediaKind
from app.media.images import WrongMediaError
from app.settings import PathSettings
from app.ui.painting import Editor, background_of, is_there, mask_editor, mask_of
from app.ui.widgets import asked, rounds, text_field, widget_of

MAX_EXAMPLES = 6
WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,100}")


@dataclass(frozen=True)
class Field:
    """One component of the form, with its input."""

    spec: InputSpec
    component: Component
    mask: InputSpec | None = None
    """Set for an editor: the mask painted on the image."""


def build_form(inputs: Sequence[InputSpec], values: Mapping[str, Any]) -> list[Field]:
    """Builds the components in the open layout; advanced inputs in an accordion.

    `values` are what `remember` kept of this form, by input; a value that no longer fits its input
    is replaced by the default.
    """
    painted = {spec.mask_of: spec for spec in inputs if spec.kind == "mask" and spec.mask_of}
    shown = [spec for spec in inputs if spec.kind != "seed" and spec not in painted.values()]
    plain = [spec for spec in shown if not spec.group]
    grouped = [spec for spec in shown if spec.group]
    fields = [_field(spec, values, painted.get(spec.name)) for spec in plain]
    if grouped:
        with gr.Accordion("Advanced", open=False, elem_id="advanced"):
            fields += [_field(spec, values, painted.get(spec.name)) for spec in grouped]
    return fields


def _field(spec: InputSpec, values: Mapping[str, Any], mask: InputSpec | None) -> Field:
    kept = values.get(spec.name)
    if mask is not None:
        editor = mask_editor(
            kept if is_there(kept) else None,
            label=f"{asked(spec)}. Paint over what should change",
            elem_id=f"input-{spec.name}",
        )
        return Field(spec, editor, mask)
    value = kept if fits(spec, kept) else shown(spec)
    widget = text_field if rounds(spec.default) else widget_of(spec).make
    field = Field(spec, widget(spec, value))
    if spec.examples and spec.kind == "text":
        _chips(spec, field.component)
    return field


def shown(spec: InputSpec) -> Any:
    """Returns the component's initial value.

    A file's field stays empty; the label says that the document names one itself.
    """
    default = spec.default
    if spec.media is not None:
        return None
    if rounds(default):
        return str(default)
    if isinstance(default, list):
        words = [item for item in default if isinstance(item, str) and "," not in item]
        return ", ".join(words) if len(words) == len(default) else json.dumps(default)
    return json.dumps(default) if isinstance(default, dict) else default


def _chips(spec: InputSpec, target: Component) -> None:
    with gr.Row(elem_classes="chips"):
        for example in spec.examples[:MAX_EXAMPLES]:
            chip = gr.Button(example, size="sm", min_width=0, elem_classes="chip")
            # In the browser alone: filling in a text needs no request.
            chip.click(
                None, None, target, js=f"() => {json.dumps(example)}", api_visibility="private"
            )


def fits(spec: InputSpec, value: Any) -> bool:
    """Returns True if a value kept from an earlier form fits this input's component."""
    if rounds(spec.default):
        return isinstance(value, str)
    return widget_of(spec).keeps(spec, value)


def remember(fields: Sequence[Field], values: Sequence[Any]) -> dict[str, Any]:
    """Returns the components' values by input, for `build_form`."""
    return {field.spec.name: value for field, value in zip(fields, values, strict=True)}


def keep_typed(workflow: str, names: Sequence[str]) -> str:
    """Returns JavaScript that stores the values of these fields in the visit that a browser keeps.

    It is called with the visit and the values. Files are not stored.
    """
    return (
        "(visit, ...values) => ({...visit, forms: {...visit.forms,"
        f" [{json.dumps(workflow)}]: Object.fromEntries({json.dumps(list(names))}"
        ".map((name, place) => [name, values[place]]))}})"
    )


def read_form(
    fields: Sequence[Field], values: Sequence[Any], paths: PathSettings
) -> dict[str, JsonValue]:
    """Returns the inputs of a run. An empty number or image is left out, so the default counts.

    A painted mask is written as a PNG beside the uploads. Raises InvalidInputs where the browser
    may have rounded a number, and for an unreadable image in an editor.
    """
    return {
        name: value
        for field, held in zip(fields, values, strict=True)
        for name, value in _inputs_of(field, held, paths)
        if value is not None
    }


def _inputs_of(field: Field, held: Any, paths: PathSettings) -> Iterator[tuple[str, JsonValue]]:
    if field.mask is None:
        # An unchanged value is the default itself; so is an empty text for null.
        unchanged = held == shown(field.spec) or (held == "" and field.spec.default is None)
        if field.spec.whole and rounds(held):
            raise InvalidInputs(
                "A number is too large for a browser.",
                [Problem(place=f"inputs.{field.spec.name}",
                         message=f"Browsers round whole numbers beyond {MAX_EXACT}, so"
                         f" {held} may not be what was typed.",
                         hint="Give it by a script or the shell.")],
            )  # fmt: skip
        if field.spec.media is not None and isinstance(held, str):
            _mark_used(held, paths)
        yield field.spec.name, None if unchanged else held
        return
    editor: Editor = held or {}
    yield field.spec.name, _painted(field.spec, background_of, editor, paths)
    yield field.mask.name, _painted(field.mask, mask_of, editor, paths)


def _mark_used(file: str, paths: PathSettings) -> None:
    """Marks an upload as used, so that it is not among the oldest, which are removed."""
    if Path(file).resolve().is_relative_to(paths.media[0].resolve()):
        # Submitting the run reports a file that has gone meanwhile.
        with contextlib.suppress(OSError):
            os.utime(file)


def _painted(
    spec: InputSpec,
    find: Callable[[Editor, PathSettings], Path | None],
    editor: Editor,
    paths: PathSettings,
) -> str | None:
    try:
        found = find(editor, paths)
    except WrongMediaError as error:
        wrong = Problem(place=f"inputs.{spec.name}", message=str(error))
        raise InvalidInputs("The picture in the editor cannot be used.", [wrong]) from error
    return None if found is None else str(found)


def read_seed(text: str | None) -> int | None:
    """Returns the seed in this text; None if it is empty: a random one each time.

    A text and not a number, because a browser rounds whole numbers beyond 2^53.
    Raises InvalidInputs where it is not a whole number.
    """
    words = (text or "").strip()
    if not words:
        return None
    if WHOLE_NUMBER.fullmatch(words):
        return int(words)
    wrong = f"'{shortened(words)}' is not one."
    raise InvalidInputs(
        "The seed has to be a whole number.",
        [Problem(place="seed", message=wrong, hint="Empty draws one.")],
    )


def file_input(inputs: Sequence[InputSpec], kind: MediaKind) -> InputSpec | None:
    """Returns the first input that takes such a file, or None."""
    return next((spec for spec in inputs if spec.kind == kind), None)


def with_file(inputs: Sequence[InputSpec], kind: MediaKind, path: str) -> dict[str, Any]:
    """Returns the remembered value that puts this file into the form's first input for it."""
    spec = file_input(inputs, kind)
    if spec is None:
        return {}
    painted = any(mask.kind == "mask" and mask.mask_of == spec.name for mask in inputs)
    editor = {"background": path, "layers": [], "composite": path}
    return {spec.name: editor if painted else path}
