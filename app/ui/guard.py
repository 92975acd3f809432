"""The guard around the page: checks who may ask for what, and what leaves.

Gradio answers any Host, accepts any origin on every host but loopback, has routes nobody here
needs, and answers malformed requests with a traceback. The guard is outermost and always on. It
checks host names and origins, answers only known routes (`routes`), reads every call before Gradio
does (`calls`), and writes the headers of every answer (`answers`).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.interfaces import refused as refused_program
from app.api.json_body import RefusedBody, read
from app.log_lines import printable
from app.ui import calls, plain_errors
from app.ui.answers import cleaned, policy
from app.ui.names import SPACES, Names, name_of, public_host
from app.ui.routes import API, Route, find

log = logging.getLogger(__name__)

CONTROL = re.compile(r"[\x00-\x1f\x7f]")
OTHER_SITES = "Requests from other sites are refused."
FAULT = "The server could not answer this; its log says why."
NO_SESSION = (
    'data: {"msg": "unexpected_error", "message": "This page is not known any more.",'
    ' "success": false, "session_not_found": true}\n\n'
)
RESULTS = "/v1/results/"
HUB = "https://huggingface.co"
"""It shows its Spaces in a frame."""


def refusal(host: str, origin: str | None, names: Names) -> tuple[int, str] | None:
    """Returns the status and message that refuse a request; None where it may pass.

    `origin` is the header as received, None where there was none.
    """
    if not names.accept(name_of(host)):
        return 421, (
            f"This page does not answer to the name '{printable(name_of(host))}'. "
            "Add the name to DW_ALLOWED_HOSTS if it is meant to."
        )
    if origin is not None and _netloc(origin) != host.lower():
        return 403, OTHER_SITES
    return None


def from_another_site(path: str, headers: Mapping[bytes, str]) -> bool:
    """Returns True if the browser reports a page of another site behind this request.

    Following a link to the page or to a file is allowed.
    """
    if headers.get(b"sec-fetch-site", "none") in {"none", "same-origin"}:
        return False
    followed = headers.get(b"sec-fetch-mode") == "navigate"
    return not (followed and (path == "/" or path.startswith((f"{API}/file=", RESULTS))))


class Guard:
    """The outermost ASGI application: every request passes it, and every answer gets its
    headers."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        names: Names,
        page: Page,
        is_admitted: Callable[[Scope], Awaitable[bool]],
        root_path: str = "",
    ) -> None:
        self._app = app
        self._names = names
        self._page = page
        self._is_admitted = is_admitted
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            # Other protocols are not served.
            await send({"type": "websocket.close", "code": 1008})
            return
        if self._root_path and scope["path"].startswith(f"{self._root_path}/"):
            # Some reverse proxies pass on the path on which they serve the page, others remove it.
            scope = {**scope, "path": scope["path"].removeprefix(self._root_path)}
            scope["raw_path"] = quote(scope["path"]).encode()
        answer = _Answer(send, scope)
        try:
            scope, receive = await self._admitted(scope, receive)
            await self._app(scope, receive, answer.send)
        except Refused as refused:
            if answer.begun:
                raise
            await answer.refuse(refused)
        except Exception:
            if answer.begun and not answer.ended:
                raise  # what is sent already cannot be taken back: the connection is closed
            log.exception("%s %r could not be answered", scope["method"], scope["path"])
            if not answer.begun:
                await answer.refuse(Refused(500, FAULT))

    async def _admitted(self, scope: Scope, receive: Receive) -> tuple[Scope, Receive]:
        """Returns the request for the page. Raises Refused."""
        path, method = scope["path"], scope["method"]
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        forwarded = headers.get(b"x-forwarded-host")
        # The first of several names is the one that the browser asked for.
        forwarded = None if forwarded is None else forwarded.split(",")[0].strip()
        asked = headers.get(b"host", "")
        host = public_host(asked, forwarded, self._names)
        for name in (asked, host):
            refused = refusal(name, headers.get(b"origin") if name == host else None, self._names)
            if refused is not None:
                raise Refused(*refused)
        if from_another_site(path, headers):
            raise Refused(403, OTHER_SITES)
        if CONTROL.search(path):
            raise Refused(400, "This path has characters that no path here has.")
        if ".." in path.split("/"):
            raise Refused(404, "Not found.")
        route = find(method, path)
        if not isinstance(route, Route):
            if not route:
                raise Refused(404, "Not found.")
            raise Refused(405, "Not taken here.", ((b"allow", ", ".join(sorted(route)).encode()),))
        if not route.open:
            await self._check_login(scope)
        self._check_query(route, scope)
        if route.body in {"call", "arguments"}:
            receive = await self._with_checked_call(route, path, receive)
        if path in {"/", "/config"}:
            # Gradio would look for another page or a saved state, and raise a KeyError.
            scope = {**scope, "query_string": _without_pages(scope.get("query_string", b""))}
        return _with_public_host(scope, host, self._names), receive

    async def _check_login(self, scope: Scope) -> None:
        """Raises Refused where a login is missing, or wrong."""
        try:
            is_admitted = await self._is_admitted(scope)
        except HTTPException as error:
            headers = [(name.lower().encode(), value.encode())
                       for name, value in (error.headers or {}).items()]  # fmt: skip
            raise Refused(error.status_code, error.detail, headers) from None
        if not is_admitted:
            raise Refused(401, "Not logged in.")

    def _check_query(self, route: Route, scope: Scope) -> None:
        """Raises Refused for a call that does not exist, or a stream without a session."""
        named = route.path.fullmatch(scope["path"])
        assert named is not None
        if "event" in named.re.groupindex and not self._page.has_event(named["event"]):
            raise Refused(404, "There is no such call, or its answer was read already.")
        if route.event_stream:
            query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
            session = query.get("session_hash", [""])[-1]
            if not self._page.has_session(session):
                # A page asks this after a restart of the server; it knows this answer.
                raise Refused(200, NO_SESSION, content_type="text/event-stream")

    async def _with_checked_call(self, route: Route, path: str, receive: Receive) -> Receive:
        """Checks the request's body, and returns it for the page to read. Raises Refused."""
        sent = await _read_body(receive, calls.MAX_BYTES)
        body: bytes | None = sent
        call, arguments = calls.Call(), {}
        try:
            if route.body == "arguments":
                arguments = read(sent)
            else:
                call = calls.checked(sent)
                body = calls.written(call)
        except RefusedBody as error:
            raise _unreadable_call(str(error)) from None
        named = route.path.fullmatch(path)
        assert named is not None
        if call.fn_index is not None:
            if not self._page.has_function(call.session_hash, call.fn_index):
                raise Refused(404, "This page has expired. Reload it.")
        elif "api" in named.re.groupindex:
            if not self._page.has_endpoint(named["api"]):
                raise Refused(404, f"There is no endpoint '{named['api']}'.")
            wrong = route.body == "arguments" and self._page.mismatch(named["api"], arguments)
            if wrong:
                raise _unreadable_call(wrong)

        async def replayed() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            message = {"type": "http.request", "body": body, "more_body": False}
            body = None
            return message

        return replayed


class Page(Protocol):
    """What the guard has to know of the page."""

    def has_endpoint(self, name: str) -> bool:
        """Returns True if scripts may call this."""

    def mismatch(self, endpoint: str, arguments: Mapping[str, Any]) -> str:
        """Returns what is wrong with the arguments' names; "" for nothing."""

    def has_function(self, session: str | None, index: int) -> bool:
        """Returns True if the page, in this session, has this event."""

    def has_session(self, session: str) -> bool:
        """Returns True if an event stream waits for this session."""

    def has_event(self, event: str) -> bool:
        """Returns True if this call waits for its answer to be read."""


class Refused(Exception):
    """A request that is refused here."""

    def __init__(
        self,
        status: int,
        sentence: str,
        headers: Iterable[tuple[bytes, bytes]] = (),
        content_type: str = "text/plain; charset=utf-8",
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = [*headers, (b"content-type", content_type.encode())]


class _Answer:
    """Sends an answer with cleaned headers; records whether it has begun and ended."""

    def __init__(self, send: Send, scope: Scope) -> None:
        self._send = send
        self._scope = scope
        self.begun = False
        self.ended = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            host = dict(self._scope["headers"]).get(b"host", b"").decode("latin-1")
            ancestors = (HUB,) if name_of(host).endswith(SPACES) else ()
            headers = cleaned(message.get("headers", []), self._scope["path"], policy(ancestors))
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body":
            self.ended = not message.get("more_body", False)
        await self._send(message)

    async def refuse(self, refused: Refused) -> None:
        told = refused_program(self._scope["path"], refused.status, str(refused))
        if told is not None:
            for name, value in refused.headers:
                if name != b"content-type":
                    told.headers[name.decode()] = value.decode()
            await told(self._scope, _nothing, self.send)
            return
        body = str(refused).encode()
        length = (b"content-length", str(len(body)).encode())
        headers = [*refused.headers, length]
        await self.send(
            {"type": "http.response.start", "status": refused.status, "headers": headers}
        )
        await self.send({"type": "http.response.body", "body": body})


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def _unreadable_call(sentence: str) -> Refused:
    body = json.dumps(plain_errors.refused_call(sentence))
    return Refused(422, body, content_type="application/json")


async def _read_body(receive: Receive, most: int) -> bytes:
    """Returns the body of a request. Raises Refused where it is longer."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "The request broke off.")
        body += message.get("body", b"")
        if len(body) > most:
            raise Refused(413, f"A call may have {most // 1_000_000} MB at most.")
        if not message.get("more_body", False):
            return bytes(body)


def _with_public_host(scope: Scope, host: str, names: Names) -> Scope:
    """Returns the request with the checked host wherever Gradio looks for one.

    Headers of proxies are kept: their presence tells where a request comes from.
    """
    trusted = names.is_published(name_of(host))
    headers = []
    for name, value in scope["headers"]:
        match name.lower():
            case b"host" | b"x-forwarded-host":
                headers.append((name, host.encode("latin-1")))
            case b"x-forwarded-proto" if not trusted:
                headers.append((name, scope["scheme"].encode()))
            case b"x-gradio-server":
                pass
            case _:
                headers.append((name, value))
    return {**scope, "headers": headers}


def _without_pages(query: bytes) -> bytes:
    given = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    kept = [(name, value) for name, value in given if name not in {"page", "deep_link"}]
    return urlencode(kept).encode()


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
