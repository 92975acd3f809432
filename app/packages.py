"""Optional packages: whether they are installed, and the command that adds them."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Iterable
from typing import NamedTuple

from app.settings import SHIPPED

LISTS = ("requirements.txt", "requirements-extras.txt")
"""Files that pin the versions that the tests run on."""
PINNED = re.compile(r"^([\w.-]+)==\S+", re.MULTILINE)


class Package(NamedTuple):
    """A package that a feature of documents needs."""

    module: str
    """Its import name."""
    name: str
    """Its name for pip."""

    @property
    def is_missing(self) -> bool:
        """True if it is not installed. Imports nothing to find out, except a parent package."""
        try:
            return importlib.util.find_spec(self.module) is None
        except ModuleNotFoundError:
            return True

    @property
    def how_to_add(self) -> str:
        """A hint with the command that adds it."""
        return f"Add it with: pip install {_pinned().get(self.name, self.name)}"


class Missing(NamedTuple):
    """Message and hint about packages that are not installed."""

    message: str
    hint: str


def missing(what: str, packages: Iterable[Package]) -> Missing | None:
    """Returns a message for missing packages that `what` (`'canny'`) needs; None for none."""
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
    """Returns `name==version` of every pinned package, by name."""
    texts = [(SHIPPED / name).read_text() for name in LISTS if (SHIPPED / name).is_file()]
    return {found[1]: found[0] for text in texts for found in PINNED.finditer(text)}
