"""Restores the default dtype of torch after a model's construction has failed.

diffusers sets it while it constructs a model, and does not reset it where an exception ends the
construction: everything computed later would have that dtype. Needed with diffusers 0.42.1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def default_dtype_kept() -> Iterator[None]:
    """Restores torch's default dtype at the end, also after an exception."""
    dtype = torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
