"""Argument values: raw JSON of a document → the typed `Value`s of a plan."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from PIL import Image, UnidentifiedImageError
from pydantic import JsonValue

from app.errors import Problem, nearest, shortened
from app.workflow import names
from app.workflow.files import can_be_path
from app.workflow.inputs import is_image_name
from app.workflow.plan import (
    DTypeValue,
    ImageValue,
    ListValue,
    LiteralValue,
    ObjectValue,
    ResultValue,
    Value,
)
from app.workflow.references import Path as Place
from app.workflow.references import parse, place

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp"}
MAX_IMAGE_PIXELS = 64_000_000
MAX_PROBLEMS = 100
MAX_NAME_LENGTH = 1000
"""Of a reference to a result."""
OBJECT_KEYS = ("from_file", "from_previous_result", "from_arguments")
READY = get_args(get_args(Value)[0])
"""The classes of values that are resolved already (handed in by a parent workflow)."""


class TooManyProblems(Exception):
    """Nobody reads more; a document that is wrong everywhere must not keep the planner busy."""


def problem(problems: list[Problem], path: Place, message: str, hint: str = "") -> None:
    """Note one thing that is wrong at this place. Raises TooManyProblems."""
    if len(problems) >= MAX_PROBLEMS:
        raise TooManyProblems
    problems.append(Problem(place=place(path), message=message, hint=hint))


class ValueReader:
    """Reads the values of one document's step; notes what is wrong and goes on."""

    def __init__(
        self,
        *,
        folder: Path,
        media: tuple[Path, ...],
        steps: Mapping[str, str],
        properties: Mapping[str, tuple[str, ...]],
        literal: frozenset[Place],
        origins: Mapping[Place, Place],
        problems: list[Problem],
        warnings: list[str],
    ) -> None:
        self.folder = folder
        self.problems = problems
        self.warnings = warnings
        self._media = media
        self._steps = steps
        self._properties = properties
        self._literal = literal
        self._origins = origins

    def is_typed(self, path: Place) -> bool:
        """Whether what stands at this place is, or is part of, a person's own value."""
        return self._typed_above(path) is not None

    def origin(self, path: Place) -> Place:
        """Where what stands at this place was given: an input, or the document itself."""
        above = self._typed_above(path)
        return path if above is None else self._origins[above]

    def note(self, path: Place, message: str, hint: str = "") -> None:
        """Note a problem: at the input where a person's value is wrong, else in the document."""
        problem(self.problems, self.origin(path), message, hint)

    def _typed_above(self, path: Place) -> Place | None:
        local = self._local(path)
        places = (local[:length] for length in range(1, len(local) + 1))
        return next((place for place in places if place in self._literal), None)

    def read(self, value: Any, path: Place, *, handed_down: bool = False) -> Value:
        """The value a document has at this place; a problem and None-literal where it is wrong."""
        key = str(next(part for part in reversed(path) if isinstance(part, str)))
        if isinstance(value, READY):
            return value  # type: ignore[no-any-return]
        typed = self.is_typed(path)
        reference = None if typed else parse(value)
        if reference is not None and reference.kind == "previous_result":
            return self._result(reference.target, path, handed_down=handed_down)
        if reference is not None:
            self.note(path, f"'{reference.kind}:' is not yet supported here.")
            return LiteralValue(value=None)
        if is_image_name(key) and not isinstance(value, dict | list) and value is not None:
            return self.picture(value, path)
        if isinstance(value, dict) and "location" in value and not typed:
            return self.picture(value["location"], (*path, "location"))
        if key == "dtype" or key.endswith(("_dtype", "_type")):
            return self._name(key, value, path, typed)
        if isinstance(value, dict) and not typed:
            return self._object(value, path, handed_down)
        if isinstance(value, list) and not typed:
            items = tuple(
                self.read(item, (*path, index), handed_down=handed_down)
                for index, item in enumerate(value)
            )
            if _any_special(items):
                return ListValue(items=items)
            return LiteralValue(value=[_json(item) for item in items])
        return LiteralValue(value=value)

    def _object(self, value: dict[str, Any], path: Place, handed_down: bool) -> Value:
        for key in OBJECT_KEYS:
            if key in value:
                self.note((*path, key), f"'{key}' is not yet supported.")
                return LiteralValue(value=None)
        entries = {
            key: self.read(item, (*path, key), handed_down=handed_down)
            for key, item in value.items()
        }
        if _any_special(entries.values()):
            return ObjectValue(entries=entries)
        return LiteralValue(value={key: _json(entry) for key, entry in entries.items()})

    def _result(self, target: str, path: Place, *, handed_down: bool) -> Value:
        """An exact step name first, else the longest one followed by a dot and a property."""
        name = target[:MAX_NAME_LENGTH]
        while name not in self._steps:
            name, dot, _ = name.rpartition(".")
            if not dot:
                name = shortened(target.partition(".")[0])
                self.note(path, f"There is no earlier step '{name}'.", nearest(name, self._steps))
                return LiteralValue(value=None)
        step, wanted = self._steps[name], target[len(name) :].lstrip(".")
        known = self._properties.get(step, ())
        if wanted and known and wanted not in known:
            hint = nearest(wanted, known) or f"It makes: {', '.join(known)}."
            self.note(path, f"Step '{name}' makes no '{wanted}'.", hint)
        handed_at = place(path) if handed_down else ""
        return ResultValue(step=step, property=wanted, handed_at=handed_at)

    def picture(self, value: Any, path: Place) -> Value:
        """The picture file a document names at this place, when it may be read and can be."""
        if isinstance(value, READY):
            return value  # type: ignore[no-any-return]
        if not isinstance(value, str):
            self.note(path, f"A picture file is needed, not {value!r}.")
            return LiteralValue(value=None)
        if value.startswith(("http://", "https://")):
            self.note(path, "A picture from the network is not yet supported.", "Use a file.")
            return LiteralValue(value=None)
        if not can_be_path(self.folder / value):
            self.note(path, "No file can have this name.")
            return LiteralValue(value=None)
        file = (self.folder / value).resolve()
        inside = [folder.resolve() for folder in self._media]
        if not self.is_typed(path):
            inside.append(self.folder.resolve())
        if not any(file.is_relative_to(folder) for folder in inside):
            self.note(path, f"The picture '{value}' lies outside the folders it may come from.")
        elif file.suffix.lower() not in IMAGE_SUFFIXES:
            self.note(path, f"'{file.name}' is not a picture file ({_listed(IMAGE_SUFFIXES)}).")
        elif not file.is_file():
            siblings = (
                [other.name for other in file.parent.glob("*")] if file.parent.is_dir() else []
            )
            self.note(path, f"There is no picture '{value}'.", nearest(file.name, siblings))
        elif wrong := _wrong_with_picture(file):
            self.note(path, wrong)
        else:
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            return ImageValue(path=str(file), sha256=content)
        return LiteralValue(value=None)

    def _name(self, key: str, value: Any, path: Place, typed: bool) -> Value:
        """The dialect's type rule: a dtype, or a braced plain string.

        What a person typed is a plain string, unless it names a dtype of torch in full.
        """
        if not isinstance(value, str) or (typed and not value.startswith("torch.")):
            return LiteralValue(value=value)
        text = names.unbraced(value)
        if text is not None:
            return LiteralValue(value=text)
        if key.endswith("_type"):
            self.note(path, f"'{value}' would name a class, which is not yet supported here.",
                      f"For the plain text write '{{{value}}}'.")  # fmt: skip
            return LiteralValue(value=None)
        try:
            return DTypeValue(dtype=names.dtype_name(value))
        except names.UnknownName as error:
            self.note(path, str(error))
            return LiteralValue(value=None)

    def _local(self, path: Place) -> Place:
        """The path within its own document: from the last `steps` on."""
        starts = [i for i, part in enumerate(path) if part == "steps" and i + 1 < len(path)]
        starts = [i for i in starts if isinstance(path[i + 1], int)]
        return path[starts[-1] :] if starts else path


def _any_special(values: Any) -> bool:
    return any(not isinstance(value, LiteralValue) for value in values)


def _json(value: Value) -> JsonValue:
    assert isinstance(value, LiteralValue)
    return value.value


def _wrong_with_picture(file: Path) -> str:
    try:
        with Image.open(file) as picture:
            if picture.width * picture.height > MAX_IMAGE_PIXELS:
                return f"'{file.name}' has {picture.width}x{picture.height} pixels; 64 million fit."
            picture.verify()
    except UnidentifiedImageError:
        # Its own words only name the whole path, on a machine that may not be the reader's.
        return f"'{file.name}' cannot be read as a picture: its content is of no known kind."
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        return f"'{file.name}' cannot be read as a picture ({error})."
    return ""


def _listed(suffixes: set[str]) -> str:
    return ", ".join(sorted(suffixes))
