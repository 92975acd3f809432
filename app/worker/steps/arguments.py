"""Arguments of a step's calls: one call per combination of the results it refers to."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from PIL import Image

from app.dialect.inputs import is_mask, media_kind
from app.dialect.plan import MAX_ITERATIONS, Rounds, Step
from app.dialect.plan_values import (
    BuiltValue,
    DTypeValue,
    FileValue,
    ListValue,
    LiteralValue,
    ObjectValue,
    RemoteValue,
    ResultValue,
    Value,
    references_in,
)
from app.errors import StepError, nearest
from app.media import images
from app.media.images import WrongMediaError
from app.tasks.media import AudioVideo, as_frames, as_image
from app.worker.steps.media import MediaReader, build
from app.worker.steps.step_output import StepOutput

if TYPE_CHECKING:
    from app.worker.context import RunContext


def combinations(
    step: str, arguments: Mapping[str, Value], context: RunContext, *, bare: bool = False
) -> list[dict[str, Any]]:
    """Returns the arguments of every call: the product over all results referred to, the last
    fastest.

    The calls share argument values. `bare` is for pipelines, which take a video as a list of
    images. Raises StepError.
    """
    choices = [_choices(found, step, context) for found in references_in(arguments.values())]
    count = math.prod(map(len, choices))
    if count > MAX_ITERATIONS:
        raise StepError(f"Step '{step}' would run {count} times; {MAX_ITERATIONS} at most.")
    live = _Converter(context, bare=bare)
    return [
        {name: live.value(value, name, chosen) for name, value in arguments.items()}
        for chosen in map(iter, itertools.product(*choices))
    ]


def check_clip_skip(step: str, pipeline: Any, arguments: Mapping[str, Any]) -> None:
    """Raises StepError for a `clip_skip` that leaves no layer of a text encoder: planning does not
    know those of a model that was not here, or of another model's encoder."""
    skipped = arguments.get("clip_skip")
    encoders = (getattr(pipeline, name, None) for name in ("text_encoder", "text_encoder_2"))
    configs: list[Any] = [getattr(encoder, "config", None) for encoder in encoders]
    layers = [config.num_hidden_layers for config in configs if hasattr(config, "projection_dim")]
    if type(skipped) is int and layers and not 0 <= skipped < min(layers):
        raise StepError(
            f"Step '{step}': 'clip_skip' {skipped} is outside 0 to {min(layers) - 1}, the layers of"
            " the text encoder to skip."
        )


def one_value(value: Value, name: str, step: str, context: RunContext) -> Any:
    """Returns the value of an argument without combinations: the first artifact of each result
    referred to. Raises StepError."""
    chosen = (_choices(found, step, context)[0] for found in references_in([value]))
    return _Converter(context, bare=True).value(value, name, chosen)


def rounds_of(rounds: Rounds, context: RunContext) -> list[dict[str, Any]]:
    """Returns the values passed to a sub-workflow in each of its rounds, by `handed_at`; the last
    reference changes fastest. Raises StepError."""
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


class _Converter:
    """Converts a plan's values to call arguments. Reads files shared by several calls once."""

    def __init__(self, context: RunContext, *, bare: bool) -> None:
        self._context = context
        self._bare = bare
        self._files: dict[FileValue, Any] = {}
        self._reader = MediaReader(context.plan.limits, context.cancel_point)

    def value(self, value: Value, name: str, chosen: Iterator[Any]) -> Any:
        """Returns the value of the argument (or key) of this name; results come from `chosen` in
        template order. A mapping with a key of that name stands for its entry."""
        match value:
            case LiteralValue():
                return value.value
            case FileValue():
                if value not in self._files:
                    self._files[value] = self._reader.read(value)
                return self._given(self._files[value])
            case ResultValue():
                result = next(chosen)
                # Values passed to a sub-workflow were picked there.
                taken = result if value.handed_at else _picked(result, name)
                return self._given(self._opaque(_as_input(taken, name), name, value.step))
            case DTypeValue():
                import torch

                return getattr(torch, value.dtype)
            case ListValue():
                return [
                    self.value(item, str(index), chosen) for index, item in enumerate(value.items)
                ]
            case ObjectValue():
                return {key: self.value(entry, key, chosen) for key, entry in value.entries.items()}
            case BuiltValue():
                # In the order of `references_in`.
                media = None if value.media is None else self._whole(value.media, name, chosen)
                given = {
                    key: self.value(entry, key, chosen) for key, entry in value.arguments.items()
                }
                return build(value.class_name, media, given)
            case RemoteValue():
                raise StepError(f"{value.place}: '{value.url}' has not been fetched.")

    def _opaque(self, value: Any, name: str, step: str) -> Any:
        """Returns a transparent image of a step as its file would be read; all else unchanged.
        diffusers takes an image of four channels for latents."""
        if not self._bare or not isinstance(value, Image.Image) or not value.has_transparency_data:
            return value
        if not is_mask(name):
            return images.opaque(value, self._context.plan.limits.picture_background)
        try:
            return images.as_mask(value, f"previous_result:{step}")
        except WrongMediaError as error:
            raise StepError(str(error)) from error

    def _whole(self, value: Value, name: str, chosen: Iterator[Any]) -> Any:
        """Returns the value as if not `bare`, for objects that take a video's audio too."""
        bare, self._bare = self._bare, False
        try:
            return self.value(value, name, chosen)
        finally:
            self._bare = bare

    def _given(self, value: Any) -> Any:
        """Returns the value for a call; pipelines get a video's images, or audio's samples."""
        if not self._bare or not isinstance(value, AudioVideo):
            return value
        if len(value.frames) == 0:
            return value.audio
        return [Image.fromarray(frame) for frame in as_frames(value)]


def _picked(value: Any, name: str) -> Any:
    return value[name] if isinstance(value, Mapping) and name in value else value


def _as_input(value: Any, name: str) -> Any:
    """Returns the value; converts one-channel measures (depth) to RGB for an image argument."""
    shape: tuple[int, ...] = getattr(value, "shape", ())
    if media_kind(name) == "image" and len(shape) == 3 and shape[-1] == 1:
        return as_image(value).convert("RGB")
    return value


# --- rounds ---------------------------------------------------------------------------------------


def in_order(
    steps: Sequence[Step], running: Collection[str], context: RunContext, depth: int = 0
) -> Iterator[Step]:
    """Yields the steps in the order in which they run.

    The caller stores each step's result in the context before it asks for the next. After the last
    round of a sub-workflow the context has its steps' results of all rounds. A sub-workflow without
    `running` steps has no rounds: its results are cached.
    """

    def rounds_at(step: Step) -> Rounds | None:
        return step.rounds[depth] if len(step.rounds) > depth else None

    for rounds, group in groupby(steps, key=rounds_at):
        members = list(group)
        if rounds is None or not any(step.name in running for step in members):
            yield from members
            continue
        returned: defaultdict[str, list[Any]] = defaultdict(list)
        for handed in rounds_of(rounds, context):
            context.handed |= handed
            yield from in_order(members, running, context, depth + 1)
            for step in members:
                if step.name in context.results:
                    returned[step.name] += context.results.pop(step.name).returned
        for reference in rounds.references:
            # The next round of an outer sub-workflow passes other results.
            context.handed.pop(reference.handed_at, None)
        context.results |= {name: StepOutput(each) for name, each in returned.items()}


def comes_after(other: Step, step: Step, names: Sequence[str]) -> bool:
    """Returns whether the other step runs after this one, or again in a later round; `names` are
    the plan's steps."""
    if other.name == step.name:
        return False
    later = names.index(other.name) > names.index(step.name)
    return later or bool(step.rounds and step.rounds[:1] == other.rounds[:1])
