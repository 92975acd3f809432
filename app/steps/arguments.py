"""The arguments of a step's calls: one call, or one per combination of the results referred to."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from app.errors import StepError, nearest
from app.tasks.media import as_picture
from app.workflow.inputs import is_image_name
from app.workflow.iterations import MAX_ITERATIONS
from app.workflow.plan import (
    DTypeValue,
    ImageValue,
    ListValue,
    LiteralValue,
    ObjectValue,
    ResultValue,
    Rounds,
    Value,
    references_in,
)

if TYPE_CHECKING:
    from app.worker.context import RunContext


def combinations(
    step: str, arguments: Mapping[str, Value], context: RunContext
) -> list[dict[str, Any]]:
    """The arguments of every call: the product over all results referred to, the last fastest.

    Raises StepError before anything is called. The calls share what is in their arguments.
    """
    choices = [_choices(found, step, context) for found in references_in(arguments.values())]
    count = math.prod(map(len, choices))
    if count > MAX_ITERATIONS:
        raise StepError(f"Step '{step}' would run {count} times; {MAX_ITERATIONS} at most.")
    live = _Live()
    return [
        {name: live.value(value, name, chosen) for name, value in arguments.items()}
        for chosen in map(iter, itertools.product(*choices))
    ]


def rounds_of(rounds: Rounds, context: RunContext) -> list[dict[str, Any]]:
    """What a sub-workflow is handed in each of its rounds, by the places it is handed in at; the
    last reference changes fastest. Raises StepError."""
    choices = [
        [_picked(choice, place.rpartition(".")[2]) for choice in found]
        for reference in rounds.references
        for place, found in [(reference.handed_at, _choices(reference, rounds.step, context))]
    ]
    places = [reference.handed_at for reference in rounds.references]
    count = math.prod(map(len, choices))
    if count > MAX_ITERATIONS:
        raise StepError(f"Step '{rounds.step}' would run {count} times; {MAX_ITERATIONS} at most.")
    return [dict(zip(places, chosen, strict=True)) for chosen in itertools.product(*choices)]


def _choices(reference: ResultValue, step: str, context: RunContext) -> list[Any]:
    if reference.handed_at in context.handed:
        return [context.handed[reference.handed_at]]
    made = context.results[reference.step]
    if reference.property:
        choices = [_property(returned, reference, step) for returned in made.returned]
    else:
        choices = made.artifacts
    if not choices:
        raise StepError(f"Step '{reference.step}', which '{step}' refers to, made nothing.")
    return choices


def _property(returned: Any, reference: ResultValue, step: str) -> Any:
    name = reference.property
    if isinstance(returned, Mapping):
        if name in returned:
            return returned[name]
        hint = nearest(name, returned) or f"There is: {', '.join(map(str, returned)) or 'nothing'}."
        raise StepError(
            f"A result of step '{reference.step}' has no '{name}', which '{step}' refers to.",
            hint=hint,
        )
    found = None if name.startswith("_") else getattr(returned, name, None)
    if found is None or callable(found):
        raise StepError(
            f"A {type(returned).__name__} of step '{reference.step}' has no"
            f" '{name}', which '{step}' refers to."
        )
    return found


class _Live:
    """Makes a plan's values what a call takes. A picture that several calls share is read once."""

    def __init__(self) -> None:
        self._pictures: dict[str, Any] = {}

    def value(self, value: Value, name: str, chosen: Iterator[Any]) -> Any:
        """The value of the argument (or key) of this name; results come from `chosen` in template
        order. Of a mapping that has the argument's own name as a key, that entry is meant."""
        match value:
            case LiteralValue():
                return value.value
            case ImageValue():
                if value.path not in self._pictures:
                    self._pictures[value.path] = read_picture(value.path)
                return self._pictures[value.path]
            case ResultValue():
                result = next(chosen)
                # What a sub-workflow was handed has been picked there.
                return _seen(result if value.handed_at else _picked(result, name), name)
            case DTypeValue():
                import torch

                return getattr(torch, value.dtype)
            case ListValue():
                return [
                    self.value(item, str(index), chosen) for index, item in enumerate(value.items)
                ]
            case ObjectValue():
                return {key: self.value(entry, key, chosen) for key, entry in value.entries.items()}


def _picked(value: Any, name: str) -> Any:
    return value[name] if isinstance(value, Mapping) and name in value else value


def _seen(value: Any, name: str) -> Any:
    """What an argument of this name is given; measures of one channel (a depth, say), which
    pipelines and tasks cannot look at, as a picture of three."""
    shape: tuple[int, ...] = getattr(value, "shape", ())
    if is_image_name(name) and len(shape) == 3 and shape[-1] == 1:
        return as_picture(value).convert("RGB")
    return value


def read_picture(path: str) -> Any:
    """The picture in this file, turned as its camera says, as RGB. Raises StepError."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            return ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise StepError(f"The picture '{path}' can no longer be read.", hint=f"{error}") from error
