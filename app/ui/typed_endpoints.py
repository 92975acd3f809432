"""One endpoint for each workflow, with the workflow's inputs as its typed parameters."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import gradio as gr

from app.catalog.catalog import CatalogEntry
from app.dialect.inputs import InputSpec
from app.dialect.naming import SEED
from app.ui.widgets import widget_of

RunToEnd = Callable[[str, dict[str, Any], int | None, gr.Request], Awaitable[dict[str, Any]]]
"""Runs a workflow by its name, inputs and seed for this request, and returns the `done` event."""


def endpoint_name(entry: CatalogEntry) -> str:
    """Returns the name of the endpoint that runs this workflow, for example `run_text_to_image`."""
    return "run_" + entry.name.replace("-", "_")


def typed_endpoint(name: str, entry: CatalogEntry, run_to_end: RunToEnd) -> Callable[..., Any]:
    """Returns a coroutine function with the workflow's inputs as its parameters."""

    specs = sorted(
        (spec for spec in entry.inputs if spec.parameter != SEED),
        key=lambda spec: not _needed(spec),
    )

    async def run(request: gr.Request, *values: Any) -> dict[str, Any]:
        # Gradio passes every parameter by position; one that was not given has its default.
        *given, seed = values
        inputs = {
            spec.name: value for spec, value in zip(specs, given, strict=True) if value is not None
        }
        return await run_to_end(entry.name, inputs, seed, request)

    def parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> Any:
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        return inspect.Parameter(name, kind, default=default, annotation=annotation)

    parameters = [
        parameter("request", gr.Request),
        *(parameter(spec.parameter, _annotation(spec), _default(spec)) for spec in specs),
        parameter(SEED, int | None, None),
    ]
    run.__name__ = name
    run.__doc__ = entry.description or entry.title
    run.__signature__ = inspect.Signature(parameters, return_annotation=dict)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": dict}
    return run


def _needed(spec: InputSpec) -> bool:
    return spec.required and spec.default in (None, "")


def _default(spec: InputSpec) -> Any:
    return inspect.Parameter.empty if _needed(spec) else spec.default


def _annotation(spec: InputSpec) -> Any:
    kind: Any
    match spec.kind:
        case "seed":
            kind = int
        case "choice":
            kind = Literal[tuple(spec.choices)]
        case "slider" if spec.whole:
            kind = int
        case "text" if isinstance(spec.default, list):
            kind = _list_of(spec.default)
        case "text" if isinstance(spec.default, dict):
            kind = dict[str, Any]
        case _:
            kind = widget_of(spec).sent
    return kind | None if spec.default is None and not spec.required else kind


def _list_of(items: list[Any]) -> Any:
    """Returns the type of a list like this one."""
    if items and all(isinstance(item, str) for item in items):
        return list[str]
    if items and all(isinstance(item, dict) for item in items):
        return list[dict[str, Any]]
    return list[Any]
