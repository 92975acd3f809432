"""Reads argument values: raw JSON of a document becomes the typed `Value`s of a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import JsonValue

from app.dialect.inputs import is_mask, media_kind
from app.dialect.installed import names
from app.dialect.plan_values import (
    DTypeValue,
    ListValue,
    LiteralValue,
    ObjectValue,
    ResultValue,
    Value,
)
from app.dialect.references import Path as Place
from app.dialect.references import parse, place, problem
from app.errors import Problem, nearest, shortened
from app.media.files import SUFFIXES, MediaKind
from app.packages import Package
from app.planning.media import media_value, near
from app.planning.objects import built_value, is_built
from app.settings import MediaLimits, UrlSettings

T = TypeVar("T")

MAX_NAME_LENGTH = 1000
"""Limit for the name in a reference."""
READY = get_args(get_args(Value)[0])
"""Classes of values that a parent workflow has resolved already."""


class ValueReader:
    """Reads the values of one document's step; notes problems and continues."""

    def __init__(
        self,
        *,
        folder: Path,
        media: tuple[Path, ...],
        urls: UrlSettings,
        limits: MediaLimits,
        variables: Mapping[Place, str],
        steps: Mapping[str, str],
        all_steps: Sequence[str],
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
        self._urls = urls
        self._limits = limits
        self._variables = variables
        """The variable whose value stands at a place."""
        self._steps = steps
        """The earlier steps, by name in the document; their names in the plan."""
        self._all_steps = all_steps
        self._properties = properties
        self._literal = literal
        self._origins = origins

    def warn_of_idle(self, at: Place, why: str, hint: str = "") -> None:
        """Warns that what stands at this place has no effect, for this reason."""
        message = f"{place(at)} has no effect: {why}. {hint}"
        self.warnings.append(message.rstrip())

    def is_typed(self, path: Place) -> bool:
        """Returns True if the value at this place is, or is part of, a typed value."""
        return self._typed_above(path) is not None

    def origin(self, path: Place) -> Place:
        """Returns the place where this value was given: an input, or the document itself."""
        above = self._typed_above(path)
        return path if above is None else self._origins[above]

    def note(self, path: Place, message: str, hint: str = "") -> None:
        """Notes a problem: at the input for a typed value, else in the document."""
        problem(self.problems, self.origin(path), message, hint)

    def name(self, find: Callable[..., T], named: str, at: Place, *kinds: Any) -> T | None:
        """Returns what `find` resolves a class name to; None, with a problem noted, where it may
        not be named."""
        if self.is_typed(at):
            self.note(at, "An input cannot choose a class.")
            return None
        try:
            return find(named, *kinds)
        except names.UnknownName as error:
            self.note(at, str(error))
            return None

    def needs(self, package: Package, what: str, at: Place, hint: str = "") -> bool:
        """Returns False, and notes it, if the package that `what` needs is not installed."""
        if package.is_missing:
            message = f"{what} needs {package.name}, which is not installed."
            self.note(at, message, f"{hint}{package.how_to_add}")
        return not package.is_missing

    def near(self, path: Path) -> str:
        """Returns a hint naming a similar file beside this path, where that may be disclosed."""
        return near(path, self._media)

    def _typed_above(self, path: Place) -> Place | None:
        local = self._local(path)
        places = (local[:length] for length in range(1, len(local) + 1))
        return next((place for place in places if place in self._literal), None)

    def read(self, value: Any, path: Place, *, handed_down: bool = False) -> Value:
        """Returns the document's value at this place; notes a problem and returns a None-literal
        where it is wrong."""
        key = _key(path)
        if isinstance(value, READY):
            return value  # type: ignore[no-any-return]
        typed = self.is_typed(path)
        reference = None if typed else parse(value)
        if reference is not None and reference.kind == "previous_result":
            return self.result(reference.target, path, handed_down=handed_down)
        kind = media_kind(key) or media_kind(self._variable(path))
        is_object = isinstance(value, dict)
        if not typed and is_object and {"media_type", "location"} <= value.keys():
            return self.media(value, path, kind or "image", handed_down=handed_down)
        if kind is not None and (not is_object or "location" in value):
            return self.media(value, path, kind, handed_down=handed_down)
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
        if is_built(value):
            return built_value(self, value, path, handed_down=handed_down)
        entries = {
            key: self.read(item, (*path, key), handed_down=handed_down)
            for key, item in value.items()
        }
        if _any_special(entries.values()):
            return ObjectValue(entries=entries)
        return LiteralValue(value={key: _json(entry) for key, entry in entries.items()})

    def result(self, target: str, path: Place, *, handed_down: bool) -> Value:
        """Resolves a reference: an exact step name first, else the longest one followed by a dot
        and a property."""
        name = target[:MAX_NAME_LENGTH]
        while name not in self._steps:
            name, dot, _ = name.rpartition(".")
            if not dot:
                name = shortened(target.partition(".")[0])
                self.note(
                    path, f"There is no earlier step '{name}'.", self._not_earlier(name, path)
                )
                return LiteralValue(value=None)
        step, wanted = self._steps[name], target[len(name) :].lstrip(".")
        known = self._properties.get(step, ())
        if wanted and known and wanted not in known:
            hint = nearest(wanted, known) or f"It makes: {', '.join(known)}."
            self.note(path, f"Step '{name}' makes no '{wanted}'.", hint)
        handed_at = place(path) if handed_down else ""
        return ResultValue(step=step, property=wanted, handed_at=handed_at)

    def _not_earlier(self, name: str, path: Place) -> str:
        """Returns a hint for the name of a step that has not been read."""
        if name not in self._all_steps:
            return nearest(name, self._steps)
        own = self._local(path)[1]
        is_own = isinstance(own, int) and self._all_steps[own] == name
        return "It cannot use its own results." if is_own else f"Step '{name}' comes later."

    def media(
        self, value: Any, path: Place, kind: MediaKind, *, handed_down: bool = False
    ) -> Value:
        """Returns the file or URL a document names at this place; several for a list."""
        if isinstance(value, READY):
            return value  # type: ignore[no-any-return]
        if value is None:
            return LiteralValue(value=None)
        typed = self.is_typed(path)
        reference = None if typed else parse(value)
        if reference is not None and reference.kind == "previous_result":
            return self.result(reference.target, path, handed_down=handed_down)
        if isinstance(value, dict) and not typed:
            if "location" not in value:
                return self._object(value, path, handed_down)
            told = value.get("media_type", kind)
            if isinstance(told, str) and told in SUFFIXES:
                at = (*path, "location")
                return self.media(value["location"], at, told, handed_down=handed_down)
            offered = ", ".join(SUFFIXES)
            self.note((*path, "media_type"), f"{told!r} is not one of: {offered}.")
            return LiteralValue(value=None)
        if isinstance(value, list):
            read = (
                self.media(item, (*path, i), kind, handed_down=handed_down)
                for i, item in enumerate(value)
            )
            return ListValue(items=tuple(read))
        return media_value(
            value,
            kind,
            folder=self.folder,
            inside=self._media if typed else (*self._media, self.folder),
            urls=self._urls,
            limits=self._limits,
            place=place(self.origin(path)),
            note=lambda message, hint="": self.note(path, message, hint),
            is_mask=kind == "image" and (is_mask(_key(path)) or is_mask(self._variable(path))),
        )

    def _name(self, key: str, value: Any, path: Place, typed: bool) -> Value:
        """Applies the dialect's type rule: a dtype, or a braced plain string.

        A typed value is a plain string, with or without braces, unless it names a dtype of torch in
        full.
        """
        if not isinstance(value, str):
            return LiteralValue(value=value)
        text = names.unbraced(value)
        if text is not None or (typed and not value.startswith("torch.")):
            return LiteralValue(value=value if text is None else text)
        if key.endswith("_type"):
            self.note(path, f"'{value}' would name a class, which no argument takes.",
                      f"For the plain text write '{{{value}}}'.")  # fmt: skip
            return LiteralValue(value=None)
        try:
            return DTypeValue(dtype=names.dtype_name(value))
        except names.UnknownName as error:
            self.note(path, str(error))
            return LiteralValue(value=None)

    def _variable(self, path: Place) -> str:
        """Returns the name of the variable whose value stands here; "" for none."""
        return self._variables.get(self._local(path), "")

    def _local(self, path: Place) -> Place:
        """Returns the path within its own document: from the last `steps` on."""
        starts = [i for i, part in enumerate(path) if part == "steps" and i + 1 < len(path)]
        starts = [i for i in starts if isinstance(path[i + 1], int)]
        return path[starts[-1] :] if starts else path


def _key(path: Place) -> str:
    return str(next(part for part in reversed(path) if isinstance(part, str)))


def _any_special(values: Any) -> bool:
    return any(not isinstance(value, LiteralValue) for value in values)


def _json(value: Value) -> JsonValue:
    assert isinstance(value, LiteralValue)
    return value.value
