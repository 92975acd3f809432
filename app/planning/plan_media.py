"""Finds the files and URLs of media in a plan, and replaces them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from app.dialect.plan import PipelineStep, Plan, Step, TaskStep
from app.dialect.plan_values import (
    BuiltValue,
    FileValue,
    ListValue,
    ObjectValue,
    RemoteValue,
    Value,
    leaves_in,
)

Resolve = Callable[[Value], Value]


def remote_values(plan: Plan) -> list[RemoteValue]:
    """Returns all URLs of the plan, in the order of the document."""
    return [found for found in given_values(plan) if isinstance(found, RemoteValue)]


def given_values(plan: Plan) -> Iterator[Value]:
    """Yields every value that a step of the plan is given, in the order of the document."""
    for step in plan.steps:
        for values in _arguments(step):
            yield from leaves_in(values)


def media_files(plan: Plan) -> dict[str, str]:
    """Returns the media files of the plan's steps: the SHA-256 of each path's content."""
    files = (found for found in given_values(plan) if isinstance(found, FileValue))
    return {file.path: file.sha256 for file in files}


def with_files(plan: Plan, resolve: Resolve) -> Plan:
    """Returns the plan with each of its files and URLs replaced by `resolve`."""
    return plan.model_copy(update={"steps": tuple(_resolved(each, resolve) for each in plan.steps)})


def _resolved(step: Step, resolve: Resolve) -> Step:
    if isinstance(step, PipelineStep):
        return step.model_copy(update={"arguments": _mapped(step.arguments, resolve)})
    if isinstance(step, TaskStep):
        calls = tuple(_mapped(call, resolve) for call in step.calls)
        return step.model_copy(update={"calls": calls})
    return step


def _arguments(step: Step) -> Iterable[Iterable[Value]]:
    if isinstance(step, PipelineStep):
        return [step.arguments.values()]
    return [call.values() for call in step.calls] if isinstance(step, TaskStep) else []


def _mapped(values: Mapping[str, Value], resolve: Resolve) -> dict[str, Value]:
    return {name: _with_file(value, resolve) for name, value in values.items()}


def _with_file(value: Value, resolve: Resolve) -> Value:
    match value:
        case RemoteValue() | FileValue():
            return resolve(value)
        case ListValue():
            return ListValue(items=tuple(_with_file(item, resolve) for item in value.items))
        case ObjectValue():
            return ObjectValue(entries=_mapped(value.entries, resolve))
        case BuiltValue():
            media = None if value.media is None else _with_file(value.media, resolve)
            arguments = _mapped(value.arguments, resolve)
            return value.model_copy(update={"media": media, "arguments": arguments})
    return value
