"""Sends generated calls to a running server and watches what it promises meanwhile.

Every call has to be answered, `status` has to answer within a second throughout, ordinary runs have
to go on, and the worker's process has to be the same at the end.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.calls import PREFIX, SHORT_RUN, Call, calls
from tests.servers import Server

ANSWER_S = 60.0
"""The longest a call may take: it may wait behind the runs of earlier ones."""
ENDS = (b"event: complete", b"event: error")
GUEST = {"x-forwarded-for": "203.0.113.7"}
"""A guest, to whom limits apply: an operator may ask for a run that takes a day."""


@dataclass
class Seen:
    """What came of the calls, and what was wrong."""

    answers: Counter[str] = field(default_factory=Counter)
    slowest_status_s: float = 0.0
    ordinary_runs: int = 0
    wrong: list[str] = field(default_factory=list)


class Fuzz:
    """One fuzz of one server."""

    def __init__(self, server: Server, status_within_s: float) -> None:
        self._server = server
        self._status_within_s = status_within_s
        self._over = threading.Event()
        self._http = httpx.Client(
            base_url=server.url, timeout=ANSWER_S, trust_env=False, headers=GUEST
        )
        self.seen = Seen()

    def run(self, count: int, random_seed: int) -> Seen:
        """Sends so many calls; returns what was seen, with everything that was wrong."""
        pid = self._server.status()["pid"]

        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @seed(random_seed)
        @given(calls())
        def send(call: Call) -> None:
            self._send(call)

        with self._background(self._ask_for_status), self._background(self._run_as_usual):
            send()
        self._until_idle()
        if (now := self._server.status()["pid"]) != pid:
            self.seen.wrong.append(f"the worker was process {pid} and is now {now}")
        if (code := self._server.process.poll()) is not None:
            self.seen.wrong.append(f"the server ended with {code}")
        self._http.close()
        return self.seen

    # --- one call --------------------------------------------------------------------------------

    def _send(self, call: Call) -> None:
        try:
            headers = {"content-type": call.content_type}
            request = self._http.build_request(
                call.method, call.path, content=call.body, headers=headers
            )
            # Some routes stream for ever: the head of the answer will do.
            answer = self._http.send(request, stream=call.method == "GET")
            self._check(call, answer.status_code, answer.text if call.method != "GET" else "")
            answer.close()
            if answer.is_success and call.stream:
                self._read_stream(call, answer.json()["event_id"])
        except httpx.HTTPError as error:
            self.seen.wrong.append(f"{error!r} for {call}")

    def _read_stream(self, call: Call, event_id: str) -> None:
        with self._http.stream("GET", call.stream + event_id) as stream:
            read, began = b"", time.monotonic()
            for chunk in stream.iter_bytes():
                read += chunk
                # Heartbeats keep a stream alive: that alone is no answer.
                if time.monotonic() - began > ANSWER_S:
                    break
                if call.dropped_after_bytes is not None and len(read) > call.dropped_after_bytes:
                    return
        self._check(call, stream.status_code, read.decode(errors="replace"))
        if not any(end in read for end in ENDS):
            self.seen.wrong.append(f"no end in {read[-300:]!r} for {call}")

    def _check(self, call: Call, status: int, text: str) -> None:
        self.seen.answers[f"{call.path.removeprefix(PREFIX)} {status}"] += 1
        for leak in ("Traceback", "Internal Server Error", "root:x:", "[build-system]"):
            if leak in text:
                self.seen.wrong.append(f"'{leak}' in the answer {text[:300]!r} to {call}")

    # --- meanwhile -------------------------------------------------------------------------------

    @contextmanager
    def _background(self, work: object) -> Iterator[None]:
        thread = threading.Thread(target=work)  # type: ignore[arg-type]
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _ask_for_status(self) -> None:
        with httpx.Client(base_url=self._server.url, timeout=ANSWER_S, trust_env=False) as http:
            while not self._over.wait(0.2):
                began = time.monotonic()
                answer = http.post(f"{PREFIX}/run/status", json={"data": []})
                took_s = time.monotonic() - began
                self.seen.slowest_status_s = max(self.seen.slowest_status_s, took_s)
                if not answer.is_success:
                    self.seen.wrong.append(f"status answered {answer.status_code} {answer.text}")
                if took_s > self._status_within_s:
                    self.seen.wrong.append(f"status took {took_s:.1f} s")

    def _run_as_usual(self) -> None:
        named, path = f"{PREFIX}/call/v2/generate", f"{PREFIX}/call/generate"
        run = {"workflow": "text-to-image", "variables": SHORT_RUN}
        with httpx.Client(base_url=self._server.url, timeout=ANSWER_S, trust_env=False) as http:
            while not self._over.is_set():
                joined = http.post(named, json=run)
                with http.stream("GET", f"{path}/{joined.json()['event_id']}") as stream:
                    told = b"".join(stream.iter_bytes())
                # Generated calls may free memory and cancel this run; it must be told either way.
                if not any(end in told for end in ENDS):
                    self.seen.wrong.append(f"an ordinary run ended with {told[-300:]!r}")
                self.seen.ordinary_runs += b'"unchanged"' in told

    def _until_idle(self) -> None:
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            status = self._server.status()
            if status["worker"] == "ready" and not status["queue"]:
                return
            threading.Event().wait(0.2)
        self.seen.wrong.append(f"still busy after {ANSWER_S:.0f} s: {status['queue']}")
