"""Keys of a document that the dialect does not have: ignored aloud where it lets any key stand,
errors where it closes the set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from app.errors import Problem, nearest
from app.workflow.document import KNOWN_KEYS
from app.workflow.references import Path, place

CLOSED = {
    "chain", "frame_snap", "ip_adapter", "scheduler", "audio_scheduler", "inputs", "compile",
    "group_offload", "enable_layerwise_casting", "teacache",
}  # fmt: skip
"""Blocks whose keys the dialect closes, or hands on to a call that would refuse others."""
ACTIONS = ("pipeline", "pipeline_reference", "task", "workflow")
"""Of which a step has one."""


def is_open(path: Path) -> bool:
    """Whether the dialect lets other software's keys stand beside this one."""
    above = [part for part in path[:-1] if isinstance(part, str)]
    if not above:
        return True
    closed_lists = above[-1] == "loras" or (len(above) > 1 and above[-2] == "inputs")
    configures_pipeline = above[-2:] == ["pipeline", "configuration"]
    return not (above[-1] in CLOSED or closed_lists or configures_pipeline)


def without(tree: Any, paths: Iterable[Path]) -> Any:
    """The tree without these keys; what lies beside them is shared, not copied."""
    removals: dict[str | int, Any] = {}
    for path in paths:
        inner = removals
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
        inner[path[-1]] = None

    def rebuilt(value: Any, removed: dict[str | int, Any]) -> Any:
        if isinstance(value, dict):
            return {
                key: rebuilt(item, removed[key]) if key in removed else item
                for key, item in value.items()
                if key not in removed or removed[key] is not None
            }
        return [
            rebuilt(item, removed[index]) if index in removed else item
            for index, item in enumerate(value)
        ]

    return rebuilt(tree, removals)


class UnknownKeys:
    """The unknown keys of one document, as they are found."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._ignored: dict[Path, list[str]] = {}
        """By the place of the object they stand in."""

    def add(self, path: Path) -> None:
        """Take note of the key at the end of this path."""
        key = str(path[-1])
        if is_open(path):
            self._ignored.setdefault(path[:-1], []).append(key)
        else:
            self._refuse(path, nearest(key, KNOWN_KEYS))

    def explain(self, path: Path, wanted: Iterable[str]) -> bool:
        """Whether one of the wanted keys is missing here only because it is mistyped.

        If so the mistyped key is the mistake, and is refused.
        """
        for key in self._ignored.get(path, ()):
            hint = nearest(key, wanted)
            if hint:
                self._ignored[path].remove(key)
                self._refuse((*path, key), hint)
                return True
        return any(
            found.place == place((*path, key)) and found.hint.endswith(f"'{name}'?")
            for found in self.problems
            for name in wanted
            for key in [found.message.split("'")[1]]
        )

    @property
    def warnings(self) -> list[str]:
        """One sentence for every key that is ignored."""
        return [
            f"{place((*path, key))}: The key '{key}' is not known and is ignored."
            f" {nearest(key, KNOWN_KEYS)}".rstrip()
            for path, keys in self._ignored.items()
            for key in keys
        ]

    def _refuse(self, path: Path, hint: str) -> None:
        message = f"'{path[-1]}' is not a known key."
        self.problems.append(Problem(place=place(path), message=message, hint=hint))
