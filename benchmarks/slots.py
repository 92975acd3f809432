"""Measures how much faster two workers on the CPU finish a queue than one.

    python -m benchmarks.slots [--runs 40] [--steps 20] [--smallest]

Prints one table. The runs alternate over four workflows, each with its own model, and have
different seeds. Each worker computes with one thread, so two idle cores are needed. The time is
from the first submit to the end of the last run, with the loads of the models; the workers are
ready before. Every image must be identical.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from app.engine.engine import Engine
from app.protocol import ResultSaved, RunSucceeded
from app.settings import PROJECT, PathSettings, Settings, WorkerSettings
from benchmarks.options import options_parser
from benchmarks.table import print_table

NAMES = ("a", "b", "c", "d")
PROMPT = "a red circle on a white background"
AIM = 0.60
POLL_S = 0.05


def workflows_in(folder: Path) -> list[Path]:
    """Returns four workflows, each with its own copy of the bundled model."""
    found = []
    for name in NAMES:
        shutil.copytree(PROJECT / "models" / "shapes", folder / name)
        document = json.loads((PROJECT / "workflows" / "text-to-image.json").read_text())
        document["id"] = name
        document["steps"][0]["pipeline"]["from_pretrained_arguments"]["model_name"] = name
        found.append(folder / f"{name}.json")
        found[-1].write_text(json.dumps(document))
    return found


def started(workers: int, outputs: Path) -> Engine:
    """Returns an engine with so many workers, all ready."""
    engine = Engine()
    worker = WorkerSettings(
        devices=("cpu",) * workers, threads=1, log_level="WARNING", converted_weights_bytes=0
    )
    engine.start(Settings(paths=PathSettings(outputs=outputs), worker=worker))
    while any(slot.worker != "ready" for slot in engine.status().slots):
        time.sleep(POLL_S)
    return engine


def measured(
    workers: int, workflows: Sequence[Path], runs: int, steps: int
) -> tuple[float, list[str]]:
    """Returns the seconds for the whole queue, and the pixel hash of each run's image."""
    with tempfile.TemporaryDirectory() as outputs:
        engine = started(workers, Path(outputs))
        try:
            began_at = time.perf_counter()
            run_ids = [
                engine.submit(
                    workflows[number % len(workflows)],
                    {"prompt": PROMPT, "steps": steps},
                    seed=number,
                )
                for number in range(runs)
            ]
            hashes = [_image_of(engine, run_id) for run_id in run_ids]
            return time.perf_counter() - began_at, hashes
        finally:
            engine.close()


def _image_of(engine: Engine, run_id: str) -> str:
    events = list(engine.events(run_id))
    if not isinstance(events[-1], RunSucceeded):
        raise SystemExit(f"a run did not succeed: {events[-1]}")
    (saved,) = (event for event in events if isinstance(event, ResultSaved))
    return hashlib.sha256(Image.open(saved.path).tobytes()).hexdigest()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args(arguments)
    runs, steps = (4, 1) if options.smallest else (options.runs, options.steps)
    with tempfile.TemporaryDirectory() as name:
        workflows = workflows_in(Path(name))
        one_s, expected = measured(1, workflows, runs, steps)
        two_s, found = measured(2, workflows, runs, steps)
    equal = sum(map(str.__eq__, expected, found))
    print_table(
        f"{runs} runs over {len(NAMES)} workflows, one thread for each worker",
        [
            ("one worker", f"{one_s:.1f} s", ""),
            ("two workers", f"{two_s:.1f} s", ""),
            ("two workers' time of one's", f"{two_s / one_s:.2f}", f"{AIM:.2f} at most"),
            ("equal images", f"{equal} of {runs}", "all"),
        ],
    )


if __name__ == "__main__":
    main()
