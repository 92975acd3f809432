"""The worker's command reader: reads every command, or ends its process."""

from __future__ import annotations

import contextlib
import queue
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import SimpleNamespace

import pytest

from app.protocol import CancelRun, CleanUp, ShutDown, WatchPreviews, encode
from app.worker.main import EXIT_UNREADABLE, read_commands

ENDED_S = 30.0


def reader(connection: Connection) -> None:
    """The child: reports what was read before each queued command."""
    signals = SimpleNamespace(cancelled=set(), watched=set())

    class Told(queue.SimpleQueue):  # type: ignore[type-arg]
        def put(self, item: object, block: bool = True, timeout: float | None = None) -> None:
            heard = f"{item.type} {sorted(signals.cancelled)} {sorted(signals.watched)}"  # type: ignore[attr-defined]
            connection.send_bytes(heard.encode())

    read_commands(connection, Told(), signals)  # type: ignore[arg-type]


def deep(levels: int) -> bytes:
    return b'{"type":"pin_component","pinned":true,"key":' + b"[" * levels + b"]" * levels + b"}"


@pytest.mark.parametrize("data", [b"how do you do", b"", b"\xff", deep(210), deep(100_000), None])
def test_command_reader_error_ends_process(data: bytes | None):
    spawning = get_context("spawn")
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=reader, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    for command in (
        CancelRun(run_id="a"),
        WatchPreviews(run_id="b", watched=True),
        WatchPreviews(run_id="c", watched=True),
        WatchPreviews(run_id="c", watched=False),
        CleanUp(),
    ):
        ours.send_bytes(encode(command))
    assert ours.recv_bytes() == b"clean_up ['a'] ['b']"
    if data is None:
        ours.close()
    else:
        ours.send_bytes(data)
        # Other commands in the pipe must not delay it, if it can still be sent any.
        with contextlib.suppress(BrokenPipeError):
            ours.send_bytes(encode(ShutDown()))
    process.join(ENDED_S)
    assert process.exitcode == (0 if data is None else EXIT_UNREADABLE)
