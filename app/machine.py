"""The machine's memory, and this process's use of it; without torch."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
"""Names this process's cgroup in each hierarchy."""


class _CgroupFiles(NamedTuple):
    """Names of one cgroup version's files, and of the lines in its statistics."""

    limits: tuple[str, ...]
    used: str
    cache: tuple[str, str]
    """The file cache, which the kernel releases before memory runs out."""


VERSION_1 = _CgroupFiles(
    ("memory.limit_in_bytes",),
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
)
VERSION_2 = _CgroupFiles(
    ("memory.max", "memory.high"), "memory.current", ("inactive_file", "active_file")
)


def ram_free_and_total_bytes(
    cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP
) -> tuple[int, int]:
    """Returns free and total memory of the machine, within the limits of this process's cgroup and
    its parents.

    A cgroup's file cache counts as free, as in `available` of the machine: a mapped model is such a
    cache, and evicting it because of that would gain nothing.
    """
    machine = psutil.virtual_memory()
    free_bytes, total_bytes = machine.available, machine.total
    for folder, files in _cgroups_of(cgroups, membership):
        limits = [n for n in (_number(folder / name) for name in files.limits) if n is not None]
        limit = min(limits, default=machine.total)
        if limit < machine.total and (used := _number(folder / files.used)) is not None:
            in_use = max(0, used - _cache_bytes(folder / "memory.stat", files.cache))
            free_bytes = min(free_bytes, max(0, limit - in_use))
            total_bytes = min(total_bytes, limit)
    return free_bytes, total_bytes


def _cgroups_of(cgroups: Path, membership: Path) -> Iterator[tuple[Path, _CgroupFiles]]:
    """Yields the folders of this process's cgroups that count memory, each with its parents.

    A container sees its own cgroup as the topmost one, whatever its listed path.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, files = cgroups, VERSION_2
        elif "memory" in controllers.split(","):
            root, files = cgroups / "memory", VERSION_1
        else:
            continue
        own = Path(path.lstrip("/"))
        for relative in (own, *own.parents) if ".." not in own.parts else (Path(),):
            yield root / relative, files


def has_accelerator() -> bool:
    """Returns True if there seems to be one (NVIDIA's, AMD's or Apple's), without asking its
    driver."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd"))


def expects_accelerator(device: str) -> bool:
    """Returns True if a worker with this device setting should find an accelerator."""
    return device != "cpu" and (device != "auto" or has_accelerator())


def resident_and_anonymous_bytes() -> tuple[int, int]:
    """Returns this process's resident set, and the part of it that is not pages of files.

    Only Linux distinguishes them; elsewhere all of it counts as the process's own.
    """
    resident_bytes = int(psutil.Process().memory_info().rss)
    if sys.platform != "linux":
        return resident_bytes, resident_bytes
    lines = Path("/proc/self/status").read_text().splitlines()
    found = next(line for line in lines if line.startswith("RssAnon:"))
    return resident_bytes, int(found.split()[1]) * 1024


def _number(file: Path) -> int | None:
    """Returns the number in the file; None for another text (`max`), or no such file."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _cache_bytes(statistics: Path, names: tuple[str, ...]) -> int:
    try:
        fields = (line.split() for line in statistics.read_text().splitlines())
        return sum(int(value) for name, value in fields if name in names)
    except (OSError, ValueError):
        return 0
