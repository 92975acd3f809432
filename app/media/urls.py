"""Rules for the URLs of media: public addresses, and hosts an operator lists.

A URL is checked while planning, and again for every redirect; the address of its name is checked
when the connection is made (`fetch.py`).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    import httpx

MAX_URL_LENGTH = 8000
"""Signed URLs, to which others redirect, have some thousand characters."""
PORTS = {"http": 80, "https": 443}
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")
LOCAL_DOMAINS = frozenset({
    "localhost", "local", "localdomain", "internal", "intranet", "private", "corp", "home", "lan",
    "workgroup", "arpa", "invalid", "onion", "alt",
})  # fmt: skip
"""Top-level labels of local networks and reserved names. Looking such a name up would disclose it
to others, and tell the caller whether it exists."""
NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class RefusedURLError(ValueError):
    """Media may not come from this URL; the text is a sentence."""


def is_url(value: object) -> bool:
    """Returns True for a text that is a URL of any scheme, not a path."""
    if not isinstance(value, str):
        return False
    scheme = SCHEME.match(value)
    # `c:` is a drive of another system; no scheme has one letter.
    return scheme is not None and (len(scheme[0]) > 2 and ("://" in value or scheme[0] == "data:"))


def without_query(url: str) -> str:
    """Returns the URL without query, fragment, user and password; of `data:` the beginning."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{url.partition(':')[0]}:"
    if not parts.netloc:
        return f"{parts.scheme}:{parts.path.partition(',')[0]}" if parts.scheme else url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def checked_url(url: str, hosts: Collection[str] = ()) -> httpx.URL:
    """Returns the parsed URL; raises RefusedURLError where media may not come from there.

    `hosts` are the `name:port` an operator allows, public or not.
    """
    import httpx

    if len(url) > MAX_URL_LENGTH:
        raise RefusedURLError(f"The URL has {len(url)} characters; {MAX_URL_LENGTH} fit.")
    if re.search(r"[\s\x00-\x1f\x7f\\]", url):
        raise RefusedURLError("The URL holds a blank, a control character or a backslash.")
    scheme = url.partition(":")[0].lower()
    if scheme not in PORTS:
        raise RefusedURLError(f"'{scheme}:' is not fetched; http and https are.")
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise RefusedURLError(f"The URL is malformed ({error}).") from None
    if not parsed.host:
        raise RefusedURLError("The URL names no host.")
    if not is_address(parsed.host) and not HOST.fullmatch(parsed.raw_host.decode()):
        raise RefusedURLError("The URL is malformed: its host is not a valid name.")
    if parsed.userinfo:
        raise RefusedURLError("The URL holds a user or a password, which would end up in records.")
    if is_listed(parsed.host, port_of(parsed), hosts):
        return parsed
    if port_of(parsed) not in PORTS.values():
        raise RefusedURLError(f"Port {parsed.port} is not allowed for media.")
    if is_address(parsed.host):
        if not is_public(parsed.host):
            raise RefusedURLError(f"{parsed.host} is not a public address.")
    elif not can_be_public(parsed.host):
        raise RefusedURLError(f"'{parsed.host}' is not the name of a public server.")
    return parsed


def port_of(url: httpx.URL) -> int:
    """Returns the port of the connection."""
    return url.port or PORTS[url.scheme]


def is_listed(host: str, port: int, hosts: Collection[str]) -> bool:
    """Returns True if an operator has listed this host with this port."""
    return f"{host}:{port}".lower() in {each.lower() for each in hosts}


def is_address(host: str) -> bool:
    """Returns True for an IP address, False for a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def can_be_public(name: str) -> bool:
    """Returns True if a public server could have this name; nothing is looked up."""
    *above, last = name.rstrip(".").lower().split(".")
    # A number at the end is another way to write an address, `127.1` for example.
    return bool(above) and last not in LOCAL_DOMAINS and NUMBER.fullmatch(last) is None


def is_public(address: str) -> bool:
    """Returns True for an address of the public internet, wrapped addresses included.

    Loopback, private, link-local (with the metadata services of clouds), shared, multicast and
    reserved addresses are not public, nor IPv6 addresses that stand for such an IPv4 address.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = [found.ipv4_mapped, found.sixtofour, *(found.teredo or ())]
        if found in NAT64:
            inner.append(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF))
        if any(each is not None and not is_public(str(each)) for each in inner):
            return False
        if found.ipv4_mapped is not None:
            return True
    return found.is_global and not found.is_multicast
