"""A small share of the API's fuzz; `make soak` runs the whole of it."""

from __future__ import annotations

from tests.fuzz.harness import Fuzz
from tests.servers import Server

CALLS = 80
STATUS_WITHIN_S = 10.0
"""One second is promised, and measured by `python -m tests.fuzz`; the tests' machine may be
busy."""


def test_every_generated_call_is_answered_while_runs_go_on(server: Server):
    began = len(server.log.read_text())
    seen = Fuzz(server, STATUS_WITHIN_S).run(CALLS, random_seed=1)
    assert not seen.wrong
    assert "Traceback" not in server.log.read_text()[began:]
    assert seen.ordinary_runs
    assert sum(seen.answers.values()) >= CALLS
