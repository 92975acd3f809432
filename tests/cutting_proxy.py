"""A reverse proxy on loopback that cuts event streams after a while, as some companies' do."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from urllib.parse import urlsplit

from tests.loopback import Handler, Loopback

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class CuttingProxy(Loopback):
    """Passes everything on to a server; an event stream ends cleanly after `limit_s`."""

    def __init__(self, target: str, limit_s: float) -> None:
        self.target, self.limit_s = urlsplit(target).netloc, limit_s
        self.cut = 0
        """Number of streams that were cut."""
        super().__init__(_Handler)


class _Handler(Handler):
    served: CuttingProxy

    def do_GET(self) -> None:
        self._hand_on(None)

    def do_POST(self) -> None:
        self._hand_on(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _hand_on(self, body: bytes | None) -> None:
        upstream = http.client.HTTPConnection(self.served.target, timeout=60)
        with contextlib.closing(upstream):
            upstream.request(self.command, self.path, body, dict(self.headers.items()))
            answer = upstream.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in HOP_BY_HOP:
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            streams = answer.getheader("Content-Type", "").startswith("text/event-stream")
            ended = threading.Event()

            def cut() -> None:
                ended.set()
                with contextlib.suppress(OSError):
                    upstream.sock.shutdown(socket.SHUT_RDWR)

            limit = threading.Timer(self.served.limit_s, cut)
            if streams:
                limit.start()
            # Clients hang up when they have enough; a cut stream has no end of its own.
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                while data := answer.read1(65536):
                    self.wfile.write(data)
                    self.wfile.flush()
            limit.cancel()
            self.served.cut += ended.is_set()
