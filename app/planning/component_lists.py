"""Checks components that are lists, such as several ControlNets, and the arguments for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from app.dialect.installed.constructors import takes_one
from app.dialect.installed.signatures import call_signature
from app.dialect.plan_sources import parameter_of
from app.dialect.plan_values import FileValue, ListValue, LiteralValue, Value
from app.dialect.references import Path as Place
from app.planning.values import ValueReader


class Listed(NamedTuple):
    """A component of which pipelines take several, and the arguments with a value for each."""

    words: str
    images: tuple[str, ...]
    """Names of its images' argument, in the order of preference; always a list."""
    others: tuple[str, ...]
    """Arguments that may be lists."""


LISTED = {
    "controlnet": Listed(
        "ControlNets",
        ("control_image", "image"),
        (
            "controlnet_conditioning_scale",
            "control_guidance_start",
            "control_guidance_end",
            "control_mode",
        ),
    ),
    "adapter": Listed("adapters", ("image",), ("adapter_conditioning_scale",)),
}
ORDER = "is needed, in their order"


def lengths(components: Iterable[str]) -> dict[str, int]:
    """Returns the length of each list among a plan's components, by parameter."""
    return dict(Counter(parameter_of(each) for each in components if parameter_of(each) != each))


def check_lists_fit(
    pipeline_class: str, names: Collection[str], at: Place, reader: ValueReader, *, modular: bool
) -> None:
    """Notes lists of components for which the pipeline takes one; none where it is unknown."""
    short = pipeline_class.rpartition(".")[2]
    for name in names:
        if modular or takes_one(short, name):
            message = f"{short} takes one {name}, not a list."
            reader.note((*at, name), message, "Give the block alone.")


def check_list_arguments(
    pipeline_class: str,
    counts: Mapping[str, int],
    arguments: Mapping[str, Value],
    at: Place,
    reader: ValueReader,
) -> None:
    """Notes arguments with more or fewer values than there are components in a list."""
    signature = call_signature(pipeline_class.rpartition(".")[2])
    if signature is None:
        return
    known = {parameter.name for parameter in signature.parameters}
    for name, count in counts.items():
        if (listed := LISTED.get(name)) is None:
            continue
        images = next((each for each in listed.images if each in known), None)
        if images is not None and images in arguments:
            _check_images(arguments[images], count, listed, (*at, images), reader)
        for each in listed.others:
            length = _length(arguments[each]) if each in known and each in arguments else None
            if length is not None and length != count:
                values = "value" if length == 1 else "values"
                message = f"{length} {values} for {count} {listed.words}."
                hint = f"One for each {ORDER}, or a single number for all."
                reader.note((*at, each), message, hint)


def _check_images(value: Value, count: int, listed: Listed, at: Place, reader: ValueReader) -> None:
    if isinstance(value, FileValue):
        message = f"A list of {count} images is needed, one for each of the {listed.words}, in"
        reader.note(at, f"{message} their order.")
    elif isinstance(value, ListValue):
        # A list of lists has the images of several prompts.
        inner = [len(each.items) for each in value.items if isinstance(each, ListValue)]
        wrong = next((each for each in inner or [len(value.items)] if each != count), None)
        if wrong is not None:
            images = "image" if wrong == 1 else "images"
            message = f"{wrong} {images} for {count} {listed.words}."
            reader.note(at, message, f"One for each {ORDER}.")


def _length(value: Value) -> int | None:
    """Returns the length of a list; None for a single value, and one that a run makes."""
    if isinstance(value, ListValue):
        return len(value.items)
    if isinstance(value, LiteralValue) and isinstance(value.value, list):
        return len(value.value)
    return None
