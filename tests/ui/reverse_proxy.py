"""A reverse proxy on loopback."""

from __future__ import annotations

import http.client

from tests.loopback import Handler


class Forward(Handler):
    """A reverse proxy below `/draw/`, which removes that from the path."""

    def _forward(self) -> None:
        if not self.path.startswith("/draw/"):
            self.served.missed.append(self.path)
            self.send_error(404)
            return
        length = int(self.headers.get("content-length", 0))
        upstream = http.client.HTTPConnection("127.0.0.1", self.served.upstream, timeout=60)
        sent = dict(self.headers.items()) | {"Connection": "close"}
        upstream.request(
            self.command, self.path.removeprefix("/draw"), self.rfile.read(length), sent
        )
        answered = upstream.getresponse()
        self.send_response(answered.status)
        for name, value in answered.getheaders():
            if name.lower() not in {"transfer-encoding", "connection", "date", "server"}:
                self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        while piece := answered.read1(65536):
            self.wfile.write(piece)
            self.wfile.flush()
        upstream.close()

    do_GET = do_POST = _forward
