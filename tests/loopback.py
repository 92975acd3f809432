"""A web server on loopback, on its own port, which can disappear and return."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """One request; `served` is its server, which records it."""

    served: Any

    def log_message(self, *_: object) -> None:
        """Writes nothing to stderr."""


class Loopback:
    """Answers by the methods of a handler until it is closed."""

    def __init__(self, handler: type[Handler]) -> None:
        self._handler = type(handler.__name__, (handler,), {"served": self})
        self._serve(0)
        self.port = self._server.server_port
        self.address = f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()

    @contextlib.contextmanager
    def gone(self) -> Iterator[None]:
        """Stops listening inside the block."""
        self.close()
        try:
            yield
        finally:
            self._serve(self.port)

    def _serve(self, port: int) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler)
        # Longest time for which `close` waits.
        every = {"poll_interval": 0.01}
        threading.Thread(target=self._server.serve_forever, kwargs=every, daemon=True).start()
