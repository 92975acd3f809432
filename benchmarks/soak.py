"""Measures whether memory is freed over many runs, cancels and failures of six workflows.

    python -m benchmarks.soak [--runs 300] [--seed 0] [--smallest]

Prints one table. Six workflows on the bundled model run in random order; one run in ten is
cancelled at a random moment, one in ten fails midway. Every image is compared, pixel for pixel,
with the first of its workflow. Measured is the worker's anonymous memory (file pages are
reclaimable), as Linux counts it, at the end of each run. The last row compares the memory after
Free at the end with that after one run.
"""

from __future__ import annotations

import json
import logging
import random
import statistics
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from app.engine.engine import Engine
from app.protocol import (
    ResultSaved,
    RunCancelled,
    RunFailed,
    RunSucceeded,
    StepProgress,
)
from app.settings import PROJECT, EngineSettings, PathSettings, Settings, WorkerSettings
from benchmarks.options import options_parser
from benchmarks.table import print_table

SHAPES = PROJECT / "models" / "shapes"
SEED, STEPS = 7, 4
EARLY, LATE, LAST = 50, 70, 20
"""Runs 50 to 70 are compared with the last 20."""
SMALLEST = 4
"""Runs; all of them are compared with all."""
CANCELLED, FAILED = 0.1, 0.1
MIB = 1 << 20


def workflows(folder: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Returns six workflows by name, with their inputs, and `broken`, which fails."""
    picture, mask = folder / "picture.png", folder / "mask.png"
    Image.new("RGB", (128, 128), (224, 36, 36)).save(picture)
    Image.new("L", (128, 128), 255).save(mask)
    inputs: dict[str, dict[str, Any]] = {
        "text-to-image": {},
        "draw-then-outline": {},
        "variations": {"image": str(picture)},
        "inpaint": {"image": str(picture), "mask_image": str(mask)},
    }
    found = {
        name: (PROJECT / "workflows" / f"{name}.json", {"steps": STEPS, **given})
        for name, given in inputs.items()
    }
    variants: dict[str, dict[str, object]] = {
        "other-scheduler": {
            "scheduler": {"configuration": {"scheduler_type": "EulerDiscreteScheduler"}}
        },
        "bfloat16": {},
        "broken": {"loras": [{"model_name": f"{SHAPES}/outline"}, {"model_name": f"{SHAPES}/vae"}]},
    }
    for name, blocks in variants.items():
        loading: dict[str, object] = {"model_name": str(SHAPES)}
        if name == "bfloat16":
            loading["torch_dtype"] = "torch.bfloat16"
        pipeline = {
            "configuration": {"component_type": "StableDiffusionPipeline"},
            "from_pretrained_arguments": loading,
            "arguments": {"prompt": "a blue star", "num_inference_steps": STEPS},
            **blocks,
        }
        step = {"name": "draw", "pipeline": pipeline, "result": {"content_type": "image/png"}}
        (folder / f"{name}.json").write_text(json.dumps({"id": name, "steps": [step]}))
        found[name] = (folder / f"{name}.json", {})
    return found


def anonymous_bytes(pid: int) -> int:
    """Returns the process's anonymous memory, from Linux's sums over its mappings."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this kernel does not count anonymous memory")


class Soak:
    """The engine, with counts of outcomes."""

    def __init__(self, engine: Engine, found: Mapping[str, tuple[Path, dict[str, Any]]]) -> None:
        self._engine = engine
        self._found = found
        self._first: dict[str, list[np.ndarray]] = {}
        self.ended = {"succeeded": 0, "cancelled": 0, "failed": 0}
        self.wrong = 0

    def run(self, name: str, cancel_after: int | None = None) -> None:
        """Runs it to its end, or cancels it after so many steps; compares its images."""
        path, inputs = self._found[name]
        run_id = self._engine.submit(path, inputs, seed=SEED, fresh=True)
        events = []
        for event in self._engine.events(run_id):
            events.append(event)
            steps = sum(isinstance(each, StepProgress) for each in events)
            if cancel_after is not None and steps >= cancel_after:
                cancel_after = None
                threading.Thread(target=self._engine.cancel, args=(run_id,)).start()
        end = events[-1]
        match end:
            case RunSucceeded():
                self.ended["succeeded"] += 1
                made = [e for e in events if isinstance(e, ResultSaved)]
                pictures = [np.asarray(Image.open(result.path)) for result in made]
                first = self._first.setdefault(name, pictures)
                pairs = zip(pictures, first, strict=True)
                self.wrong += not all(np.array_equal(one, other) for one, other in pairs)
            case RunCancelled():
                self.ended["cancelled"] += 1
            case RunFailed():
                self.ended["failed"] += 1
                if name != "broken":
                    raise SystemExit(f"'{name}' failed: {end.error.sentence()}")

    def anonymous_bytes(self) -> int:
        """Returns the worker's present anonymous memory."""
        pid = self._engine.status().pid
        assert pid is not None
        return anonymous_bytes(pid)

    def anonymous_bytes_after_free(self) -> int:
        """Frees everything; returns the worker's anonymous memory."""
        self._engine.free()
        held = self._engine.status().held
        if held:
            raise SystemExit(f"still held after Free: {[item.title for item in held]}")
        return self.anonymous_bytes()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    options = parser.parse_args(arguments)
    runs = SMALLEST if options.smallest else options.runs
    early, late, last = (0, runs, runs) if options.smallest else (EARLY, LATE, LAST)
    if runs < (late if options.smallest else late + last):
        parser.error(f"at least {LATE + LAST} runs are needed")
    order = random.Random(options.seed)
    # The failures are intended.
    logging.getLogger("app").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engine = Engine()
        engine.start(
            Settings(
                engine=EngineSettings(max_queued_runs=10),
                paths=PathSettings(outputs=folder / "outputs", media=(folder,)),
                worker=WorkerSettings(log_level="ERROR"),
            )
        )
        try:
            found = workflows(folder)
            soak = Soak(engine, found)
            soak.run("text-to-image")
            after_one = soak.anonymous_bytes_after_free()
            soak.ended = dict.fromkeys(soak.ended, 0)
            names = [name for name in found if name != "broken"]
            anonymous = []
            for _ in range(runs):
                chance = order.random()
                if chance < FAILED:
                    soak.run("broken")
                elif chance < FAILED + CANCELLED:
                    soak.run(order.choice(names), cancel_after=order.randrange(STEPS))
                else:
                    soak.run(order.choice(names))
                anonymous.append(soak.anonymous_bytes())
            after_all = soak.anonymous_bytes_after_free()
        finally:
            engine.close()
    early_bytes = statistics.median(anonymous[early:late])
    last_bytes = statistics.median(anonymous[-last:])
    limit_bytes = after_one * 1.1 + 32 * MIB
    ended = ", ".join(f"{count} {outcome}" for outcome, count in soak.ended.items())
    print_table(
        f"{runs} runs over {len(names)} workflows in random order: {ended}",
        [
            ("pictures other than their workflow's first", f"{soak.wrong}", "0"),
            (
                f"worker's anonymous memory, median of the last {last} runs against runs"
                f" {early} to {late}",
                f"{last_bytes / MIB:.1f} MiB against {early_bytes / MIB:.1f},"
                f" {last_bytes / early_bytes - 1:+.1%}",
                "3 %",
            ),
            (
                "the same after Free: after one run; after all",
                f"{after_one / MIB:.1f} MiB; {after_all / MIB:.1f} MiB",
                f"at most {limit_bytes / MIB:.1f} MiB",
            ),
        ],
    )


if __name__ == "__main__":
    main()
