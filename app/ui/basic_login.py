"""Name and password in the header of a request: `Authorization: Basic`."""

from __future__ import annotations

import base64
import re

from starlette.requests import Request

PATHS = re.compile(r"/(v1|sdapi/v1)/.*")
"""Paths that take them. Nothing of the page does: a browser would send them by itself."""
NOBODY = ("", "")
"""What cannot be read; no account has this name."""


def basic_of(request: Request) -> tuple[str, str] | None:
    """Returns the name and the password that come with a request; None for none."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic" or PATHS.fullmatch(request.scope["path"]) is None:
        return None
    try:
        sent = base64.b64decode(encoded.strip(), validate=True)
    except ValueError:
        return NOBODY
    try:
        text = sent.decode()
    except UnicodeDecodeError:
        # The client `requests` encodes so.
        text = sent.decode("latin-1")
    name, colon, password = text.partition(":")
    return (name, password) if colon else NOBODY
