"""All interfaces for programs: their routes, and how each answers a refused request."""

from __future__ import annotations

import re
from collections.abc import Callable

from starlette.responses import Response
from starlette.routing import BaseRoute

from app.api import a1111, errors, mcp, openai
from app.api.a1111 import a1111_routes
from app.api.interface import Api
from app.api.mcp import mcp_routes
from app.api.openai import openai_routes
from app.api.rest import rest_routes

REFUSALS: tuple[tuple[re.Pattern[str], Callable[[int, str], Response]], ...] = (
    (openai.PATHS, openai.refusal),
    (re.compile(r"/v1(/.*)?"), errors.refusal),
    (mcp.PATHS, errors.refusal),
    (a1111.PATHS, a1111.refusal),
)
"""The form of a refusal at these paths; the first that fits."""


def program_routes(api: Api) -> list[BaseRoute]:
    """Returns the routes of all interfaces."""
    return [*rest_routes(api), *openai_routes(api), *mcp_routes(api), *a1111_routes(api)]


def refused(path: str, status: int, message: str) -> Response | None:
    """Returns the refusal of a request of a program; None for one of the page."""
    for paths, refusal in REFUSALS:
        if paths.fullmatch(path):
            return refusal(status, message)
    return None
