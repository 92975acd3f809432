"""Measures whether a long history slows the engine: submit and status with 20,000 runs and none.

    python -m benchmarks.history [--runs 20000] [--submits 200] [--smallest]

Prints one table. Two engines alternate in one process, one with an empty history and one with so
many runs; their workers do nothing. Compares medians of `submit`, from the call to the id, which is
returned when the run is committed, and of `status`; the aim is at most 1.2 times. `history` is the
list of the newest 20 runs.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from app.engine.engine import Engine
from app.engine.store import Store
from app.engine.store_rows import StoredRun
from app.protocol import RunSucceeded, Timings
from app.settings import PROJECT, EngineSettings, PathSettings, Settings, WorkerSettings
from benchmarks.options import options_parser
from benchmarks.table import print_table

WORKFLOW = PROJECT / "workflows" / "text-to-image.json"
WANTED = 1.2


def fill(outputs: Path, runs: int) -> None:
    """Puts so many finished runs into the history of this folder."""
    store = Store(outputs)
    now = time.time()
    past = [
        StoredRun(
            run_id=f"20260101-{number:06}-abcdef", owner=f"person {number % 50}",
            workflow="text-to-image", workflow_path=str(WORKFLOW), workflow_hash="0" * 64,
            title="text-to-image", inputs={"prompt": f"a red circle number {number}", "steps": 20},
            changes={}, seed=number, seed_given=True, takes_seed=True, fresh=False, process="",
            resumable=False, submitted_at=now, state="succeeded", started_at=now, ended_at=now,
            terminal=RunSucceeded(run_id="", time=now, timings=Timings(total_s=1.0), loaded=()),
        )
        for number in range(runs)
    ]  # fmt: skip
    store.add_past([(run, []) for run in past]).result()
    store.close()


def started(outputs: Path) -> Engine:
    """Returns an engine as in a server, over this folder; submitted runs wait for its worker."""
    engine = Engine()
    uploads = outputs / "uploads"
    uploads.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        engine=EngineSettings(max_queued_runs=100_000),
        worker=WorkerSettings(device="cpu"),
        paths=PathSettings(outputs=outputs),
    )
    engine.start(settings, uploads=uploads)
    return engine


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e3


def measure(engines: dict[str, Engine], submits: int) -> dict[str, dict[str, float]]:
    """Returns medians in milliseconds, by method and engine."""
    took: dict[str, dict[str, list[float]]] = {
        name: {key: [] for key in engines} for name in ("submit", "status", "history")
    }
    for number in range(submits):
        for key, engine in engines.items():
            inputs = {"prompt": f"a blue star {number}", "steps": 1}
            run_id = ""

            def submit(engine: Engine = engine, inputs: dict[str, object] = inputs) -> None:
                nonlocal run_id
                run_id = engine.submit(WORKFLOW, inputs)  # type: ignore[arg-type]

            took["submit"][key].append(timed(submit))
            took["status"][key].append(timed(engine.status))
            took["history"][key].append(timed(lambda engine=engine: engine.runs(limit=20)))  # type: ignore[misc]
            engine.cancel(run_id)
    return {
        name: {key: statistics.median(times) for key, times in by_key.items()}
        for name, by_key in took.items()
    }


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--submits", type=int, default=200)
    options = parser.parse_args()
    if options.smallest:
        options.runs, options.submits = 200, 3
    with tempfile.TemporaryDirectory() as folder:
        short, long = Path(folder) / "short", Path(folder) / "long"
        fill(long, options.runs)
        engines = {"none": started(short), "many": started(long)}
        try:
            medians = measure(engines, options.submits)
        finally:
            for engine in engines.values():
                engine.close()
    print_table(
        f"{options.submits} calls each, with {options.runs:,} runs in the history and with none",
        [
            (
                f"{name}, median",
                f"{by['many'] / by['none']:.2f} times ({by['many']:.2f} ms; {by['none']:.2f} ms)",
                f"{WANTED} times" if name != "history" else "",
            )
            for name, by in medians.items()
        ],
    )


if __name__ == "__main__":
    main()
