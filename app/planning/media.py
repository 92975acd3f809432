"""Plans media that a document or a person names: a file, or a URL to be fetched."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from app.dialect.files import can_be_path, path_from
from app.dialect.plan_values import (
    FileValue,
    LiteralValue,
    RemoteValue,
    Value,
)
from app.errors import nearest
from app.media import images
from app.media.files import ACCEPTED, KIND_NAMES, SUFFIXES, MediaKind, WrongMediaError, suffix_of
from app.media.urls import RefusedURLError, checked_url, is_url
from app.mistakes import shown
from app.settings import MediaLimits, UrlSettings
from app.stamps import FileStamp, stamp_of


class Note(Protocol):
    """Notes a problem of the value."""

    def __call__(self, message: str, hint: str = "") -> None: ...


def media_value(
    value: Any,
    kind: MediaKind,
    *,
    folder: Path,
    inside: Iterable[Path],
    urls: UrlSettings,
    limits: MediaLimits,
    place: str,
    note: Note,
    is_mask: bool = False,
) -> Value:
    """Returns the file or the URL; notes a problem where it may not be read or fetched.

    `folder` is the document's own; the file must lie in one of `inside` once links are followed.
    Nothing is fetched here.
    """
    if not isinstance(value, str):
        note(f"A {KIND_NAMES[kind]} file is needed, not {shown(value)}.")
    elif is_url(value):
        if not urls.media_urls:
            note(
                f"A {KIND_NAMES[kind]} from the network is not fetched by this server.",
                "Use a file. The operator can allow URLs with DW_MEDIA_URLS=1.",
            )
            return LiteralValue(value=None)
        try:
            checked_url(value, urls.media_hosts)
        except RefusedURLError as error:
            note(str(error))
        else:
            return RemoteValue(kind=kind, is_mask=is_mask, url=value, place=place)
    elif not can_be_path(folder / value):
        note("No file can have this name.")
    else:
        file = path_from(folder, value).resolve()
        if wrong := _file_problem(value, file, kind, inside, folder, limits):
            note(*wrong)
        elif is_mask and (ambiguous := mask_problem(file, limits, stamp_of(file))):
            note(ambiguous)
        else:
            return file_value(file, kind, is_mask=is_mask)
    return LiteralValue(value=None)


def file_value(file: Path, kind: MediaKind, *, is_mask: bool = False) -> Value:
    """Returns the value of a file that has been checked."""
    sha256 = _content(file, stamp_of(file))
    return FileValue(kind=kind, is_mask=is_mask, path=str(file), sha256=sha256)


def near(path: Path, private: Iterable[Path]) -> str:
    """Returns a hint naming a similar file beside this path. There is none for private folders,
    which hold others' results and uploads; nothing is private to a person who may read
    everything."""
    others = [root.resolve() for root in private if root != Path("/")]
    if any(path.is_relative_to(root) for root in others):
        return ""
    with contextlib.suppress(OSError), os.scandir(path.parent) as there:
        return nearest(path.name, (each.name for each in there))
    return ""


def _file_problem(
    value: str,
    file: Path,
    kind: MediaKind,
    inside: Iterable[Path],
    folder: Path,
    limits: MediaLimits,
) -> tuple[str, ...]:
    called = KIND_NAMES[kind]
    if not any(file.is_relative_to(each.resolve()) for each in inside):
        return (f"The {called} '{value}' lies outside the folders it may come from.",)
    if kind != "image" and file.suffix.lower() not in ACCEPTED[kind]:
        return (f"'{file.name}' is not a {called} file ({', '.join(SUFFIXES[kind])}).",)
    if not file.is_file():
        private = [each for each in inside if each != folder]
        return (f"There is no {called} '{value}'.", near(file, private))
    wrong = _content_problem(file, kind, limits, stamp_of(file))
    return (wrong,) if wrong else ()


# A document may name one file a thousand times: it is read once while unchanged.
@functools.lru_cache(maxsize=1024)
def _content(file: Path, _stamp: FileStamp) -> str:
    """Returns the SHA-256 of the file's bytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@functools.lru_cache(maxsize=1024)
def mask_problem(file: Path, limits: MediaLimits, _stamp: FileStamp) -> str:
    """Returns why this picture cannot be a mask, in words; "" if it can."""
    try:
        images.read_mask(file, limits.max_picture_pixels)
    except WrongMediaError as error:
        return str(error)
    return ""


@functools.lru_cache(maxsize=1024)
def _content_problem(file: Path, kind: MediaKind, limits: MediaLimits, _stamp: FileStamp) -> str:
    """Returns the problem of the file's content in words; "" for none."""
    try:
        suffix_of(file, kind, limits)
    except WrongMediaError as error:
        return str(error)
    return ""
