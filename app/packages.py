"""Packages that not everybody needs: whether they are here, and how they are added."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

LISTS = ("requirements.txt", "requirements-extras.txt")
"""Where a version is written down that the tests run on."""
PINNED = re.compile(r"^([\w.-]+)==\S+", re.MULTILINE)


class Package(NamedTuple):
    """What has to be installed for something a document asks for."""

    module: str
    """As it is imported."""
    name: str
    """As pip knows it."""

    @property
    def is_missing(self) -> bool:
        """Whether it is not installed. Nothing is imported to find out, but a parent package."""
        try:
            return importlib.util.find_spec(self.module) is None
        except ModuleNotFoundError:
            return True

    @property
    def how_to_add(self) -> str:
        """The command that adds it, as a hint."""
        return f"Add it with: pip install {_pinned().get(self.name, self.name)}"


class Missing(NamedTuple):
    """What to tell of packages that are not installed."""

    message: str
    hint: str


def missing(what: str, packages: Iterable[Package]) -> Missing | None:
    """What to tell where `what` (`'canny'`) needs packages that are missing; None where none is."""
    names = [package.name for package in packages if package.is_missing]
    if not names:
        return None
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
    pinned = " ".join(_pinned().get(name, name) for name in names)
    are, them = ("are", "them") if names[1:] else ("is", "it")
    return Missing(
        f"{what} needs {listed}, which {are} not installed.",
        f"Add {them} with: pip install {pinned}",
    )


@functools.cache
def _pinned() -> dict[str, str]:
    """`name==version` of every package that is written down, by name."""
    root = Path(__file__).resolve().parent.parent
    texts = [(root / name).read_text() for name in LISTS if (root / name).is_file()]
    return {found[1]: found[0] for text in texts for found in PINNED.finditer(text)}
