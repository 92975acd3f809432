"""A web site on loopback with pages set by the test, with ETags."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from app.dialect.plan import Plan
from app.dialect.plan_values import RemoteValue, Value
from app.media.cache import MediaCache
from app.planning.media import file_value
from app.planning.plan_media import with_files
from app.settings import MediaLimits, UrlSettings
from tests.loopback import Handler, Loopback


def picture(colour: str = "red", side: int = 8, kind: str = "PNG") -> bytes:
    """Returns an image file."""
    content = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(content, kind)
    return content.getvalue()


def with_pictures(plan: Plan, folder: Path) -> Plan:
    """Returns the plan with a small image for each of its URLs; nothing is fetched.

    The cache in this folder is filled with it.
    """
    cache = MediaCache(folder, UrlSettings(), MediaLimits())
    file = folder / "picture.png"
    file.write_bytes(picture("red", 32))

    def resolve(value: RemoteValue) -> Value:
        return file_value(cache.path(cache.fill(value.url, value.kind, file)), value.kind)

    return with_files(plan, resolve)


@dataclass
class Page:
    """The page at one path."""

    content: bytes = b""
    content_type: str = "image/png"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    write: Callable[[Callable[[bytes], object]], None] | None = None
    """Instead of the content: called with a function that sends bytes, after the headers."""


class Site(Loopback):
    """Serves `pages` by path and records the requests."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.asked: list[str] = []
        """The path of every request, with its query."""
        self.answered: list[int] = []
        """The status of every answer."""
        super().__init__(_Handler)

    @property
    def urls(self) -> UrlSettings:
        """Settings of an operator who allows this site, although it is on loopback."""
        return UrlSettings(media_hosts=(f"127.0.0.1:{self.port}",))

    def url(self, path: str) -> str:
        return self.address + path

    def put(self, path: str, content: bytes = b"", **page: object) -> str:
        """Puts this page at the path; returns its URL."""
        self.pages[path] = Page(content or picture(), **page)  # type: ignore[arg-type]
        return self.url(path)

    def redirect(self, path: str, target: str) -> str:
        return self.put(path, status=302, headers={"Location": target})


class _Handler(Handler):
    served: Site

    def do_GET(self) -> None:
        self.served.asked.append(self.path)
        page = self.served.pages.get(self.path.partition("?")[0], Page(b"", status=404))
        etag = f'"{hashlib.sha256(page.content).hexdigest()[:16]}"'
        unchanged = page.status == 200 and self.headers.get("If-None-Match") == etag
        status = 304 if unchanged else page.status
        self.served.answered.append(status)
        self.send_response(status)
        headers = {"ETag": etag, "Content-Type": page.content_type}
        if page.write is None and not unchanged:
            headers["Content-Length"] = str(len(page.content))
        for name, value in {**headers, **page.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        # Clients hang up when they have enough.
        with contextlib.suppress(ConnectionError):
            if page.write is not None:
                page.write(self.wfile.write)
            elif not unchanged:
                self.wfile.write(page.content)
