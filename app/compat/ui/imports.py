"""Packages that Gradio imports where they are installed, although this page does not use them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def without(package: str) -> Iterator[None]:
    """Inside, an import of this package fails as if it were not installed.

    Gradio imports `mcp` for its own server, which takes about a second. Needed with gradio 6.31.0.
    """
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]
