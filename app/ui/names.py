"""The host names the page answers to."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from app.settings import UiSettings

SPACES = ".hf.space"
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Names:
    """The host names the page answers to."""

    exact: frozenset[str]
    suffixes: tuple[str, ...] = ()
    addresses: bool = False
    """True if any literal IP address is accepted: DNS rebinding needs a name."""
    given: frozenset[str] = frozenset()
    """The names in `exact` given by the operator: a reverse proxy's."""

    def is_published(self, name: str) -> bool:
        """Returns True for a name behind a proxy, which alone knows if it was asked by https."""
        return name.lower() in self.given or name.lower().endswith(self.suffixes or ("\0",))

    def accept(self, host: str) -> bool:
        """Returns True if a Host header with this name (without port) is for this page."""
        name = host.lower().strip("[]")
        if name in self.exact or name.endswith(self.suffixes or ("\0",)):
            return True
        return self.addresses and _is_address(name)


def names_for(settings: UiSettings) -> Names:
    """Returns the names under which a page with these settings may be reached."""
    given = frozenset(name.lower() for name in settings.allowed_hosts)
    exact = {*_LOOPBACK, *given}
    if not settings.beyond_loopback:
        return Names(frozenset(exact), given=given)
    suffixes = (".gradio.live",) if settings.share else ()
    if settings.host in _LOOPBACK:
        return Names(frozenset(exact), suffixes, given=given)
    exact |= {settings.host.lower(), socket.gethostname().lower()}
    return Names(frozenset(exact), (*suffixes, SPACES), addresses=True, given=given)


def public_host(host: str, forwarded: str | None, names: Names) -> str:
    """Returns the name and port a browser asked for: the proxy's value counts where it names a host
    that the operator has named too."""
    if forwarded is not None and name_of(forwarded).lower() in names.given:
        return forwarded
    return host


def name_of(host: str) -> str:
    """Returns the name in a Host header, which may have a port; "" where it has none."""
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
