"""Headers of answers: an allow list of Gradio's, and those added to every answer."""

from __future__ import annotations

import re
from collections.abc import Iterable

Headers = list[tuple[bytes, bytes]]

KEPT = frozenset(
    {
        b"accept-ranges", b"allow", b"cache-control", b"content-disposition", b"content-encoding",
        b"content-length", b"content-range", b"content-type", b"etag", b"last-modified",
        b"location", b"retry-after", b"set-cookie", b"transfer-encoding", b"vary",
        b"www-authenticate", b"x-should-retry",
    }
)  # fmt: skip
"""Gradio answers a range request with all headers of that request, including the cookie."""

_FILES = re.compile(r"/file=|/v1/results/")
SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; media-src 'self'; img-src 'self'"
"""A generated or uploaded file must never run as a document of this origin."""


def policy(frame_ancestors: Iterable[str]) -> str:
    """Returns the Content-Security-Policy of the page.

    Gradio compiles functions from strings in the page's events (`unsafe-eval`), writes scripts and
    styles into the document, and plays audio with a module it generates (`blob:`).
    """
    ancestors = " ".join(("'self'", *frame_ancestors))
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self' blob: 'unsafe-inline' 'unsafe-eval'",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "media-src 'self' data: blob:",
            "font-src 'self' data:",
            "connect-src 'self' data: blob:",
            "worker-src 'self' blob:",
            "manifest-src 'self'",
            "form-action 'self'",
            "base-uri 'self'",
            f"frame-ancestors {ancestors}",
        )
    )


def cleaned(headers: Iterable[tuple[bytes, bytes]], path: str, page_policy: str) -> Headers:
    """Returns the headers of an answer as they are sent."""
    kept = [(name, value) for name, value in headers if name.lower() in KEPT]
    return [*kept, *added(SANDBOX if _FILES.search(path) else page_policy)]


def added(content_policy: str) -> Headers:
    """Returns the headers that every answer gets."""
    return [
        (b"content-security-policy", content_policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
    ]
