"""Kills a server with a full queue, restarts it, and checks its runs.

    python -m tests.killing [--kills 50]

Every run has to be finished once, none may be lost, and no file may be left over. Exit code 1 for
any problem.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
from PIL import Image

from app.engine.store import Store
from app.engine.store_rows import StoredRun
from tests.servers import Server, started_server

CALL = "/gradio_api/call"
RUN_ID = re.compile(r'"job_id": ?"([\w-]+)"')
PATIENCE_S = 180.0
TEXT, VARIATIONS = "text-to-image", "variations"

Told = Callable[[str], bool]
PHASES: dict[str, Told] = {
    "queued": lambda told: '"queued"' in told,
    "loading": lambda told: '"loading"' in told,
    "denoising": lambda told: '"step"' in told,
    "decoding": lambda told: '"decoding"' in told,
    "saving": lambda told: '"saving"' in told,
}
"""State of the first run's stream at which the server is killed."""


class Asking:
    """Submits runs and reads their streams, each on its own thread, until the server ends."""

    def __init__(self, server: Server) -> None:
        self._url = server.url
        self._threads: list[threading.Thread] = []
        self.lines: list[str] = []
        """The lines of the streams, in order."""
        self.grown = threading.Condition()

    @property
    def told(self) -> str:
        """All lines as one text."""
        return "".join(self.lines)

    def ask(self, workflow: str, variables: dict[str, object]) -> None:
        """Submits one run; returns when the server has told its place in the queue."""
        began = len(self.lines)
        self._call("generate", {"workflow": workflow, "variables": variables})
        self.wait_until(lambda: '"queued"' in "".join(self.lines[began:]))

    def follow(self, run_id: str) -> None:
        """Reads the stream of an earlier run."""
        self._call("follow_job", {"job_id": run_id})

    def _call(self, name: str, parameters: dict[str, object]) -> None:
        joined = httpx.post(f"{self._url}{CALL}/v2/{name}", json=parameters, trust_env=False)
        address = f"{self._url}{CALL}/{name}/{joined.raise_for_status().json()['event_id']}"
        thread = threading.Thread(target=self._read, args=(address,), daemon=True)
        thread.start()
        self._threads.append(thread)

    def wait_until(self, true: Callable[[], bool]) -> None:
        """Waits for this condition as lines arrive."""
        with self.grown:
            assert self.grown.wait_for(true, PATIENCE_S), self.lines[-5:]

    def join(self) -> None:
        """Waits until the streams have ended, as they do with the server."""
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _read(self, address: str) -> None:
        with (
            contextlib.suppress(httpx.HTTPError),
            httpx.stream("GET", address, timeout=PATIENCE_S, trust_env=False) as stream,
        ):
            for line in stream.iter_lines():
                with self.grown:
                    self.lines.append(line)
                    self.grown.notify_all()


def kill_once(folder: Path, phase: str) -> list[str]:
    """Kills once in this phase, with a queue of five; returns the problems afterwards."""
    with started_server(folder) as server:
        asking = Asking(server)
        asking.ask(TEXT, {"prompt": "a red circle", "steps": 40})
        picture = _uploaded(server, folder)
        asking.ask(VARIATIONS, {"image": picture, "steps": 3})
        for number in range(3):
            asking.ask(TEXT, {"prompt": f"a blue star {number}", "steps": 2})
        asking.wait_until(lambda: PHASES[phase]("".join(asking.lines)))
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        asking.join()
    first = RUN_ID.findall("".join(asking.lines))[0]
    with started_server(folder) as server:
        followed = Asking(server)
        followed.follow(first)
        runs = _finished(server.outputs)
        followed.join()
    told = "".join(followed.lines)
    lost = [] if '"done"' in told else [f"{first} could not be followed: {told[-300:]}"]
    return [*lost, *_wrong_runs(runs, server.outputs), *_left_over(server.outputs)]


def _uploaded(server: Server, folder: Path) -> dict[str, object]:
    file = folder / "picture.png"
    Image.new("RGB", (64, 64), "green").save(file)
    with file.open("rb") as content:
        answer = httpx.post(
            f"{server.url}/gradio_api/upload", files={"files": content}, trust_env=False
        )
    path = answer.raise_for_status().json()[0]
    return {"path": path, "orig_name": file.name, "meta": {"_type": "gradio.FileData"}}


@contextlib.contextmanager
def _history(outputs: Path) -> Iterator[Store]:
    store = Store(outputs, as_keeper=False)
    try:
        yield store
    finally:
        store.close()


def _finished(outputs: Path) -> list[StoredRun]:
    """Returns the runs of the history, once none of them is unfinished."""
    deadline = time.monotonic() + PATIENCE_S
    with _history(outputs) as store:
        while store.unfinished() and time.monotonic() < deadline:
            threading.Event().wait(0.1)
        return store.runs()


def _wrong_runs(runs: list[StoredRun], outputs: Path) -> Iterator[str]:
    if len(runs) != 5:
        yield f"{len(runs)} of 5 runs are in the history"
    with _history(outputs) as store:
        for run in runs:
            results = store.results(run.run_id)
            if run.state != "succeeded" or len(results) != 1:
                how = run.terminal.model_dump_json() if run.terminal else ""
                yield f"run {run.run_id} is {run.state} with {len(results)} results {how}"
            elif not all(result.is_there for result in results):
                yield f"the result of {run.run_id} is not there"


def _left_over(outputs: Path) -> Iterator[str]:
    """Yields files in the runs' folders that are neither a result nor its record."""
    expected: set[Path] = set()
    with _history(outputs) as store:
        for run in store.runs():
            for result in store.results(run.run_id):
                expected |= {Path(result.path), Path(result.sidecar)}
    for folder in outputs.iterdir():
        if folder.name.startswith((".", "inputs")):
            continue
        for file in [folder] if folder.is_file() else folder.iterdir():
            if file not in expected:
                yield f"{file} is left over"


def main() -> int:
    """Kills in each phase in turn and prints the problems."""
    parser = argparse.ArgumentParser(prog="python -m tests.killing", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    options = parser.parse_args()
    began, wrong = time.monotonic(), []
    for number in range(options.kills):
        phase = list(PHASES)[number % len(PHASES)]
        with tempfile.TemporaryDirectory() as folder:
            found = kill_once(Path(folder), phase)
        wrong += [f"{phase}: {each}" for each in found]
        print(json.dumps({"kill": number + 1, "phase": phase, "wrong": found}), flush=True)
    print(f"{options.kills} kills in {time.monotonic() - began:.0f} s; {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
