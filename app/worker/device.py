"""The device: which one, how much memory it has, and giving memory back."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path
from typing import Any

import psutil
import torch

from app.protocol import MemoryUse, Place
from app.worker.origins import Origin, fill

CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
CGROUP_USES = (
    Path("/sys/fs/cgroup/memory.current"),
    Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
"""How the machine, a GPU's driver and CUDA's libraries say it where torch has no class for it."""


class Device:
    """The one device this worker computes on."""

    def __init__(self, wanted: str) -> None:
        self.torch_device = _choose(wanted)
        self._process = psutil.Process()

    def __str__(self) -> str:
        return str(self.torch_device)

    @property
    def is_accelerator(self) -> bool:
        """Whether models move to it from the machine's own memory."""
        return self.torch_device.type != "cpu"

    @property
    def name(self) -> str:
        """As the maker calls it."""
        if self.torch_device.type == "cuda":
            return torch.cuda.get_device_name(self.torch_device)
        return "Apple GPU" if self.torch_device.type == "mps" else "CPU"

    def memory(self) -> MemoryUse:
        """What is used now, measured."""
        ram_free_bytes, ram_total_bytes = ram_free_and_total_bytes()
        free_bytes, total_bytes = self.free_and_total_bytes()
        allocated, reserved = 0, 0
        if self.torch_device.type == "cuda":
            allocated = torch.cuda.memory_allocated(self.torch_device)
            reserved = torch.cuda.memory_reserved(self.torch_device)
        elif self.torch_device.type == "mps":
            allocated = torch.mps.current_allocated_memory()
            reserved = torch.mps.driver_allocated_memory()
        return MemoryUse(
            device_bytes=allocated,
            device_reserved_bytes=reserved,
            device_free_bytes=free_bytes,
            device_total_bytes=total_bytes,
            resident_bytes=self._process.memory_info().rss,
            anonymous_bytes=self._anonymous_bytes(),
            ram_free_bytes=ram_free_bytes,
            ram_total_bytes=ram_total_bytes,
        )

    def _anonymous_bytes(self) -> int:
        if sys.platform == "linux":
            lines = Path("/proc/self/status").read_text().splitlines()
            found = next(line for line in lines if line.startswith("RssAnon:"))
            return int(found.split()[1]) * 1024
        return int(self._process.memory_info().rss)

    def free_and_total_bytes(self) -> tuple[int, int]:
        """Free and all memory for models: the card's, or the machine's within its cgroup."""
        if self.torch_device.type == "cuda":
            free_bytes, total_bytes = torch.cuda.mem_get_info(self.torch_device)
            # What the allocator keeps for reuse is free to us.
            cached = torch.cuda.memory_reserved(self.torch_device) - torch.cuda.memory_allocated(
                self.torch_device
            )
            return free_bytes + cached, total_bytes
        return ram_free_and_total_bytes()

    def move(self, component: Any, place: Place, origin: Origin | None = None) -> None:
        """Bring a component's weights onto the device, or into RAM.

        Into RAM nothing is copied of what has its origin in files: their pages are taken instead.
        """
        if place == "ram" and origin is not None:
            fill(component, origin)
        else:
            component.to(self.torch_device if place == "device" else "cpu")

    def tidy(self) -> None:
        """The light cleanup between runs."""
        gc.collect()
        self._empty_cache()

    def release(self) -> None:
        """Give back all memory that nothing refers to any more, to the card and to the machine."""
        gc.collect()
        if self.torch_device.type == "cuda":
            torch.cuda.synchronize(self.torch_device)
            torch.cuda.ipc_collect()  # type: ignore[no-untyped-call]
        self._empty_cache()
        if sys.platform == "linux":
            # glibc keeps freed memory otherwise: gigabytes after a large model.
            ctypes.CDLL("libc.so.6").malloc_trim(0)

    def _empty_cache(self) -> None:
        if self.torch_device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.torch_device.type == "mps":
            torch.mps.empty_cache()


def ram_free_and_total_bytes() -> tuple[int, int]:
    """Free and all memory of the machine, within the limit of this process's cgroup."""
    machine = psutil.virtual_memory()
    free_bytes, total_bytes = machine.available, machine.total
    limit, used = _first_number(CGROUP_LIMITS), _first_number(CGROUP_USES)
    if limit is not None and used is not None and limit < total_bytes:
        return min(free_bytes, limit - used), limit
    return free_bytes, total_bytes


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is a device or the machine saying that memory is out."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)
    )


def _choose(wanted: str) -> torch.device:
    if wanted != "auto":
        return torch.device(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _first_number(files: tuple[Path, ...]) -> int | None:
    for file in files:
        if file.is_file() and (text := file.read_text().strip()).isdigit():
            return int(text)
    return None
