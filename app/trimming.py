"""Chooses the files to remove from a folder of bounded size; `app.janitor` removes them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple


class Item(NamedTuple):
    """A file, or a folder that is removed as one."""

    path: Path
    size_bytes: int
    used_at: float
    """When it was last written or used, in Unix seconds."""


class Needed(NamedTuple):
    """What unfinished runs need."""

    run_ids: frozenset[str] = frozenset()
    files: frozenset[Path] = frozenset()


def choose_removals(
    items: Iterable[Item],
    *,
    max_bytes: int | None,
    max_count: int | None = None,
    needed: Collection[Path] = (),
    fresh_since: float,
    stale_before: float | None = None,
) -> list[Item]:
    """Returns the items to remove: all stale ones, then the oldest until the rest is within bounds.

    Keeps what is needed, and what has been used since `fresh_since`, in any case.
    """
    oldest_first = sorted(items, key=lambda each: each.used_at)
    left_bytes, left = sum(each.size_bytes for each in oldest_first), len(oldest_first)
    leaving: list[Item] = []
    for each in oldest_first:
        if each.path in needed or each.used_at >= fresh_since:
            continue
        stale = stale_before is not None and each.used_at < stale_before
        over = (max_bytes is not None and left_bytes > max_bytes) or (
            max_count is not None and left > max_count
        )
        if stale or over:
            leaving.append(each)
            left_bytes -= each.size_bytes
            left -= 1
    return leaving


def files_of(folder: Path) -> Sequence[Item]:
    """Returns every file in the folder and below, without those removed meanwhile."""
    found = []
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
        except OSError:
            continue
        if path.is_file() and not path.is_symlink():
            found.append(Item(path, status.st_size, status.st_mtime))
    return found
