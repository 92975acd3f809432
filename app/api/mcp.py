"""The Model Context Protocol at `/mcp`, for assistants: who may use it, and its start.

The package `mcp` is optional and takes seconds to import: the first call with the token does it.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.errors import error_answer, refusal
from app.api.interface import Api
from app.errors import NotLoggedIn, WorkbenchError
from app.packages import Package

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

log = logging.getLogger(__name__)

PATHS = re.compile(r"/mcp")
PACKAGE = Package("mcp", "mcp")


def mcp_routes(api: Api) -> list[Route]:
    """Returns the route; it is in `app/ui/routes.py` too."""
    if api.settings.ui.api_token is not None and PACKAGE.is_missing:
        log.info("There is no /mcp: the package mcp is not installed. %s", PACKAGE.how_to_add)
    return [Route("/mcp", Mcp(api), methods=["POST"])]


class Mcp:
    """The route, as an ASGI application."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._starting = asyncio.Lock()
        self._manager: StreamableHTTPSessionManager | None = None
        self._serving: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._refused(Request(scope)) or await self._started()
        await app(scope, receive, send)

    def _refused(self, request: Request) -> Response | None:
        if self._api.settings.ui.api_token is None:
            return refusal(404, "There is no /mcp here: DW_API_TOKEN is not set.")
        try:
            if not self._api.callers.of(request).has_token:
                raise NotLoggedIn(
                    "The token of DW_API_TOKEN is needed.", hint="Send Authorization: Bearer TOKEN."
                )
        except WorkbenchError as error:
            return error_answer(error.report())
        if PACKAGE.is_missing:
            return refusal(404, f"The package mcp is not installed. {PACKAGE.how_to_add}")
        return None

    async def _started(self) -> ASGIApp:
        async with self._starting:
            if self._manager is None:
                self._manager = await asyncio.to_thread(self._made)
                running = asyncio.Event()
                # Its tasks live as long as the server: in a task of their own, not in a request's.
                self._serving = asyncio.create_task(_served(self._manager, running))
                await running.wait()
        return self._manager.handle_request

    def _made(self) -> StreamableHTTPSessionManager:
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        from app.api.mcp_tools import mcp_server

        # Stateless: a call is complete in itself, and none is lost with a session. The guard has
        # checked host and origin.
        return StreamableHTTPSessionManager(
            mcp_server(self._api), stateless=True,
            max_request_body_size=2 * self._api.settings.ui.max_upload_bytes,
        )  # fmt: skip


async def _served(manager: StreamableHTTPSessionManager, running: asyncio.Event) -> None:
    async with manager.run():
        running.set()
        await asyncio.Event().wait()
