"""Set-up of a worker process before any library is imported."""

from __future__ import annotations

import sys

from tqdm.std import TqdmDefaultWriteLock  # type: ignore[import-untyped]

HUB_KERNELS = "kernels"

ENVIRONMENT = {
    # Weights are used in place in their memory-mapped files, at any alignment. Without STRICT MKL's
    # matrix products differ in their last bits where an operand is not aligned to 16 bytes (on
    # AMD). It costs nothing but in products with one or two rows (10 to 50 %); aligned copies would
    # make each load several times as long. Needed with torch 2.13.0.
    "MKL_CBWR": "AUTO,STRICT",
}


def forbid_hub_kernels() -> None:
    """Makes the package `kernels`, which runs compiled code of the hub, count as missing.

    Where it is installed bitsandbytes makes it download some when it is imported, and diffusers
    does so without being asked. Needed with bitsandbytes 0.50.2.
    """
    sys.modules[HUB_KERNELS] = None  # type: ignore[assignment]


def avoid_named_semaphore() -> None:
    """Makes tqdm do without its lock between processes.

    It is a named semaphore, which Python reports as leaked on stderr when this process ends by
    os._exit or SIGKILL. Only one process draws progress bars here. Needed with tqdm 4.70.1.
    """
    TqdmDefaultWriteLock.mp_lock = None
