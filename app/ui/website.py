"""Gradio's page as our own web site: our sockets, our server, the guard around everything.

Gradio's own `launch` starts a server that its middleware does not surround, sends itself a request
through any proxy that the environment names, and gives up after 5 seconds. `mount_gradio_app` does
the rest: the page becomes a part of our application.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import fastapi
import gradio as gr
import uvicorn
from gradio_client.utils import construct_args
from starlette.routing import BaseRoute, Mount

from app.errors import ServeError
from app.ui.plain_errors import answer_errors_in_sentences

log = logging.getLogger(__name__)

Around = Callable[[Any, "Facts"], Any]


class Website:
    """A page that answers, on its own thread."""

    def __init__(
        self, page: gr.Blocks, *, routes: Sequence[BaseRoute], around: Around, **options: Any
    ) -> None:
        """`around` makes the outermost application of the inner one and the guard's facts;
        `options` are those of `gradio.mount_gradio_app`."""
        self._page = page
        self.app = outer = fastapi.FastAPI(
            routes=list(routes), openapi_url=None, docs_url=None, redoc_url=None
        )
        gr.mount_gradio_app(outer, page, path="", app_kwargs={"openapi_url": None}, **options)
        mounted: Any = next(route.app for route in outer.routes if isinstance(route, Mount))
        self.gradio = mounted
        answer_errors_in_sentences(page, mounted)
        # `launch` sets both; events look for them.
        page.app = page.server_app = self.gradio
        page.server = None
        whole = around(outer, Facts(self.gradio))
        self._server = _Server(
            uvicorn.Config(whole, log_level="warning", log_config=None, server_header=False)
        )
        self._thread: threading.Thread | None = None

    def start(self, sockets: Sequence[socket.socket]) -> None:
        """Serves on these sockets; returns when it answers. Raises ServeError if it cannot."""
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": list(sockets)}, name="web", daemon=True
        )
        self._thread.start()
        while not self._server.up.wait(0.05):
            if not self._thread.is_alive():
                raise ServeError("The page cannot be served.", hint="The log says why.")

    def share(self, port: int) -> str | None:
        """Returns the URL of a tunnel from Gradio's servers to this port; None without one."""
        from gradio.networking import setup_tunnel

        try:
            tunnel = setup_tunnel("127.0.0.1", port, self._page.share_token, None, None)
        except Exception as error:  # noqa: BLE001  (a download, a foreign program, a network)
            log.warning("There is no share link: %s", error)
            return None
        return f"https://{urlsplit(tunnel).netloc}"

    def close(self, streams_end_s: float) -> None:
        """Takes the page off its port; streams that do not end in this time are cut off."""
        # Streams cut off here are cut off on purpose: not an error of each.
        logging.getLogger("uvicorn.error").disabled = True
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(streams_end_s)
        # Without this uvicorn waits for every open stream of every tab.
        self._server.force_exit = True
        self._page.close(verbose=False)
        if self._thread is not None:
            self._thread.join(streams_end_s)


class _Server(uvicorn.Server):
    """Tells when it answers."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.up.set()


class Facts:
    """What the guard has to know of the page, as Gradio (6.31) keeps it."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._page = app.get_blocks()
        public = [fn for fn in self._page.fns.values() if fn.api_visibility == "public"]
        self._parameters: dict[str, Any] | None = None
        self._endpoints = frozenset(fn.api_name for fn in public)

    def has_endpoint(self, name: str) -> bool:
        """Returns True if scripts may call this."""
        return name in self._endpoints

    def mismatch(self, endpoint: str, arguments: Mapping[str, Any]) -> str:
        """Returns what is wrong with the arguments' names; "" for nothing."""
        if self._parameters is None:
            described = self._page.get_api_info()["named_endpoints"]
            self._parameters = {name: each["parameters"] for name, each in described.items()}
        try:
            construct_args(self._parameters[f"/{endpoint}"], (), dict(arguments))
        except (TypeError, ValueError) as error:
            return str(error)
        return ""

    def has_function(self, session: str | None, index: int) -> bool:
        """Returns True if the page, in this session, has this event for the server."""
        visit = self._app.state_holder.session_data.get(session)
        functions = self._page.fns if visit is None else visit.blocks_config.fns
        return index in functions and functions[index].fn is not None

    def has_session(self, session: str) -> bool:
        """Returns True if an event stream waits for this session."""
        return session in self._page._queue.pending_messages_per_session

    def has_event(self, event: str) -> bool:
        """Returns True if this call waits for its answer to be read."""
        queue = self._page._queue
        return event in queue.event_ids_to_events or any(
            event in waiting for waiting in queue.pending_event_ids_session.values()
        )
