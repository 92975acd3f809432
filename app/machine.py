"""The machine's memory, and this process's part of it; without torch."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
"""Says in which cgroup of each hierarchy this process is."""


class _CgroupFiles(NamedTuple):
    """What one version of cgroups calls its files, and the lines of its statistics."""

    limits: tuple[str, ...]
    used: str
    cache: tuple[str, str]
    """Pages of files, which the kernel takes back before it lets anybody run out of memory."""


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
    """Free and all memory of the machine, within the limits of this process's cgroup and of those
    that it is in.

    What a cgroup has of pages of files counts as free, as `available` of the machine has it: a
    model that is mapped is such pages, and evicting it because of them would be no gain.
    """
    machine = psutil.virtual_memory()
    free_bytes, total_bytes = machine.available, machine.total
    for folder, files in _cgroups_of(cgroups, membership):
        limits = [n for n in (_number(folder / name) for name in files.limits) if n is not None]
        used = _number(folder / files.used)
        if limits and used is not None and min(limits) < machine.total:
            limit = min(limits)
            in_use = max(0, used - _cache_bytes(folder / "memory.stat", files.cache))
            free_bytes = min(free_bytes, max(0, limit - in_use))
            total_bytes = min(total_bytes, limit)
    return free_bytes, total_bytes


def _cgroups_of(cgroups: Path, membership: Path) -> Iterator[tuple[Path, _CgroupFiles]]:
    """The folders of this process's cgroups that count memory, each with those above it.

    A container sees its own cgroup as the topmost one, whatever path it is said to have.
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
    """Whether there seems to be one, without asking its driver: NVIDIA's, AMD's or Apple's."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd"))


def expects_accelerator(device: str) -> bool:
    """Whether a worker with this setting of its device is to find an accelerator."""
    return device != "cpu" and (device != "auto" or has_accelerator())


def resident_and_anonymous_bytes() -> tuple[int, int]:
    """This process's resident set, and of it what is no page of a file.

    Only Linux tells them apart; elsewhere all of it counts as the process's own.
    """
    resident_bytes = int(psutil.Process().memory_info().rss)
    if sys.platform != "linux":
        return resident_bytes, resident_bytes
    lines = Path("/proc/self/status").read_text().splitlines()
    found = next(line for line in lines if line.startswith("RssAnon:"))
    return resident_bytes, int(found.split()[1]) * 1024


def _number(file: Path) -> int | None:
    """The number in the file; None where there is none (`max`), or no such file."""
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
