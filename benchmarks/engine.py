"""Measures the engine's own overhead, without page or network.

    python -m benchmarks.engine [--runs 50] [--model FOLDER] [--smallest]

Prints one table, with aims for the 95th percentiles: the overhead of a warm run with a model of
real size (`benchmarks.random_model`, 2.1 GB, created if missing) and one small step; the time to
answer an identical request; the delay of the first denoiser call after a run of another model,
compared with none in between; and the gap between two queued runs. Previews are off; cached results
are on for the identical request only.
"""

from __future__ import annotations

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
from benchmarks.options import options_parser
from benchmarks.overhead import percentile
from benchmarks.random_model import FOLDER, SD15, SMALLEST, make_model
from benchmarks.table import print_table

WORKFLOW = PROJECT / "workflows" / "text-to-image.json"
FEW_STEPS: dict[str, JsonValue] = {"prompt": "a red circle on a white background", "steps": 2}
SIDE_PX = 64


def one_step_of(model: Path, folder: Path) -> Path:
    """Returns a workflow with the least work for the model.

    It computes in float32: in float16, the files' dtype, a step takes minutes on some CPUs.
    """
    pipeline = {
        "configuration": {"component_type": "StableDiffusionPipeline"},
        "from_pretrained_arguments": {"model_name": str(model), "torch_dtype": "torch.float32"},
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
    """Returns the run's events and its end, which must be a success."""
    events = list(engine.events(run_id))
    end = events[-1]
    if not isinstance(end, RunSucceeded):
        raise SystemExit(f"a run did not succeed: {end}")
    return events, end


def overheads_s(engine: Engine, workflow: Path, runs: int) -> list[float]:
    """Returns for warm runs the total time less that of the pipeline's call."""
    found = []
    for seed in range(runs + 2):
        submitted_at = time.perf_counter()
        _, end = ended(engine, engine.submit(workflow, {}, seed=seed, fresh=True))
        found.append(time.perf_counter() - submitted_at - end.timings.compute_s)
    return found[2:]


def identical_s(engine: Engine, runs: int) -> list[float]:
    """Returns the times to answer an identical request."""
    ended(engine, engine.submit(WORKFLOW, FEW_STEPS, seed=1))
    found = []
    for _ in range(runs):
        submitted_at = time.perf_counter()
        _, end = ended(engine, engine.submit(WORKFLOW, FEW_STEPS, seed=1))
        found.append(time.perf_counter() - submitted_at)
        assert end.made_at is not None
    return found


def gaps_s(engine: Engine, runs: int) -> list[float]:
    """Returns times from each run's last event to the next one's RunStarted, by time stamps."""
    run_ids = [engine.submit(WORKFLOW, FEW_STEPS, seed=n, fresh=True) for n in range(runs + 1)]
    spans = []
    for run_id in run_ids:
        events, end = ended(engine, run_id)
        started = next(event for event in events if isinstance(event, RunStarted))
        spans.append((started.time, end.time))
    return [later[0] - earlier[1] for earlier, later in itertools.pairwise(spans)]


def switches_s(engine: Engine, folder: Path, runs: int) -> list[float]:
    """Returns, for two held models, submit → first denoiser forward after a change of the model,
    less the same without a change."""
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
    parser = options_parser(__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--model", type=Path, default=FOLDER, help="of benchmarks.random_model")
    options = parser.parse_args(arguments)
    runs = 1 if options.smallest else options.runs
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "model" if options.smallest else options.model
        make_model(model, SMALLEST if options.smallest else SD15)
        engine = Engine()
        engine.start(
            Settings(
                paths=PathSettings(outputs=Path(name)),
                # No converted weights are written between runs.
                worker=WorkerSettings(log_level="WARNING", converted_weights_bytes=0),
            )
        )
        try:
            real_size = one_step_of(model, Path(name))
            rows = {
                "overhead of a warm run, model of 1 billion parameters": (
                    overheads_s(engine, real_size, runs), 15
                ),
                "identical request": (identical_s(engine, runs), 20),
                "A → B → A, first forward beyond a repeat": (
                    switches_s(engine, Path(name), runs), 5
                ),
                "queue gap": (gaps_s(engine, runs), 5),
            }  # fmt: skip
        finally:
            engine.close()
    print_table(
        f"{runs} runs each; median (p95), the aim is for the latter",
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
