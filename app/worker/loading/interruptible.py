"""Loads that can be cancelled: a library loads a component in one call, which may take minutes.

No module is called meanwhile, so the cancel points of a run are not reached. Functions of torch are
called, though, for every tensor that is read, converted or quantised.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from app.compat.worker.default_dtype import default_dtype_kept

Checkpoint = Callable[[], None]
"""Raises what ends the load; otherwise does nothing."""


@contextlib.contextmanager
def interruptible(checkpoint: Checkpoint) -> Iterator[None]:
    """Makes every function of torch that this thread calls inside a cancel point."""
    with default_dtype_kept(), _Checkpoints(checkpoint):
        yield


class _Checkpoints(TorchFunctionMode):
    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self._checkpoint = checkpoint

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # A quantiser's own kernel may be compiled meanwhile.
        if not torch.compiler.is_compiling():
            self._checkpoint()
        return func(*args, **(kwargs or {}))
