"""The default dtype of torch after a model's construction has failed.

diffusers sets it while it constructs a model, and leaves it so where an exception ends the
construction: all that is computed later would be of that dtype. Needed with diffusers 0.42.1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def default_dtype_kept() -> Iterator[None]:
    """Sets torch's default dtype back at the end, however that comes."""
    dtype = torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
