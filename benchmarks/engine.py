"""What the engine costs by itself, with nothing between it and this script.

    python -m benchmarks.engine [--runs 50] [--model FOLDER]

Prints one table: the overhead of a warm run of a real-size model (the one of `benchmarks.loading`,
made where it is missing) that takes one small step only; how soon an identical request is answered;
how much later the first denoiser forward comes when another model ran in between; and the gap that
the queue leaves on the device, from one run's last event to the next one's first. Previews are off;
remembered results are off but for the identical request.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import JsonValue

from app.engine.engine import Engine
from app.protocol import PhaseChanged, RunEvent, RunStarted, RunSucceeded
from app.settings import PROJECT, PathSettings, Settings, WorkerSettings
from benchmarks.loading import FOLDER, build_model
from benchmarks.overhead import percentile
from benchmarks.table import print_table

WORKFLOW = PROJECT / "workflows" / "text-to-image.json"
FEW_STEPS: dict[str, JsonValue] = {"prompt": "a red circle on a white background", "steps": 2}
SIDE_PX = 64


def one_step_of(model: Path, folder: Path) -> Path:
    """A workflow that has the model do the least it can, in the dtype of its files."""
    pipeline = {
        "configuration": {"component_type": "StableDiffusionPipeline"},
        "from_pretrained_arguments": {"model_name": str(model), "torch_dtype": "torch.float16"},
        "arguments": {
            "prompt": "a red circle",
            "num_inference_steps": 1,
            "width": SIDE_PX,
            "height": SIDE_PX,
        },
    }
    step = {"name": "draw", "pipeline": pipeline, "result": {"content_type": "image/png"}}
    path = folder / "one-step.json"
    path.write_text(json.dumps({"id": "one-step", "steps": [step]}))
    return path


def ended(engine: Engine, run_id: str) -> tuple[list[RunEvent], RunSucceeded]:
    """The run's events and its end, which has to be a good one."""
    events = list(engine.events(run_id))
    end = events[-1]
    if not isinstance(end, RunSucceeded):
        raise SystemExit(f"a run did not succeed: {end}")
    return events, end


def overheads_s(engine: Engine, workflow: Path, runs: int) -> list[float]:
    """Of warm runs: the whole time less what was spent inside the pipeline's call."""
    found = []
    for seed in range(runs + 2):
        submitted_at = time.perf_counter()
        _, end = ended(engine, engine.submit(workflow, {}, seed=seed, fresh=True))
        found.append(time.perf_counter() - submitted_at - end.timings.compute_s)
    return found[2:]


def identical_s(engine: Engine, runs: int) -> list[float]:
    """How long an answer takes that has been given before."""
    ended(engine, engine.submit(WORKFLOW, FEW_STEPS, seed=1))
    found = []
    for _ in range(runs):
        submitted_at = time.perf_counter()
        _, end = ended(engine, engine.submit(WORKFLOW, FEW_STEPS, seed=1))
        found.append(time.perf_counter() - submitted_at)
        assert end.made_at is not None
    return found


def gaps_s(engine: Engine, runs: int) -> list[float]:
    """From each run's last event to the next one's RunStarted, by their own time stamps."""
    run_ids = [engine.submit(WORKFLOW, FEW_STEPS, seed=n, fresh=True) for n in range(runs + 1)]
    spans = []
    for run_id in run_ids:
        events, end = ended(engine, run_id)
        started = next(event for event in events if isinstance(event, RunStarted))
        spans.append((started.time, end.time))
    return [later[0] - earlier[1] for earlier, later in itertools.pairwise(spans)]


def switches_s(engine: Engine, folder: Path, runs: int) -> list[float]:
    """Of two models that are held both: submit → first denoiser forward after a change of the
    model, less the same after none."""
    names = ("a", "b")
    for name in names:
        shutil.copytree(PROJECT / "models" / "shapes", folder / name)
        document = json.loads(WORKFLOW.read_text())
        document["steps"][0]["pipeline"]["from_pretrained_arguments"]["model_name"] = name
        (folder / f"{name}.json").write_text(json.dumps(document))

    def first_forward_s(name: str, seed: int) -> float:
        submitted_at = time.time()
        workflow = folder / f"{name}.json"
        events, _ = ended(engine, engine.submit(workflow, FEW_STEPS, seed=seed, fresh=True))
        phases = (event for event in events if isinstance(event, PhaseChanged))
        return next(each.time for each in phases if each.phase == "denoising") - submitted_at

    found = []
    for seed in range(runs + 1):
        (switched, repeated), _ = [
            (first_forward_s(name, seed), first_forward_s(name, seed + 1)) for name in names
        ]
        found.append(switched - repeated)
    return found[1:]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--model", type=Path, default=FOLDER, help="of benchmarks.loading")
    options = parser.parse_args(arguments)
    if not options.model.exists():
        build_model(options.model)
    with tempfile.TemporaryDirectory() as name:
        engine = Engine()
        engine.start(
            Settings(
                paths=PathSettings(outputs=Path(name)), worker=WorkerSettings(log_level="WARNING")
            )
        )
        try:
            real_size = one_step_of(options.model, Path(name))
            rows = {
                "overhead of a warm run, model of 1 billion parameters": (
                    overheads_s(engine, real_size, options.runs), 15
                ),
                "identical request": (identical_s(engine, options.runs), 20),
                "A → B → A, first forward beyond a repeat": (
                    switches_s(engine, Path(name), options.runs), 5
                ),
                "queue gap": (gaps_s(engine, options.runs), 5),
            }  # fmt: skip
        finally:
            engine.close()
    print_table(
        f"{options.runs} runs each; median (p95), the aim is for the latter",
        [
            (
                what,
                f"{1000 * statistics.median(seconds):.1f} ms"
                f" ({1000 * percentile(seconds, 0.95):.1f})",
                f"{aim_ms} ms",
            )
            for what, (seconds, aim_ms) in rows.items()
        ],
    )


if __name__ == "__main__":
    main()
