"""A call made at the moment when its page's stream closes is answered all the same.

The server here is a few lines that close a stream exactly then; the script is the page's own.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from app.settings import PROJECT

SCRIPT = (PROJECT / "app" / "compat" / "ui" / "streams.js").read_text()
WAIT_S = 20
READ = """async () => {
  const stream = await fetch("/gradio_api/queue/data?session_hash=one");
  const text = stream.text();
  const joined = await fetch("/gradio_api/queue/join", { method: "POST", body: "{}" });
  return [(await joined.json()).event_id, await text];
}"""


class ClosesTooEarly(ThreadingHTTPServer):
    """Answers a call when the stream has been closed, in the next stream."""

    def __init__(self, *, tells_before_it_closes: bool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.tells_before_it_closes = tells_before_it_closes
        self.joining, self.closed = threading.Event(), threading.Event()
        self.streams = 0


class Handler(BaseHTTPRequestHandler):
    server: ClosesTooEarly

    def do_GET(self) -> None:
        if not self.path.startswith("/gradio_api"):
            self._begin("text/html")
            self.wfile.write(f"<script>{SCRIPT}</script>".encode())
            return
        self.server.streams += 1
        self._begin("text/event-stream")
        if self.server.streams == 1:
            assert self.server.joining.wait(WAIT_S)
            if self.server.tells_before_it_closes:
                self._tell({"msg": "process_completed", "event_id": "call"})
            self._tell({"msg": "close_stream"})
            self.server.closed.set()
        else:
            self._tell({"msg": "process_completed", "event_id": "call"})
            self._tell({"msg": "close_stream"})

    def do_POST(self) -> None:
        self.server.joining.set()
        assert self.server.closed.wait(WAIT_S)
        self._begin("application/json")
        self.wfile.write(b'{"event_id": "call"}')

    def _begin(self, content_type: str) -> None:
        self.send_response(200)
        self.send_header("content-type", content_type)
        self.end_headers()

    def _tell(self, message: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(message)}\n\n".encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context() as context:
        yield context.new_page()


@pytest.mark.browser
@pytest.mark.parametrize(("tells_before_it_closes", "streams"), [(False, 2), (True, 1)])
def test_stream_continues_until_every_call_is_answered(
    page: Page, tells_before_it_closes: bool, streams: int
):
    server = ClosesTooEarly(tells_before_it_closes=tells_before_it_closes)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        page.goto(f"http://127.0.0.1:{server.server_address[1]}/")
        event, text = page.evaluate(READ)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    told = [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line]
    assert event == "call"
    assert [message["msg"] for message in told] == ["process_completed", "close_stream"]
    assert server.streams == streams
