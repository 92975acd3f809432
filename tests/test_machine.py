"""The memory limits of a container, on cgroup files written here."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from app.machine import ram_free_and_total_bytes

MACHINE = psutil.virtual_memory().total
LIMIT = MACHINE // 64
"""Small, so that the machine never has less free memory."""
USED = MACHINE // 128


class Cgroups:
    """A folder like /sys/fs/cgroup, and the content of /proc/self/cgroup."""

    def __init__(self, folder: Path, membership: str) -> None:
        self._root, self._membership = folder / "cgroup", folder / "membership"
        self._membership.write_text(membership)

    def write(self, path: str, **files: object) -> None:
        """Writes files of one cgroup; `memory_max` is written as `memory.max`."""
        folder = self._root / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name.replace("_", ".", 1)).write_text(f"{content}\n")

    @property
    def free_and_total(self) -> tuple[int, int]:
        return ram_free_and_total_bytes(self._root, self._membership)


def statistics(**lines: int) -> str:
    return "\n".join(f"{name} {value}" for name, value in {"anon": 1, **lines}.items())


def test_page_cache_counts_as_free_in_a_container(tmp_path: Path):
    """A worker with mapped models fills the limit with file pages."""
    cgroups = Cgroups(tmp_path, "0::/\n")
    stat = statistics(inactive_file=USED // 2, active_file=USED // 4)
    cgroups.write("", memory_max=LIMIT, memory_current=LIMIT, memory_stat=stat)
    assert cgroups.free_and_total == (USED // 2 + USED // 4, LIMIT)


def test_page_cache_counts_as_free_under_cgroups_of_version_1(tmp_path: Path):
    cgroups = Cgroups(tmp_path, "12:cpu,cpuacct:/x\n5:memory:/docker/abc\n0::/\n")
    stat = statistics(inactive_file=1, total_inactive_file=USED // 2, total_active_file=0)
    cgroups.write(
        "memory/docker/abc",
        memory_limit_in_bytes=LIMIT,
        memory_usage_in_bytes=USED,
        memory_stat=stat,
    )
    assert cgroups.free_and_total == (LIMIT - USED + USED // 2, LIMIT)


def test_smallest_limit_of_all_enclosing_cgroups_counts(tmp_path: Path):
    cgroups = Cgroups(tmp_path, "0::/kubepods/pod/container\n")
    cgroups.write("kubepods/pod/container", memory_max="max", memory_current=USED // 2)
    cgroups.write("kubepods/pod", memory_max=LIMIT, memory_current=USED)
    cgroups.write("kubepods", memory_max=2 * LIMIT, memory_current=USED)
    assert cgroups.free_and_total == (LIMIT - USED, LIMIT)


def test_sibling_cgroup_that_fills_outer_limit_leaves_nothing(tmp_path: Path):
    cgroups = Cgroups(tmp_path, "0::/pod/mine\n")
    cgroups.write("pod/mine", memory_max=LIMIT, memory_current=0)
    cgroups.write("pod", memory_max=2 * LIMIT, memory_current=3 * LIMIT)
    assert cgroups.free_and_total == (0, LIMIT)


def test_soft_limit_counts_as_a_limit(tmp_path: Path):
    """Above `memory.high` the kernel slows a process down heavily."""
    cgroups = Cgroups(tmp_path, "0::/\n")
    cgroups.write("", memory_max="max", memory_high=LIMIT, memory_current=USED)
    assert cgroups.free_and_total == (LIMIT - USED, LIMIT)


def test_container_with_host_path_uses_its_own_limit(tmp_path: Path):
    """Docker shows the host's path and mounts only the container's own folder."""
    cgroups = Cgroups(tmp_path, "5:memory:/docker/abc\n")
    cgroups.write("memory", memory_limit_in_bytes=LIMIT, memory_usage_in_bytes=USED)
    assert cgroups.free_and_total == (LIMIT - USED, LIMIT)


@pytest.mark.parametrize("path", ["/../../other", "/a:b", "/"])
def test_cgroup_path_of_any_form_finds_the_limit(tmp_path: Path, path: str):
    cgroups = Cgroups(tmp_path, f"0::{path}\n")
    cgroups.write("", memory_max=LIMIT, memory_current=USED)
    assert cgroups.free_and_total == (LIMIT - USED, LIMIT)


@pytest.mark.parametrize("limit", ["max", 9223372036854771712, "", "no number"])
def test_machine_memory_counts_without_limit(tmp_path: Path, limit: object):
    cgroups = Cgroups(tmp_path, "0::/\n5:memory:/\n")
    cgroups.write("", memory_max=limit, memory_current=USED)
    cgroups.write("memory", memory_limit_in_bytes=limit, memory_usage_in_bytes=USED)
    free_bytes, total_bytes = cgroups.free_and_total
    assert total_bytes == MACHINE
    assert 0 < free_bytes <= MACHINE


def test_machine_memory_counts_without_cgroups(tmp_path: Path):
    free_bytes, total_bytes = ram_free_and_total_bytes(tmp_path / "none", tmp_path / "neither")
    assert (free_bytes > 0, total_bytes) == (True, MACHINE)


def test_unreadable_statistics_count_as_no_cache(tmp_path: Path):
    cgroups = Cgroups(tmp_path, "0::/\n")
    cgroups.write("", memory_max=LIMIT, memory_current=USED, memory_stat="inactive_file\nx y z")
    assert cgroups.free_and_total == (LIMIT - USED, LIMIT)
