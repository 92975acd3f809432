"""One request to an untrusted URL: checked, bounded in time and size, cancellable.

The name is resolved here and the connection made to the address that was checked, so that the name
cannot resolve to another address a moment later. TLS still checks the certificate of the name.
Proxies of the environment are not used: they would resolve the name themselves.
"""

from __future__ import annotations

import contextlib
import http
import ipaddress
import logging
import socket
import ssl
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import httpcore

from app import __version__
from app.errors import Cancelled, FetchError
from app.media.urls import (
    RefusedURLError,
    checked_url,
    is_listed,
    is_public,
    without_query,
)

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

MAX_REDIRECTS = 5
CONNECT_S = 8.0
MAX_SILENCE_S = 15.0
"""Longest time without any data."""
TIMEOUT_S = 300.0
"""Longest time of the whole answer."""
POLL_S = 0.25
"""Interval at which a wait checks for cancellation."""
REDIRECTS = {301, 302, 303, 307, 308}
HEADERS = {
    "User-Agent": f"diffusers-workbench/{__version__}",
    "Accept": "image/*, video/*, audio/*, application/octet-stream;q=0.5",
    "Accept-Encoding": "identity",
}


class Unreachable(FetchError):
    """There was no answer, or one that a later try may change."""


class Answer(NamedTuple):
    """A server's answer, after all redirects."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name."""
    parts: Iterator[bytes]
    """The body as it arrives; raises as `open_url` does."""


@contextlib.contextmanager
def open_url(
    url: str,
    headers: Mapping[str, str],
    *,
    hosts: Collection[str] = (),
    stopped: Callable[[], bool] = lambda: False,
    whole_s: float = TIMEOUT_S,
    silent_s: float = MAX_SILENCE_S,
) -> Iterator[Answer]:
    """Opens the answer to a GET; every redirect is followed and checked as the first URL was.

    `hosts` are the `name:port` an operator allows. Raises FetchError with a sentence, Unreachable
    where a later try may succeed, Cancelled once `stopped()`.
    """
    watch = _Watch(time.monotonic() + whole_s, silent_s, stopped)
    backend = _CheckedBackend(hosts, watch)
    with contextlib.ExitStack() as opened, _fetch_errors(url):
        pool = opened.enter_context(httpcore.ConnectionPool(network_backend=backend))
        at, scheme = checked_url(url, hosts), ""
        for _ in range(MAX_REDIRECTS + 1):
            if (scheme, at.scheme) == ("https", "http"):
                raise RefusedURLError("It is redirected from https to http.")
            scheme = at.scheme
            streaming = pool.stream(
                "GET",
                httpcore.URL(
                    scheme=at.raw_scheme, host=at.raw_host, port=at.port, target=at.raw_path
                ),
                headers=_header_list(at, headers),
                extensions={"timeout": {"connect": CONNECT_S, "write": silent_s}},
            )
            # Each redirect's answer is closed before the next request.
            with contextlib.ExitStack() as this_one:
                response = this_one.enter_context(streaming)
                found = _decoded(response.headers)
                if response.status not in REDIRECTS:
                    opened.enter_context(this_one.pop_all())
                    yield Answer(response.status, found, response.iter_stream())
                    return
            if "location" not in found:
                raise RefusedURLError("The redirect names no target.")
            at = checked_url(str(at.join(found["location"])), hosts)
        raise RefusedURLError(f"It is redirected more than {MAX_REDIRECTS} times.")


def send(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    hosts: Collection[str] = (),
    whole_s: float = MAX_SILENCE_S,
) -> int:
    """POSTs the body, and returns the status of the answer; no redirect is followed.

    `hosts` are the `name:port` an operator allows although they are not public. Raises FetchError
    with a sentence, Unreachable where a later try may succeed.
    """
    backend = _CheckedBackend(hosts, _Watch(time.monotonic() + whole_s, whole_s, lambda: False))
    with (
        _fetch_errors(url, "called"),
        httpcore.ConnectionPool(network_backend=backend) as pool,
    ):
        at = checked_url(url, hosts)
        target = httpcore.URL(
            scheme=at.raw_scheme, host=at.raw_host, port=at.port, target=at.raw_path
        )
        sent = _header_list(at, {**headers, "Content-Length": str(len(body))})
        limits = {"timeout": {"connect": CONNECT_S, "write": whole_s}}
        streaming = pool.stream("POST", target, headers=sent, content=body, extensions=limits)
        with streaming as response:
            # Of the answer only the status counts.
            return int(response.status)


def status_error(url: str, answer: Answer) -> FetchError:
    """Returns the error for an answer of status 400 or more."""
    try:
        words = f"{answer.status} ({http.HTTPStatus(answer.status).phrase})"
    except ValueError:
        words = str(answer.status)
    kind = Unreachable if answer.status >= 500 or answer.status == 429 else FetchError
    return kind(f"{shown(url)} could not be fetched: the server answers {words}.")


def shown(url: str) -> str:
    """Returns the URL as messages quote it: without the query, which may give access to the
    file."""
    told = without_query(url)
    return f"'{told if len(told) <= 120 else told[:119] + '…'}'"


@contextlib.contextmanager
def _fetch_errors(url: str, done: str = "fetched") -> Iterator[None]:
    try:
        yield
    except RefusedURLError as error:
        raise FetchError(f"{shown(url)} is not {done}: {error}") from None
    except (httpcore.NetworkError, httpcore.TimeoutException) as error:
        raise Unreachable(
            f"{shown(url)} could not be {done}: {_reason(error)}.",
            hint="Is there a network? A file beside the workflow needs none.",
        ) from error
    except (httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
        raise Unreachable(f"{shown(url)} could not be {done}: the answer breaks off.") from error


def _reason(error: Exception) -> str:
    text = str(error).strip().rstrip(".")
    # The pool raises again what it caught, and hides the cause.
    cause = error.__cause__ or error.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not valid ({cause.verify_message})"
    return text or "there is no answer"


def _header_list(at: httpx.URL, given: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    host = at.netloc
    pairs = {**HEADERS, **given}.items()
    return [(b"Host", host), *((name.encode(), value.encode("latin-1")) for name, value in pairs)]


def _decoded(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


class _Watch(NamedTuple):
    """Deadline of a fetch, and its cancellation."""

    deadline: float
    silent_s: float
    stopped: Callable[[], bool]

    def check(self) -> None:
        if self.stopped():
            raise Cancelled
        if time.monotonic() > self.deadline:
            raise httpcore.ReadTimeout("it takes too long")


class _CheckedBackend(httpcore.NetworkBackend):
    """Connects to public addresses and to hosts an operator lists, and to nothing else."""

    def __init__(self, hosts: Collection[str], watch: _Watch) -> None:
        self._hosts = hosts
        self._watch = watch
        self._real = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        addresses = _addresses(host, port)
        if not is_listed(host, port, self._hosts):
            # One private address is enough to refuse: a name that has both kinds is suspicious.
            private = [address for address in addresses if not is_public(address)]
            if private:
                # The answer tells neither the address of a local name nor that the name exists.
                log.warning("The name '%s' leads to %s and is not fetched from", host, private[0])
                raise _no_public_address(host)
        failed: httpcore.NetworkError | httpcore.TimeoutException | None = None
        for address in addresses:
            self._watch.check()
            try:
                stream = self._real.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
            else:
                return _WatchedStream(stream, self._watch)
        raise failed or httpcore.ConnectError(f"the name '{host}' has no address")


def _no_public_address(host: str) -> httpcore.ConnectError:
    return httpcore.ConnectError(f"the name '{host}' leads to no public address")


def _addresses(host: str, port: int) -> list[str]:
    """Returns the addresses of the host, in the system's order of preference."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _no_public_address(host) from error
    return list(dict.fromkeys(str(each[4][0]) for each in found))


class _WatchedStream(httpcore.NetworkStream):
    """A stream whose reads end at the deadline, after too long a silence, and on cancellation."""

    def __init__(self, stream: httpcore.NetworkStream, watch: _Watch) -> None:
        self._stream = stream
        self._watch = watch

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        silent_until = time.monotonic() + self._watch.silent_s
        while True:
            self._watch.check()
            with contextlib.suppress(httpcore.ReadTimeout):
                return self._stream.read(max_bytes, POLL_S)
            if time.monotonic() > silent_until:
                raise httpcore.ReadTimeout(f"nothing came for {self._watch.silent_s:g} seconds")

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._watch.check()
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        self._watch.check()
        stream = self._stream.start_tls(ssl_context, server_hostname, timeout)
        return _WatchedStream(stream, self._watch)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
