"""What a worker's process sets before any library is imported."""

from __future__ import annotations

import sys

from tqdm.std import TqdmDefaultWriteLock  # type: ignore[import-untyped]

HUB_KERNELS = "kernels"

ENVIRONMENT = {
    # Weights are used where they lie in their files, at whatever address a header's length makes of
    # it. Without STRICT MKL's matrix products have other last bits where an operand is not aligned
    # to 16 bytes (on AMD). It costs nothing but in products with one or two rows (10 to 50 %);
    # copies that are aligned would make each load several times as long. Needed with torch 2.13.0.
    "MKL_CBWR": "AUTO,STRICT",
}


def forbid_hub_kernels() -> None:
    """Has the package `kernels` count as missing, which runs compiled code of the hub.

    Where it is installed bitsandbytes has it fetch some when it is imported, as diffusers does
    without being asked. Needed with bitsandbytes 0.50.2.
    """
    sys.modules[HUB_KERNELS] = None  # type: ignore[assignment]


def leave_no_semaphore() -> None:
    """Has tqdm do without its lock between processes.

    It is a named semaphore, which whoever outlives this process by os._exit or SIGKILL would call
    leaked on stderr. One process draws here: it needs none. Needed with tqdm 4.70.1.
    """
    TqdmDefaultWriteLock.mp_lock = None
