"""Form widget, script type and kept value of each kind of input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

import gradio as gr
from gradio.components import Component
from gradio.data_classes import FileData

from app.dialect.input_kinds import INPUT_KINDS
from app.dialect.inputs import MAX_EXACT, InputSpec, written

PICTURE_HEIGHT = 260


def text_field(spec: InputSpec, value: Any) -> Component:
    return gr.Textbox(
        value,
        label=spec.label,
        info=spec.help or None,
        lines=spec.lines,
        max_lines=max(spec.lines, 8),
        interactive=True,
        elem_id=f"input-{spec.name}",
    )


def _number(spec: InputSpec, value: Any) -> Component:
    # No limits on the component: the planner names every number out of range, not only the first.
    return gr.Number(
        value,
        label=spec.label,
        info=" ".join(filter(None, (spec.help, _limits(spec)))) or None,
        step=spec.step or (1 if spec.whole else 0.1),
        interactive=True,
        elem_id=f"input-{spec.name}",
    )


def _slider(spec: InputSpec, value: Any) -> Component:
    if not _in_range(spec, spec.default):
        # A default beyond the limits is the document's own; a slider cannot show it.
        return _number(spec, value)
    slider = gr.Slider(
        spec.minimum,
        spec.maximum,
        value,
        step=spec.step or (1 if spec.whole else 0.05),
        label=spec.label,
        info=spec.help or None,
        interactive=True,
        elem_id=f"input-{spec.name}",
    )
    slider.preprocess = _as_typed
    return slider


def _checkbox(spec: InputSpec, value: Any) -> Component:
    return gr.Checkbox(
        bool(value),
        label=spec.label,
        info=spec.help or None,
        interactive=True,
        elem_id=f"input-{spec.name}",
    )


def _choice(spec: InputSpec, value: Any) -> Component:
    return gr.Dropdown(
        list(spec.choices),
        value=value,
        label=spec.label,
        info=spec.help or None,
        interactive=True,
        elem_id=f"input-{spec.name}",
    )


def _model(spec: InputSpec, value: Any) -> Component:
    """Returns a list of the models that are there; another name may be typed."""
    none = [] if spec.required else [("none", "")]
    return gr.Dropdown(
        [*none, *((str(name), str(name)) for name in spec.choices)],
        value=value or ("" if none else None),
        label=spec.label,
        info=spec.help or None,
        allow_custom_value=True,
        interactive=True,
        elem_id=f"input-{spec.name}",
    )


def _image(spec: InputSpec, value: Any) -> Component:
    return _upload(
        gr.Image, spec, value, type="filepath", image_mode=None, height=PICTURE_HEIGHT,
        sources=["upload", "clipboard"],
    )  # fmt: skip


def _video(spec: InputSpec, value: Any) -> Component:
    return _upload(gr.Video, spec, value, height=PICTURE_HEIGHT, sources=["upload"])


def _audio(spec: InputSpec, value: Any) -> Component:
    return _upload(gr.Audio, spec, value, type="filepath", sources=["upload"])


def _upload(
    kind: type[gr.Image | gr.Video | gr.Audio], spec: InputSpec, value: Any, **options: Any
) -> Component:
    """Returns a field for a file, which is passed on unchanged."""
    component = kind(
        value,
        label=asked(spec),
        buttons=[],
        interactive=True,
        elem_id=f"input-{spec.name}",
        **options,
    )
    # Not a subclass: Gradio writes a .pyi beside it.
    component.preprocess = _as_uploaded
    return component


def _as_typed(number: float | None) -> float | None:
    """Returns the number typed beside a slider, which may be out of range or missing.

    Gradio would answer with a traceback; the planner says what is wrong.
    """
    return number


def _as_uploaded(upload: Any) -> str | None:
    """Returns the upload's path.

    Gradio would open or convert the file, and show its traceback for one that is not media; the
    planner opens it too and says what is wrong.
    """
    return None if upload is None else upload.path


class Widget(NamedTuple):
    """Handlers of one kind of input."""

    make: Callable[[InputSpec, Any], Component]
    """Builds the component with this value."""
    sent: Any
    """The type of what a script sends."""
    keeps: Callable[[InputSpec, Any], bool]
    """Returns True if a value kept from an earlier form fits this component."""


def _is_there(_spec: InputSpec, value: Any) -> bool:
    # A result may have been deleted, an upload is kept for a day.
    return isinstance(value, str) and Path(value).is_file()


def _in_range(spec: InputSpec, value: Any) -> bool:
    return _is_number(value) and (spec.minimum or 0) <= value <= (spec.maximum or 0)


TEXT = Widget(text_field, str, lambda _, value: isinstance(value, str))
NUMBER = Widget(_number, float, lambda _, value: _is_number(value))
INTEGER = Widget(_number, int, lambda _, value: _is_number(value))
SLIDER = Widget(_slider, float, _in_range)
CHECKBOX = Widget(_checkbox, bool, lambda _, value: isinstance(value, bool))
CHOICE = Widget(_choice, str, lambda spec, value: value in spec.choices)
MODEL = Widget(_model, str, lambda _, value: isinstance(value, str))
IMAGE = Widget(_image, FileData, _is_there)
VIDEO = Widget(_video, FileData, _is_there)
AUDIO = Widget(_audio, FileData, _is_there)


def widget_of(spec: InputSpec) -> Widget:
    """Returns the widget of this input's kind; see `INPUT_KINDS`."""
    found = resolve_name(INPUT_KINDS[spec.kind])
    assert isinstance(found, Widget)
    return found


def rounds(value: Any) -> bool:
    """Returns True if a browser would round this number."""
    return _is_number(value) and abs(value) > MAX_EXACT


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def asked(spec: InputSpec) -> str:
    """Returns the label of a field for a file, which says whether it may stay empty."""
    default = spec.default
    named = default.get("location") if isinstance(default, dict) else default
    if isinstance(named, str) and named:
        return f"{spec.label} (empty: the workflow's own)"
    return f"{spec.label} (required)" if spec.required else spec.label


def _limits(spec: InputSpec) -> str | None:
    low, high = spec.minimum, spec.maximum
    if low is not None and high is not None:
        return f"{written(low)} to {written(high)}."
    if low is not None:
        return f"At least {written(low)}."
    return f"At most {written(high)}." if high is not None else None
