"""Log-in and log-out: guesses are slowed, idle logins end, each login is separate.

Gradio keeps the names and makes the cookies. It would accept any number of guesses, never end a
login, and log everybody out when another site links to its `/logout`.
"""

from __future__ import annotations

import asyncio
import html
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.callers import PROGRAM
from app.api.people import RequestParts, address_of, current_person, person
from app.settings import UiSettings
from app.ui.basic_login import basic_of

log = logging.getLogger(__name__)

Clock = Callable[[], float]

UNDELAYED_TRIES = 5
"""Wrong passwords in a row without a delay."""
MAX_DELAY_S = 60.0
MAX_DELAY_OF_NAME_S = 2.0
"""Guesses from elsewhere do not lock a name: everybody waits a little."""
FAILURES_EXPIRE_S = 900.0
MAX_KEYS = 10_000
SHOWN_NAME = 64
OPEN_PATHS = ("/gradio_api/cancel/", "/gradio_api/heartbeat/")
"""Routes that Gradio answers without a login."""
ANONYMOUS = ""
"""The name of visitors where no login is required."""

BASIC = "app.basic_login"
"""Key of a request's scope: the name that came with the right password; None with a wrong one."""

_address: ContextVar[str] = ContextVar("address", default="unknown")


class Throttle:
    """Counts consecutive failures by key, and computes the delay of the next try."""

    def __init__(self, longest_wait_s: float, clock: Clock = time.monotonic) -> None:
        self._longest_wait_s = longest_wait_s
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """Number of failures, and time of the last."""

    def wait_s(self, key: str) -> float:
        """Returns how long the next try has to wait from now on."""
        count, last = self._failures.get(key, (0, 0.0))
        if count < UNDELAYED_TRIES:
            return 0.0
        delay = min(self._longest_wait_s, 0.5 * 2.0 ** min(count - UNDELAYED_TRIES, 30))
        return max(0.0, last + delay - self._clock())

    def failed(self, key: str) -> int:
        """Counts a failure; returns the number in a row."""
        count, last = self._failures.pop(key, (0, 0.0))
        count = 1 if self._clock() - last > FAILURES_EXPIRE_S else count + 1
        self._failures[key] = (count, self._clock())
        while len(self._failures) > MAX_KEYS:
            self._failures.popitem(last=False)
        return count

    def succeeded(self, key: str) -> None:
        """Forgets the failures."""
        self._failures.pop(key, None)


class Tokens(dict[str, str]):
    """The name of each login token; a login that was idle too long has ended.

    Replaces Gradio's own dictionary, whose logins never end.
    """

    def __init__(self, idle_s: float, anybody: str | None, clock: Clock = time.monotonic) -> None:
        super().__init__()
        self._idle_s, self._anybody, self._clock = idle_s, anybody, clock
        self._used_at: dict[str, float] = {}

    def __setitem__(self, token: str, name: str) -> None:
        for old in [each for each in self if self._is_over(each)]:
            self.end(old)
        super().__setitem__(token, name)
        self._used_at[token] = self._clock()

    def get(self, token: str | None, default: Any = None) -> Any:
        """Returns the name of this login; the default name where no login is required."""
        if token is None or token not in self:
            return self._anybody if default is None else default
        if self._is_over(token):
            self.end(token)
            return self._anybody if default is None else default
        self._used_at[token] = self._clock()
        return self[token]

    def end(self, token: str) -> None:
        """Ends this login, and no other."""
        self.pop(token, None)
        self._used_at.pop(token, None)

    def _is_over(self, token: str) -> bool:
        return self._clock() - self._used_at[token] > self._idle_s


class Logins:
    """The accounts, and the middleware in front of Gradio's login routes."""

    def __init__(self, settings: UiSettings, guests: tuple[str, str] | None) -> None:
        """`guests` is the guests' login; None where they need none, or are not admitted."""
        self._accounts = dict(each for each in (guests, settings.operator_auth) if each)
        open_to_all = guests is None and settings.public
        self.tokens = Tokens(settings.login_idle_s, ANONYMOUS if open_to_all else None)
        self._settings = settings
        self.root_path = settings.root_path
        self._addresses = Throttle(MAX_DELAY_S)
        self._names = Throttle(MAX_DELAY_OF_NAME_S)
        self._cookies: tuple[str, ...] = ()

    @property
    def exist(self) -> bool:
        """Returns True if anybody can log in at all."""
        return bool(self._accounts)

    def attach(self, gradio: Any) -> None:
        """Makes Gradio's application keep its logins here."""
        gradio.tokens = self.tokens
        self._cookies = tuple(
            f"access-token{kind}-{gradio.cookie_id}" for kind in ("", "-unsecure")
        )

    async def check(self, name: str, password: str) -> bool:
        """Returns True if name and password are right. Raises HTTPException 429 after too many
        guesses."""
        address = _address.get()
        self._check_delay(address)
        # Delayed, not refused: guesses by others must not lock a person out.
        await asyncio.sleep(self._names.wait_s(name[:SHOWN_NAME]))
        self._check_delay(address)
        expected = self._accounts.get(name, "")
        right = secrets.compare_digest(expected.encode(), password.encode()) and bool(expected)
        if right:
            self._addresses.succeeded(address)
            self._names.succeeded(name)
            return True
        count = self._addresses.failed(address)
        self._names.failed(name[:SHOWN_NAME])
        log.warning("A login as %r from %s failed (%d in a row)", name[:SHOWN_NAME], address, count)
        return False

    def _check_delay(self, address: str) -> None:
        if (wait_s := self._addresses.wait_s(address)) > 0:
            seconds = max(1, round(wait_s))
            raise HTTPException(
                429,
                f"Too many wrong passwords. Try again in {seconds} seconds.",
                {"Retry-After": str(seconds)},
            )

    async def admit(self, scope: Scope) -> bool:
        """Returns True for a request that needs no login, or brings one. Raises HTTPException 429
        after too many guesses."""
        request = Request(scope)
        sent = basic_of(request)
        # A proxy in front of the page may have a password of its own, which browsers send too.
        if sent is not None and self.exist and not self._by_cookie(request):
            _address.set(_address_of(request))
            scope[BASIC] = sent[0] if await self.check(*sent) else None
        return self.name_of(request) is not None

    def around(self, app: ASGIApp) -> LoginRoutes:
        """Returns the application with our routes before it."""
        return LoginRoutes(app, self)

    def name_of(self, request: Request) -> str | None:
        """Returns the sender of the request; None where a required login is missing, or a token
        is wrong."""
        token, expected = bearer_of(request), self._settings.api_token
        if token is not None and expected is not None:
            right = secrets.compare_digest(token.encode(), expected.encode())
            return PROGRAM if right else None
        if not self.exist:
            return ANONYMOUS
        anybody: str | None = self.tokens.get(None)
        return self._by_cookie(request) or request.scope.get(BASIC, anybody)

    def person_of(self, request: Request) -> str:
        """Returns the person counted by per-person limits."""
        asked = RequestParts(request.client, request.headers, self.name_of(request))
        return person(asked, self._settings)

    def log_out(self, request: Request) -> Response:
        """Ends the login of this request."""
        for token in self._tokens_of(request):
            self.tokens.end(token)
        answer = RedirectResponse(f"{self.root_path}/", 303)
        for cookie in self._cookies:
            answer.delete_cookie(cookie)
        return answer

    def _by_cookie(self, request: Request) -> str:
        """Returns the name of the login of this browser; "" for none."""
        names = (self.tokens.get(token) for token in self._tokens_of(request))
        return next((name for name in names if name), "")

    def _tokens_of(self, request: Request) -> list[str]:
        return [request.cookies[name] for name in self._cookies if name in request.cookies]


def bearer_of(request: Request) -> str | None:
    """Returns the token in the request's header; None for none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


class LoginRoutes:
    """ASGI middleware: forms to log in and out, and a login where Gradio asks for none."""

    def __init__(self, app: ASGIApp, logins: Logins) -> None:
        self._app, self._logins = app, logins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        _address.set(_address_of(request))
        current_person.set(self._logins.person_of(request))
        answer = self._answer(request)
        if answer is not None:
            await answer(scope, receive, send)
        elif _is_form(request):
            await self._app(scope, receive, _as_page(scope, receive, send, self._logins))
        else:
            await self._app(scope, receive, send)

    def _answer(self, request: Request) -> Response | None:
        """Returns our answer; None where Gradio answers."""
        path, method = request.scope["path"].rstrip("/"), request.method
        if path == "/logout":
            if not self._logins.exist:
                return PlainTextResponse("Not found.", 404)
            return self._logins.log_out(request) if method == "POST" else HTMLResponse(LOG_OUT)
        if path == "/login" and method == "GET" and self._logins.exist:
            return HTMLResponse(log_in_page())
        if f"{path}/".startswith(OPEN_PATHS) and self._logins.name_of(request) is None:
            return PlainTextResponse("Log in first.", 401)
        return None


def _address_of(request: Request) -> str:
    return address_of(request.client.host if request.client else None)


def _is_form(request: Request) -> bool:
    """Returns True for our form, sent by a browser that will show the answer."""
    sent = request.method == "POST" and request.scope["path"].rstrip("/") == "/login"
    return sent and "text/html" in request.headers.get("accept", "")


def _as_page(scope: Scope, receive: Receive, send: Send, logins: Logins) -> Send:
    """Sends a page instead of Gradio's JSON answer to a login."""

    async def sent(message: Message) -> None:
        if message["type"] != "http.response.start":
            return
        if message["status"] == 200:
            answer: Response = RedirectResponse(f"{logins.root_path}/", 303)
            cookies = [pair for pair in message["headers"] if pair[0].lower() == b"set-cookie"]
            answer.raw_headers += cookies
        else:
            status = message["status"]
            answer = HTMLResponse(log_in_page(FAILED.get(status, FAILED[400])), status)
        await answer(scope, receive, send)

    return sent


FAILED = {
    400: "Name or password is wrong.",
    429: "Too many wrong passwords. Try again in a minute.",
}
STYLE = (
    "<!doctype html><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    "<style>body{font:16px system-ui;max-width:20rem;margin:4rem auto;padding:0 1rem}"
    "input,button{font:inherit;display:block;width:100%;margin:.25rem 0 1rem;padding:.4rem;"
    "box-sizing:border-box}</style>"
)
LOG_OUT = (
    f"{STYLE}<title>Log out</title><form method=post>"
    "<p>This browser's login ends; others go on.</p><button>Log out</button></form>"
)


def log_in_page(wrong: str = "") -> str:
    """Returns the log-in form, with the error of the last try."""
    return (
        f"{STYLE}<title>Log in</title><form method=post>"
        f"<p role=alert>{html.escape(wrong)}</p>"
        "<label>Name <input name=username autocomplete=username required></label>"
        "<label>Password <input name=password type=password autocomplete=current-password"
        " required></label><button>Log in</button></form>"
    )
