"""Numbers as people read them."""

from __future__ import annotations


def size(count: int) -> str:
    """A number of bytes in the decimal units of download pages: `25 MB`, `6.9 GB`."""
    if count >= 1_000_000_000:
        return f"{count / 1e9:.1f} GB"
    if count >= 1_000_000:
        return f"{count / 1e6:.0f} MB"
    return f"{count / 1e3:.0f} kB"
