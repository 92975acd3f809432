"""Cancel points during loads: a library loads a component in one call, which may take minutes.

No module is called meanwhile, so a run's usual cancel points are not reached; but torch functions
are called for every tensor that is read, converted or quantised.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from app.compat.worker.default_dtype import default_dtype_kept

CancelPoint = Callable[[], None]
"""Raises an exception to end the load; otherwise does nothing."""


@contextlib.contextmanager
def interruptible(cancel_point: CancelPoint) -> Iterator[None]:
    """Makes every torch function that this thread calls inside a cancel point."""
    with default_dtype_kept(), _CancelPoints(cancel_point):
        yield


class _CancelPoints(TorchFunctionMode):
    def __init__(self, cancel_point: CancelPoint) -> None:
        super().__init__()
        self._cancel_point = cancel_point

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Quantisers may compile kernels during a load.
        if not torch.compiler.is_compiling():
            self._cancel_point()
        return func(*args, **(kwargs or {}))
