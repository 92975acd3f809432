"""Readable numbers."""

from __future__ import annotations


def size(count: int) -> str:
    """Formats bytes in the decimal units of download pages: `25 MB`, `6.9 GB`."""
    if count >= 1_000_000_000:
        return f"{count / 1e9:.1f} GB"
    if count >= 1_000_000:
        return f"{count / 1e6:.0f} MB"
    return f"{count / 1e3:.0f} kB"


def duration(seconds: float) -> str:
    """Formats a duration: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 4 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def byte_progress(done: int, total: int) -> str:
    """Formats progress as `12 of 25 MB`, both numbers in the unit of the total."""
    if total >= 1_000_000_000:
        return f"{done / 1e9:.1f} of {total / 1e9:.1f} GB"
    if total >= 1_000_000:
        return f"{done / 1e6:.0f} of {total / 1e6:.0f} MB"
    return f"{done / 1e3:.0f} of {total / 1e3:.0f} kB"
