"""The inputs of a request, as the engine takes them.

A file comes as an upload or a URL; no other text is ever a path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import JsonValue

from app.catalog.catalog import CatalogEntry
from app.dialect.inputs import InputSpec
from app.errors import InvalidInputs, Problem
from app.mistakes import shown

FileOf = Callable[[Any], str | None]
"""Returns the path or URL of what a request gives for a file; None where it gives none."""
EXAMPLES = {"image": "picture.png", "video": "film.mp4", "audio": "sound.wav"}


def inputs_of(
    entry: CatalogEntry, given: Any, file_of: FileOf, hint: Callable[[InputSpec], str]
) -> dict[str, JsonValue]:
    """Returns the given values with `file_of` of those that are media; `hint` says how one is sent.

    Raises InvalidInputs.
    """
    if not isinstance(given, Mapping):
        raise InvalidInputs("The variables have to be an object: {name: value}.")
    specs = {spec.name: spec for spec in entry.inputs}
    inputs: dict[str, JsonValue] = {}
    problems: list[Problem] = []
    for name, value in given.items():
        spec = specs.get(name)
        if spec is None or spec.media is None or value == spec.default:
            inputs[name] = value
        elif (found := _found(spec, value, file_of)) is not None:
            inputs[name] = found
        else:
            problems.append(
                Problem(
                    place=f"inputs.{spec.name}",
                    message=f"{spec.label} has to be an uploaded file or a URL, not a path.",
                    hint=hint(spec),
                )
            )
    if problems:
        raise InvalidInputs(f"'{entry.name}' cannot run with these inputs.", problems)
    return inputs


def check_seed(seed: Any) -> None:
    """Raises InvalidInputs for a seed that is no whole number; None is none."""
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise InvalidInputs(f"The seed has to be a whole number, not {shown(seed)}.")


def _found(spec: InputSpec, value: Any, file_of: FileOf) -> JsonValue:
    if not (isinstance(value, list) and isinstance(spec.default, list)):
        return file_of(value)
    files = [file_of(each) for each in value]
    return None if None in files else [*files]
