"""The device of a worker: choice, memory measurement, freeing memory, out-of-memory errors."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from app.errors import DeviceUnusable, first_line
from app.machine import ram_free_and_total_bytes, resident_and_anonymous_bytes
from app.protocol import MemoryUse, Place
from app.settings import WorkerSettings
from app.worker.loading.origins import Origin, fill_weights

if TYPE_CHECKING:
    import torch

MACHINE_OUT_OF_MEMORY = re.compile(
    # The last is oneDNN's when a convolution's workspace cannot be allocated; with further words
    # ("… descriptor") it means something else.
    r"can't allocate memory|Cannot allocate memory|could not create a primitive$"
)
DEVICE_OUT_OF_MEMORY = re.compile(r"out of memory|ALLOC_FAILED")
"""Messages of GPU drivers and CUDA libraries for which torch has no class."""
REFUSED_AMOUNT = re.compile(r"tried to allocate (\d+(?:\.\d+)?) (\w+)", re.IGNORECASE)
"""The refused amount in messages of torch's allocators for CPU, CUDA and MPS."""


class Device:
    """The one device this worker computes on."""

    def __init__(self, wanted: str) -> None:
        self.torch_device = _choose(wanted)

    def __str__(self) -> str:
        return str(self.torch_device)

    def check(self) -> None:
        """Raises DeviceUnusable if nothing can be computed on it."""
        try:
            torch.zeros(1, device=self.torch_device)
        except (RuntimeError, AssertionError) as error:
            why = first_line(error).rstrip(".")
            raise DeviceUnusable(
                f"The device '{self}' cannot be used: {why}.",
                hint="Choose another one with --device or --devices (DW_DEVICE, DW_DEVICES).",
            ) from error

    @property
    def is_accelerator(self) -> bool:
        """True if models move to it from RAM."""
        return self.torch_device.type != "cpu"

    @property
    def name(self) -> str:
        if self.torch_device.type == "cuda":
            return torch.cuda.get_device_name(self.torch_device)
        return "Apple GPU" if self.torch_device.type == "mps" else "CPU"

    def memory(self) -> MemoryUse:
        ram_free_bytes, ram_total_bytes = free_bytes, total_bytes = ram_free_and_total_bytes()
        if self.is_accelerator:
            free_bytes, total_bytes = self.free_and_total_bytes()
        resident_bytes, anonymous_bytes = resident_and_anonymous_bytes()
        allocated, reserved, driver = 0, 0, 0
        if self.torch_device.type == "cuda":
            allocated = torch.cuda.memory_allocated(self.torch_device)
            reserved = torch.cuda.memory_reserved(self.torch_device)
            free, total = torch.cuda.mem_get_info(self.torch_device)
            driver = total - free
        elif self.torch_device.type == "mps":
            allocated = torch.mps.current_allocated_memory()
            reserved = driver = torch.mps.driver_allocated_memory()
        return MemoryUse(
            device_bytes=allocated,
            device_reserved_bytes=reserved,
            device_driver_bytes=driver,
            device_free_bytes=free_bytes,
            device_total_bytes=total_bytes,
            resident_bytes=resident_bytes,
            anonymous_bytes=anonymous_bytes,
            ram_free_bytes=ram_free_bytes,
            ram_total_bytes=ram_total_bytes,
        )

    def free_and_total_bytes(self) -> tuple[int, int]:
        """Returns free and total memory for models: the card's, or RAM within the cgroup."""
        if self.torch_device.type == "cuda":
            free_bytes, total_bytes = torch.cuda.mem_get_info(self.torch_device)
            # Memory cached by the allocator counts as free.
            cached = torch.cuda.memory_reserved(self.torch_device) - torch.cuda.memory_allocated(
                self.torch_device
            )
            return free_bytes + cached, total_bytes
        return ram_free_and_total_bytes()

    def exhausted_place(self, error: BaseException) -> Place:
        """Returns the place whose memory this out-of-memory error is about."""
        machine = any(_is_ram_error(each) for each in _chain(error))
        return "ram" if machine and self.is_accelerator else "device"

    def move(self, component: Any, place: Place, origin: Origin | None = None) -> None:
        """Moves a component's weights to the device or to RAM.

        In RAM, weights with an origin in files become mapped pages instead of copies.
        """
        if place == "ram" and origin is not None:
            fill_weights(component, origin)
        else:
            component.to(self.torch_device if place == "device" else "cpu")

    def tidy(self) -> None:
        """Does the light cleanup between runs."""
        gc.collect()
        self._empty_cache()

    def release(self) -> None:
        """Returns all unreferenced memory to the card and the machine."""
        gc.collect()
        if self.torch_device.type == "cuda":
            torch.cuda.synchronize(self.torch_device)
            torch.cuda.ipc_collect()  # type: ignore[no-untyped-call]
        self._empty_cache()
        if sys.platform == "linux":
            # Otherwise glibc keeps freed memory: gigabytes after a large model.
            ctypes.CDLL("libc.so.6").malloc_trim(0)

    def _empty_cache(self) -> None:
        if self.torch_device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.torch_device.type == "mps":
            torch.mps.empty_cache()


def use_threads(settings: WorkerSettings) -> None:
    """Sets torch's thread count from the settings, else to this worker's share."""
    usual = torch.get_num_threads()
    threads = settings.threads or max(1, usual // settings.workers)
    if threads != usual:
        torch.set_num_threads(threads)


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether this error, or one it was raised from, is about memory running out."""
    return any(
        _is_ram_error(each)
        or isinstance(each, torch.OutOfMemoryError)
        or (isinstance(each, RuntimeError) and DEVICE_OUT_OF_MEMORY.search(str(each)))
        for each in _chain(error)
    )


def _is_ram_error(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and bool(MACHINE_OUT_OF_MEMORY.search(str(error)))
    )


def refused_amount(error: BaseException) -> str:
    """Returns the refused amount: `151 MB`, `20.00 GiB`; empty if unknown."""
    for each in _chain(error):
        if (found := REFUSED_AMOUNT.search(str(each))) is not None:
            number, unit = found.groups()
            return f"{int(number) / 1e6:.0f} MB" if unit == "bytes" else f"{number} {unit}"
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yields the error and its causes: libraries wrap out-of-memory errors in their own."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _choose(wanted: str) -> torch.device:
    if wanted == "auto":
        there = torch.backends.mps.is_available()
        wanted = "cuda" if torch.cuda.is_available() else "mps" if there else "cpu"
    chosen = torch.device(wanted)
    # Tensors report a device with an index. Without one, each would seem to be on another device
    # and be moved before every call.
    return chosen if chosen.type == "cpu" else torch.device(chosen.type, chosen.index or 0)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch's global generators inside; restores their states afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if device.type == "cpu":
            # `torch.manual_seed` notes a stack trace for each kind of accelerator that is absent.
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)
        yield
