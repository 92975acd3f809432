"""Reads a wheel's dependencies from the lists of requirements, which are their only place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PINNED = re.compile(r"^[\w.-]+==[\w.]+", re.MULTILINE)


class Requirements(MetadataHookInterface):
    """The hook that pyproject.toml names."""

    def update(self, metadata: dict[str, Any]) -> None:
        root = Path(self.root)
        metadata["dependencies"] = PINNED.findall((root / "requirements.txt").read_text())
        extras = PINNED.findall((root / "requirements-extras.txt").read_text())
        metadata["optional-dependencies"] = {"extras": extras}
