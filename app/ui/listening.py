"""The sockets the page listens on, and the URLs printed for them."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterator, Sequence

from app.errors import ServeError


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[Sequence[socket.socket]]:
    """Opens sockets bound to every address of this host on one port (0: any free one).

    Nobody can connect before the server listens on them. Raises ServeError where the host is not
    this machine's or the port is taken.
    """
    with contextlib.ExitStack() as opened:
        sockets: list[socket.socket] = []
        refused: OSError | None = None
        for family, address in _addresses(host, port):
            bound = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # `::` takes IPv4 too; any other address would not.
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address != "::"))
            try:
                bound.bind((address, port_of(sockets) if sockets else port))
            except OSError as error:
                # `localhost` has two addresses, and some machines only one of the families.
                refused = error
                bound.close()
            else:
                sockets.append(bound)
        if not sockets:
            assert refused is not None
            raise ServeError(
                f"Port {port} on {host} cannot be used:"
                f" {(refused.strerror or str(refused)).lower()}.",
                hint="Choose another one with --port, or --port 0 for any that is free.",
            ) from None
        yield sockets


def _addresses(host: str, port: int) -> list[tuple[int, str]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise ServeError(
            f"This machine has no address '{host}'.", hint="Try 127.0.0.1, ::1 or 0.0.0.0."
        ) from None
    return list(dict.fromkeys((family, str(address[0])) for family, *_, address in found))


def port_of(sockets: Sequence[socket.socket]) -> int:
    """Returns the port all of them listen on."""
    return int(sockets[0].getsockname()[1])


def url(host: str, port: int) -> str:
    """Returns the page's URL on this machine."""
    if host in {"0.0.0.0", "::"}:
        host = "localhost"
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).version == 6:
            host = f"[{host}]"
    return f"http://{host}:{port}"
