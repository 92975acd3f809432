"""Measures whether the worker's memory grows over many different runs, beyond its caches.

    python -m benchmarks.growth [--runs 1000] [--smallest]

Prints one table. Every run has its own prompt and seed, so each adds to the caches of steps and
prompts; both are small here, and full when the measurement begins. Measured after each quarter are
the worker's anonymous memory (file pages are reclaimable), the sum of its caches as in `/status`,
and the difference, which must not grow.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ByteSize, JsonValue

from app.engine.engine import Engine
from app.protocol import RunSucceeded
from app.settings import PROJECT, PathSettings, Settings, WorkerSettings
from benchmarks.options import options_parser
from benchmarks.soak import MIB, anonymous_bytes
from benchmarks.table import print_table

WORKFLOW = PROJECT / "workflows" / "text-to-image.json"
CACHE_BYTES = 4 * MIB
WARM_UP = 300
"""Runs before the first measurement; they fill the caches, also those of libraries."""
SMALLEST = 4
MOST_BYTES_PER_RUN = 8 * 1024
"""Allowed growth beside the caches: lists of files, and fragmentation."""


class Measure(NamedTuple):
    """The worker's memory after so many runs."""

    runs: int
    anonymous_bytes: int
    cached_bytes: int

    @property
    def other_bytes(self) -> int:
        """Memory outside caches."""
        return self.anonymous_bytes - self.cached_bytes


def run(engine: Engine, number: int) -> None:
    """Runs a unique request to its end."""
    inputs: dict[str, JsonValue] = {"prompt": f"a red circle, number {number}", "steps": 1}
    events = list(engine.events(engine.submit(WORKFLOW, inputs, seed=number)))
    if not isinstance(events[-1], RunSucceeded):
        raise SystemExit(f"run {number} did not succeed: {events[-1]}")


def measure(engine: Engine, runs: int) -> Measure:
    status = engine.status()
    assert status.pid is not None
    cached_bytes = sum(each.held_bytes for each in status.bounded)
    return Measure(runs, anonymous_bytes(status.pid), cached_bytes)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    options = parser.parse_args(arguments)
    runs, warm_up = (SMALLEST, 1) if options.smallest else (options.runs, WARM_UP)
    quarters = [round(runs * quarter / 4) for quarter in range(1, 5)]
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine()
        engine.start(
            Settings(
                paths=PathSettings(outputs=Path(folder) / "outputs"),
                worker=WorkerSettings(
                    device="cpu",
                    log_level="ERROR",
                    prompt_memo_bytes=ByteSize(CACHE_BYTES),
                    prompt_memo_disk_bytes=ByteSize(CACHE_BYTES),
                    step_memo_bytes=ByteSize(CACHE_BYTES),
                ),
            )
        )
        try:
            for number in range(warm_up):
                run(engine, runs + 1 + number)
            measures = [measure(engine, 0)]
            for number in range(1, runs + 1):
                run(engine, number)
                if number in quarters:
                    measures.append(measure(engine, number))
        finally:
            engine.close()
    first, last = measures[0], measures[-1]
    per_run = (last.other_bytes - first.other_bytes) / runs
    print_table(
        f"{runs} different runs of the bundled model, 1 step, after {warm_up} others",
        [
            *(
                (
                    f"after {each.runs} runs: anonymous memory; caches; the rest",
                    f"{each.anonymous_bytes / MIB:.1f} MiB; {each.cached_bytes / MIB:.1f};"
                    f" {each.other_bytes / MIB:.1f}",
                    "",
                )
                for each in measures
            ),
            (
                "growth of the rest, per run",
                f"{per_run / 1024:.1f} KiB",
                f"at most {MOST_BYTES_PER_RUN / 1024:.0f} KiB",
            ),
        ],
    )


if __name__ == "__main__":
    main()
