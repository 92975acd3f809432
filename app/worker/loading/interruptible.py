"""Loads that can be broken off: a library loads a component in one call, which minutes may pass in.

No module is called meanwhile, so what is a checkpoint in a run is none here. Functions of torch are
called, though, for every tensor that is read, converted or quantised.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

Checkpoint = Callable[[], None]
"""Raises what is to end the load; else nothing happens."""


@contextlib.contextmanager
def interruptible(checkpoint: Checkpoint) -> Iterator[None]:
    """Inside, every function of torch that this thread calls is a checkpoint.

    However a load ends, it leaves torch as it was: diffusers 0.42.1 leaves torch's default dtype
    that of a model whose construction did not end, and all that is computed later would be of it.
    """
    dtype = torch.get_default_dtype()
    try:
        with _Checkpoints(checkpoint):
            yield
    finally:
        torch.set_default_dtype(dtype)


class _Checkpoints(TorchFunctionMode):
    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self._checkpoint = checkpoint

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # A quantiser's own kernel may be compiled meanwhile.
        if not torch.compiler.is_compiling():
            self._checkpoint()
        return func(*args, **(kwargs or {}))
