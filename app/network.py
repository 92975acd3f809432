"""Corrects the proxy settings of the environment before anything reads them."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from app.errors import BadRequest

LOOPBACK = ("localhost", "127.0.0.1", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
SCHEMES = ("http", "https", "socks5", "socks5h")


def prepare_proxies() -> None:
    """Exempts loopback from the environment's proxies, for this process and its children: a proxy
    elsewhere would look for the address on its own machine.

    Raises BadRequest for a proxy of an unsupported kind.
    """
    proxies = [name for name in os.environ if name.lower() in PROXIES and os.environ[name]]
    if not proxies:
        return
    for name in proxies:
        os.environ[name] = _usable(name, os.environ[name])
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    named = [host for host in given.replace(" ", "").split(",") if host]
    # Readers differ in which of the two they look at first.
    exempt = ",".join(dict.fromkeys((*named, *LOOPBACK)))
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = exempt


def _usable(name: str, proxy: str) -> str:
    scheme, separator, rest = proxy.partition("://")
    if not separator:
        return proxy  # a bare `host:port` is read as http
    if scheme.lower() == "socks":
        # The spelling of desktops; the clients need the version.
        return f"socks5://{rest}"
    if scheme.lower() not in SCHEMES:
        raise BadRequest(
            f"{name} names a proxy of a kind that cannot be used ('{scheme}://').",
            hint=f"It has to be one of {', '.join(SCHEMES)}; or unset it.",
        )
    return proxy


def is_loopback(url: str) -> bool:
    """Returns True for a URL on this machine."""
    host = urlsplit(url).hostname or ""
    return host in LOOPBACK or host.startswith("127.")
