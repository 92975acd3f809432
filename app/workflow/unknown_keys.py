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
        self._ignored: dict[Path, None] = {}
        self._refused: dict[Path, str] = {}
        """With the hint at what may be meant."""

    def add(self, path: Path) -> None:
        """Take note of the key at the end of this path."""
        if is_open(path):
            self._ignored[path] = None
        else:
            self._refused[path] = _near(path)

    def explain(self, path: Path, wanted: Iterable[str]) -> bool:
        """Whether one of the wanted keys is missing here only because it is mistyped.

        If so the mistyped key is the mistake, and is refused.
        """
        for each in (*self._ignored, *self._refused):
            hint = nearest(str(each[-1]), wanted) if each[:-1] == path else ""
            if hint:
                self._ignored.pop(each, None)
                self._refused[each] = hint
                return True
        return False

    @property
    def problems(self) -> list[Problem]:
        """One for every key that is refused."""
        return [
            Problem(
                place=place(path),
                message=f"'{path[-1]}' is not a known key{_here(path)}.",
                hint=hint,
            )
            for path, hint in self._refused.items()
        ]

    @property
    def warnings(self) -> list[str]:
        """One sentence for every key that is ignored."""
        return [
            f"{place(path)}: The key '{path[-1]}' is not known{_here(path)} and is ignored."
            f" {_near(path)}".rstrip()
            for path in self._ignored
        ]


def _here(path: Path) -> str:
    """A key that is known elsewhere."""
    return " here" if path[-1] in KNOWN_KEYS else ""


def _near(path: Path) -> str:
    key = str(path[-1])
    return "" if key in KNOWN_KEYS else nearest(key, KNOWN_KEYS)
