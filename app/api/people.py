"""Tells operators, who may do everything, from guests. `role` alone decides."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

from pydantic import JsonValue

from app.catalog.catalog import Catalog, CatalogEntry
from app.catalog.guests import OPERATORS, GuestCheck, GuestLimits
from app.dialect.plan import Plan
from app.errors import NotAllowed
from app.settings import UiSettings

Role = Literal["operator", "guest"]
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
PROXY_HEADERS = frozenset({"forwarded", "via", "x-real-ip", "cf-connecting-ip", "true-client-ip"})
"""Headers that proxies add, beside all that begin with `x-forwarded-`."""


current_person: ContextVar[str] = ContextVar("current_person", default="unknown")
"""The person counted for the current request; see `person`."""


class RequestParts(NamedTuple):
    """A request by its parts."""

    client: Any
    headers: Any
    username: str | None


class RequestLike(Protocol):
    """The used parts of a request: `gr.Request`, or Starlette's with a `username`."""

    @property
    def client(self) -> Any: ...
    @property
    def headers(self) -> Any: ...
    @property
    def username(self) -> str | None: ...


def role(request: RequestLike | None, settings: UiSettings) -> Role:
    """Returns whether this request is an operator's.

    Operators (1) log in with DW_OPERATOR_AUTH, or (2) come from this machine, under its own name
    and without a proxy's headers, to a page without a password that is not published. A call
    without a request is a guest's.
    """
    if request is None:
        return "guest"
    if settings.operator_auth is not None:
        return "operator" if request.username == settings.operator_auth[0] else "guest"
    asks = settings.auth is not None or (settings.beyond_loopback and not settings.public)
    if asks or settings.share or settings.allowed_hosts:
        return "guest"
    headers = {name.lower(): value for name, value in _items(request.headers)}
    if any(name in PROXY_HEADERS or name.startswith("x-forwarded-") for name in headers):
        return "guest"
    host, _, port = headers.get("host", "").lower().rpartition(":")
    name = host if port.isdigit() else headers.get("host", "").lower()
    return "operator" if name in LOOPBACK_NAMES and _is_loopback(request.client) else "guest"


def person(request: RequestLike | None, settings: UiSettings) -> str:
    """Returns the person counted by per-person limits: a guest's address; "" for operators.

    An IPv6 network of 64 bits is one person: a single machine has that many addresses.
    """
    if role(request, settings) == "operator":
        return ""
    return address_of(getattr(getattr(request, "client", None), "host", None))


def address_of(host: str | None) -> str:
    """Returns the address that identifies a person; of IPv6 the network of 64 bits."""
    if host is None:
        return "unknown"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return host


def _items(headers: Any) -> Any:
    # Gradio passes on Starlette's headers, or an object of its own made from a dictionary.
    return headers.items() if isinstance(headers, Mapping) else vars(headers).items()


def _is_loopback(client: Any) -> bool:
    try:
        return ipaddress.ip_address(client.host).is_loopback
    except (AttributeError, ValueError):
        return False


class People:
    """The permissions of a request's sender, by these settings and this catalog."""

    def __init__(self, settings: UiSettings, catalog: Catalog) -> None:
        self._settings = settings
        self._catalog = catalog

    def is_operator(self, request: RequestLike | None) -> bool:
        """Returns True for an operator's request."""
        return role(request, self._settings) == "operator"

    def person(self, request: RequestLike | None) -> str:
        """Returns the person counted by per-person limits; "" for operators."""
        return person(request, self._settings)

    def check(
        self,
        request: RequestLike | None,
        entry: CatalogEntry,
        inputs: Mapping[str, JsonValue],
        changes: Mapping[str, JsonValue] = MappingProxyType({}),
    ) -> Callable[[Plan], None] | None:
        """Returns the check of a guest's plan; None for operators."""
        if self.is_operator(request):
            return None
        limits = GuestLimits(self._settings.guest_pixels, self._settings.guest_steps)
        return GuestCheck(self._catalog, entry, inputs, changes, limits)

    def shown_run(self, request: RequestLike | None, run_id: str, mine: Collection[str]) -> str:
        """Returns the id of a run as this person may see it: "" for one that is not in `mine`, but
        for operators. Knowing it is the permission to cancel it."""
        return run_id if run_id in mine or self.is_operator(request) else ""

    def check_free(self, request: RequestLike | None, others_active: bool) -> None:
        """Raises NotAllowed where freeing the memory now would disturb other people's runs."""
        if others_active and not self.is_operator(request):
            raise NotAllowed(
                "Runs of other people are in progress or waiting; a guest cannot free the memory"
                " now.",
                hint="Try again when they are done.",
            )

    def check_held(self, request: RequestLike | None) -> None:
        """Raises NotAllowed where this person may not change what is kept in memory."""
        if not self.is_operator(request):
            raise NotAllowed("Only an operator may pin or drop what is held.", hint=OPERATORS)
