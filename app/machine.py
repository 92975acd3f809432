"""The machine's memory, and this process's part of it; without torch."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import psutil

CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
CGROUP_USES = (
    Path("/sys/fs/cgroup/memory.current"),
    Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def ram_free_and_total_bytes() -> tuple[int, int]:
    """Free and all memory of the machine, within the limit of this process's cgroup."""
    machine = psutil.virtual_memory()
    free_bytes, total_bytes = machine.available, machine.total
    limit, used = _first_number(CGROUP_LIMITS), _first_number(CGROUP_USES)
    if limit is not None and used is not None and limit < total_bytes:
        return min(free_bytes, limit - used), limit
    return free_bytes, total_bytes


def has_accelerator() -> bool:
    """Whether there seems to be one, without asking its driver: NVIDIA's, AMD's or Apple's."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd"))


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


def _first_number(files: tuple[Path, ...]) -> int | None:
    for file in files:
        if file.is_file() and (text := file.read_text().strip()).isdigit():
            return int(text)
    return None
