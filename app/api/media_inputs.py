"""Media that a request brings: a URL, a `data:` URL, a result of an earlier run, a sent file."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.api.files import MEDIA_TYPES
from app.api.inputs import EXAMPLES
from app.api.upload_folder import UploadFolder
from app.dialect.inputs import InputSpec
from app.errors import BodyTooLarge, InvalidInputs
from app.media.urls import is_url
from app.units import size

SUFFIXES = {kind: suffix for suffix, kind in reversed(MEDIA_TYPES.items())}
"""The first suffix of each type."""


class MediaInputs:
    """Turns what a request gives for a file into a path or a URL."""

    def __init__(
        self, uploads: UploadFolder, max_file_bytes: int, result_path: Callable[[str], Path | None]
    ) -> None:
        """`result_path` returns the file of the result at an address; None for another text."""
        self._uploads = uploads
        self._max_file_bytes = max_file_bytes
        self._result_path = result_path

    def keep(self, content: bytes, name: str) -> Path:
        """Keeps a sent file under a name like this; returns its path. Raises BodyTooLarge."""
        if len(content) > self._max_file_bytes:
            raise BodyTooLarge(
                f"A file has {size(len(content))}; {size(self._max_file_bytes)} are taken.",
                hint="Its limit is DW_MAX_UPLOAD_BYTES.",
            )
        return self._uploads.keep(content, name)

    def file_of(self, value: Any) -> str | None:
        """Returns the path or URL of the value; None if it is no media.

        A `Path` is a file from `keep`: no request can hold one. Raises InvalidInputs for a
        malformed `data:` URL, UnknownResult and BodyTooLarge.
        """
        if isinstance(value, Path):
            return str(value)
        if not isinstance(value, str):
            return None
        if value[:5].lower() == "data:":
            return str(self.keep(*_decoded(value)))
        if is_url(value):
            return value
        path = self._result_path(value)
        return None if path is None else str(path)


def how_to_send(spec: InputSpec) -> str:
    """Returns the hint for an input that takes a file."""
    example = EXAMPLES[spec.media or "image"]
    return (
        f"Send the file in a form (curl -F {spec.name}=@{example}), or give a URL, a data: URL, or"
        " the address of a result."
    )


def _decoded(url: str) -> tuple[bytes, str]:
    """Returns the content of a `data:` URL, and a name for it. Raises InvalidInputs."""
    head, comma, body = url[5:].partition(",")
    kind, *parameters = head.split(";")
    if not comma or [each.strip().lower() for each in parameters[-1:]] != ["base64"]:
        raise InvalidInputs(
            "A data: URL is malformed.", hint="It has the form data:image/png;base64,…"
        )
    try:
        content = base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInputs("A data: URL does not hold base64.") from None
    return content, f"file{SUFFIXES.get(kind.strip().lower(), '')}"
