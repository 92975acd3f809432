"""Names of files as a document or a person gives them."""

from __future__ import annotations

import os
import re
from pathlib import Path

MAX_PATH_BYTES = 4000
MAX_NAME_BYTES = 255
PLAIN_NAME = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)*")


def can_be_path(path: str | Path) -> bool:
    """Whether a file could have this path at all; asking the system about others raises."""
    text = str(path)
    return (
        "\0" not in text
        and len(os.fsencode(text)) <= MAX_PATH_BYTES
        and all(len(os.fsencode(part)) <= MAX_NAME_BYTES for part in Path(text).parts)
    )


def is_plain(name: str) -> bool:
    """Whether this can only name something below a folder: words with `/` between them."""
    return PLAIN_NAME.fullmatch(name) is not None and ".." not in name
