"""A client on a plain socket: any method, path, headers and body."""

from __future__ import annotations

import http.client
import json
import secrets
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class Answer(NamedTuple):
    """An answer of the server."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class RawClient:
    """One visitor, with its own session; these headers go with every request."""

    def __init__(self, url: str, **headers: str) -> None:
        self.url = url
        self.host = urlsplit(url).netloc
        self.headers = headers
        self.session = secrets.token_hex(8)

    def ask(
        self,
        path: str,
        method: str = "GET",
        *,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 60,
    ) -> Answer:
        """Sends one request unchanged; `headers` override those of every request."""
        connection = http.client.HTTPConnection(self.host, timeout=timeout_s)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            sent = {"Host": self.host, **self.headers, **(headers or {})}
            data = body.encode() if isinstance(body, str) else body
            if data is not None and "Content-Length" not in sent:
                sent["Content-Length"] = str(len(data))
            for name, value in sent.items():
                connection.putheader(name, value)
            connection.endheaders(data)
            answer = connection.getresponse()
            received = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, received, answer.read())
        finally:
            connection.close()

    def post(self, path: str, value: Any, **headers: str) -> Answer:
        """Sends JSON."""
        return self.ask(
            path, "POST", body=json.dumps(value),
            headers={"Content-Type": "application/json", **headers},
        )  # fmt: skip

    def function(self, name: str) -> dict[str, Any]:
        """Returns an event of the page, by the name of its handler."""
        events = self.ask("/config").json["dependencies"]
        return next(each for each in events if each["api_name"] == name)

    def call(self, index: int, data: list[Any], **more: Any) -> list[dict[str, Any]]:
        """Sends a call through the page's queue; returns the messages to the end of the stream."""
        joined = self.post(
            "/gradio_api/queue/join",
            {"data": data, "fn_index": index, "session_hash": self.session, **more},
        )
        assert joined.status == 200, joined.text
        stream = self.ask(f"/gradio_api/queue/data?session_hash={self.session}").text
        return [json.loads(line[5:]) for line in stream.splitlines() if line.startswith("data:")]

    def form(
        self, workflow: str, kept: Mapping[str, Any], **visit: Any
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Opens the page with a visit that has this form and its values, and renders the form;
        returns the messages of both."""
        given = {"person": "", "workflow": workflow, "forms": {workflow: dict(kept)}, **visit}
        opened = self.call(self.function("open_page")["id"], [given])
        rendered = self.function("apply")
        return opened, self.call(rendered["id"], [None for _ in rendered["inputs"]])


def objects_in(value: Any) -> Iterator[dict[str, Any]]:
    """Yields every object in this JSON value."""
    if isinstance(value, dict):
        yield value
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from objects_in(each)
