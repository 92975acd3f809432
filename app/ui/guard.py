"""The guard in front of the page: who may talk to it, and what never leaves it.

Gradio answers any Host, lets any origin in on every host but loopback, and streams public URLs
through `/file=http…`. The guard is mounted always. It checks names (Host) and origins, refuses the
two proxies, and takes cross-origin permissions and content sniffing out of every answer.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from app.settings import UiSettings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_PROXIES = re.compile(r"/(file|proxy)=\s*[a-z][a-z0-9+.-]*:/|/proxy=", re.IGNORECASE)
_FILES = re.compile(r"/file=")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

_ADDED = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin")]
_SANDBOX = (b"content-security-policy", b"sandbox")


@dataclass(frozen=True)
class Names:
    """The host names the page answers to."""

    exact: frozenset[str]
    suffixes: tuple[str, ...] = ()
    addresses: bool = False
    """Whether any literal IP address is fine: rebinding needs a name."""

    def accept(self, host: str) -> bool:
        """Whether a Host header with this name (without port) is for this page."""
        name = host.lower().strip("[]")
        if name in self.exact or name.endswith(self.suffixes or ("\0",)):
            return True
        return self.addresses and _is_address(name)


def names_for(settings: UiSettings) -> Names:
    """The names under which a page with these settings may be reached."""
    exact = {*_LOOPBACK, *(name.lower() for name in settings.allowed_hosts)}
    if not settings.beyond_loopback:
        return Names(frozenset(exact))
    suffixes = (".gradio.live",) if settings.share else ()
    if settings.host in _LOOPBACK:
        return Names(frozenset(exact), suffixes)
    exact |= {settings.host.lower(), socket.gethostname().lower()}
    return Names(frozenset(exact), (*suffixes, ".hf.space"), addresses=True)


def refusal(path: str, host: str, origin: str | None, names: Names) -> tuple[int, str] | None:
    """The status and sentence with which a request is turned away; None where it may pass.

    `host` and `origin` are the headers as they came, `origin` None where there was none.
    """
    if not names.accept(_name_of(host)):
        return 421, (
            f"This page does not answer to the name '{_name_of(host)}'. "
            "Add the name to DW_ALLOWED_HOSTS if it is meant to."
        )
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        return 403, "Requests from other sites are refused."
    if _PROXIES.search(path):
        return 404, "Not found."
    return None


class Guard:
    """ASGI middleware that applies `refusal` and cleans the headers of every answer."""

    def __init__(self, app: App, *, names: Names, root_path: str = "") -> None:
        self._app = app
        self._names = names
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        if self._root_path and scope["path"].startswith(f"{self._root_path}/"):
            # Some reverse proxies leave the path on which they serve the page, others take it off.
            scope = {**scope, "path": scope["path"].removeprefix(self._root_path)}
            scope["raw_path"] = quote(scope["path"]).encode()
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refused = refusal(
            scope["path"], headers.get(b"host", ""), headers.get(b"origin"), self._names
        )
        if refused is not None:
            await _refuse(scope, send, *refused)
            return

        async def cleaned(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = _clean(message.get("headers", []), scope["path"])
            await send(message)

        await self._app(scope, receive, cleaned)


def _clean(headers: Iterable[tuple[bytes, bytes]], path: str) -> list[tuple[bytes, bytes]]:
    # The page asks only its own origin: nobody needs permission to read it from elsewhere.
    kept = [
        (name, value)
        for name, value in headers
        if not name.lower().startswith(b"access-control-allow-")
    ]
    # A file somebody uploaded must never run as a document of this origin.
    return [*kept, *_ADDED, *([_SANDBOX] if _FILES.search(path) else [])]


async def _refuse(scope: Scope, send: Send, status: int, sentence: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": sentence})
        return
    body = sentence.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_ADDED]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _name_of(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # an IPv6 address whose bracket is missing
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
