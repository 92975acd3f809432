"""Measures the overhead of a run of the bundled model, compared with bare diffusers.

    python -m benchmarks.overhead [--runs 50] [--json FILE] [--smallest]

Prints one table. Previews and cached results are off. The overhead of a run is its total time, from
submit to its final event (when its file is written), less the time inside pipeline calls. The time
to the first denoiser call is compared with that of the same pipeline in a plain diffusers script on
the same machine.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from app.engine.engine import Engine
from app.protocol import PhaseChanged, RunEvent, RunSucceeded
from app.settings import PROJECT, PathSettings, Settings, WorkerSettings
from benchmarks.options import options_parser
from benchmarks.table import print_table

WORKFLOW = PROJECT / "workflows" / "text-to-image.json"
PROMPT = "a red circle on a white background"
STEPS = 2

# A plain script with the same model and arguments; times the first denoiser call.
BARE = """
import json, sys, time, torch
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
entered, first_forward = [], []
def note(module, arguments):
    if len(first_forward) < len(entered):
        first_forward.append(time.perf_counter())
pipe.unet.register_forward_pre_hook(note)
for seed in range(int(sys.argv[2])):
    entered.append(time.perf_counter())
    with torch.inference_mode():
        pipe(sys.argv[3], num_inference_steps=int(sys.argv[4]),
             generator=torch.Generator().manual_seed(seed))
print(json.dumps([b - a for a, b in zip(entered, first_forward)]))
"""


class TimedRun:
    """One run through the engine, timed from outside."""

    def __init__(self, engine: Engine, seed: int) -> None:
        submitted_at = time.time()
        run_id = engine.submit(WORKFLOW, {"prompt": PROMPT, "steps": STEPS}, seed=seed, fresh=True)
        events: list[RunEvent] = list(engine.events(run_id))
        finished_at = time.time()
        end = events[-1]
        if not isinstance(end, RunSucceeded):
            raise SystemExit(f"run {seed} did not succeed: {end}")
        self.total_s = finished_at - submitted_at
        self.overhead_s = self.total_s - end.timings.compute_s
        denoising = (e for e in events if isinstance(e, PhaseChanged) and e.phase == "denoising")
        self.first_forward_s = next(denoising).time - submitted_at


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    runs = 1 if options.smallest else options.runs

    bare = subprocess.run(
        [
            sys.executable,
            "-c",
            BARE,
            PROJECT / "models" / "shapes",
            str(runs + 1),
            PROMPT,
            str(STEPS),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    bare_first_forward_s = json.loads(bare.stdout.splitlines()[-1])[1:]

    with tempfile.TemporaryDirectory() as outputs:
        engine = Engine()
        engine.start(
            Settings(
                paths=PathSettings(outputs=Path(outputs)),
                worker=WorkerSettings(log_level="WARNING"),
            )
        )
        try:
            first = TimedRun(engine, seed=0)
            second = TimedRun(engine, seed=1)
            warm = [TimedRun(engine, seed=seed) for seed in range(2, runs + 2)]
        finally:
            engine.close()

    overhead_s = [run.overhead_s for run in warm]
    first_forward_s = [run.first_forward_s for run in warm]
    figures = {
        "runs": runs,
        "overhead_median_ms": 1000 * statistics.median(overhead_s),
        "overhead_p95_ms": 1000 * percentile(overhead_s, 0.95),
        "submit_to_first_forward_median_ms": 1000 * statistics.median(first_forward_s),
        "bare_call_to_first_forward_median_ms": 1000 * statistics.median(bare_first_forward_s),
        "first_run_s": first.total_s,
        "second_run_s": second.total_s,
    }
    beyond_ms = (
        figures["submit_to_first_forward_median_ms"]
        - figures["bare_call_to_first_forward_median_ms"]
    )
    print_table(
        f"{runs} warm runs of {STEPS} denoising steps each, previews off",
        [
            (
                "overhead of a warm run, median (p95)",
                f"{figures['overhead_median_ms']:.1f} ms ({figures['overhead_p95_ms']:.1f})",
                "15 ms",
            ),
            (
                "submit → first denoiser forward beyond the bare call's"
                f" {figures['bare_call_to_first_forward_median_ms']:.1f} ms, median",
                f"{beyond_ms:.1f} ms",
                "10 ms",
            ),
            (
                "first run (worker starts, model loads); second run",
                f"{first.total_s:.2f} s; {second.total_s:.2f} s",
                "",
            ),
        ],
    )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def percentile(values: Sequence[float], fraction: float) -> float:
    """Returns the smallest value that at least this fraction of the values do not exceed."""
    ordered = sorted(values)
    return ordered[math.ceil(fraction * len(ordered)) - 1]


if __name__ == "__main__":
    main()
