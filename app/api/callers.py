"""Who sends a request of the API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from starlette.requests import Request

from app.api.people import People, RequestParts
from app.errors import NotLoggedIn

PROGRAM = ":token"
"""The name of programs with the token. No login has it: names end at the first colon."""
NameOf = Callable[[Request], str | None]
"""Returns the login behind a request, "" where none is needed; None where it is missing."""


class Caller(NamedTuple):
    """The sender of a request: what `People` asks for, and the owner of the runs it submits."""

    client: Any
    headers: Any
    username: str | None
    owner: str

    @property
    def has_token(self) -> bool:
        """True if the request carries the token of DW_API_TOKEN."""
        return self.username == PROGRAM


class Callers:
    """Tells who sends a request."""

    def __init__(self, people: People, name_of: NameOf) -> None:
        self._people = people
        self._name_of = name_of

    def of(self, request: Request) -> Caller:
        """Returns the sender. Raises NotLoggedIn.

        Its runs belong to its login; of guests, who share one, to the address too.
        """
        name = self._name_of(request)
        if name is None:
            raise NotLoggedIn("Not logged in.", hint="Log in, or send the token of DW_API_TOKEN.")
        parts = RequestParts(request.client, request.headers, name)
        return Caller(*parts, owner=f"api {name} {self._people.person(parts)}")
