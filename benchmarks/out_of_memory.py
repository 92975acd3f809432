"""Counts the runs that recover from running out of memory, and correct runs after them.

    python -m benchmarks.out_of_memory [--rounds 50] [--json FILE] [--smallest]

Prints one table. One worker process draws a small image until it is warm; then the limit of its
data (RLIMIT_DATA, so Linux only) is lowered from outside to its present size plus ROOM_BYTES. In
every round a large image runs out of memory when it is decoded at once, and the small one is drawn
again. Recovered is a large run that ran out of memory and succeeded; right is a small run that
loaded nothing and drew the same pixels as before.
"""

from __future__ import annotations

import json
import resource
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from app.engine.engine import Engine
from app.protocol import TERMINAL, ResultSaved, RunEvent, RunSucceeded
from app.settings import PROJECT, PathSettings, Settings, WorkerSettings
from benchmarks.options import options_parser
from benchmarks.table import print_table

MIB = 1024 * 1024
ROOM_BYTES = 220 * MIB
"""The large image needs more than 300 MiB to decode at once, and less than 120 in tiles."""
LARGE = {"width": 768, "height": 768, "num_inference_steps": 1, "guidance_scale": 1}
SMALL = {"num_inference_steps": 2}


class Drawing:
    """One run through the engine, to its end."""

    def __init__(self, engine: Engine, workflow: Path) -> None:
        events: list[RunEvent] = list(
            engine.events(engine.submit(workflow, {}, seed=3, fresh=True))
        )
        (self.end,) = [event for event in events if isinstance(event, TERMINAL)]
        self.pixels = [
            Image.open(event.path).tobytes() for event in events if isinstance(event, ResultSaved)
        ]

    @property
    def recovered(self) -> bool:
        """True if memory ran out and the run succeeded."""
        return isinstance(self.end, RunSucceeded) and bool(self.end.out_of_memory)

    def is_like(self, ordinary: Drawing) -> bool:
        """Returns whether this is an ordinary warm run with the same pixels."""
        return (
            isinstance(self.end, RunSucceeded)
            and self.end.loaded == self.end.out_of_memory == ()
            and self.pixels == ordinary.pixels
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory() as folder:
        engine = Engine()
        paths = PathSettings(outputs=Path(folder))
        worker = WorkerSettings(device="cpu", log_level="ERROR")
        engine.start(Settings(paths=paths, worker=worker))
        try:
            figures = measured(engine, Path(folder), 1 if options.smallest else options.rounds)
        finally:
            engine.close()

    print_table(
        f"{figures['rounds']} rounds in one worker process",
        [
            (
                "ran out of memory and recovered, median",
                f"{figures['recovered']}, {figures['recovered_median_s']:.2f} s",
                f"{figures['rounds']}",
            ),
            ("next ordinary run right", f"{figures['right']}", f"{figures['rounds']}"),
            (
                "worker's anonymous memory after the first round; after the last",
                f"{figures['first_anonymous_bytes'] / MIB:.1f} MiB;"
                f" {figures['last_anonymous_bytes'] / MIB:.1f} MiB",
                "",
            ),
        ],
    )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def measured(engine: Engine, folder: Path, rounds: int) -> dict[str, Any]:
    small, large = workflow(folder, "small", SMALL), workflow(folder, "large", LARGE)
    Drawing(engine, small)
    ordinary = Drawing(engine, small)
    pid = engine.status().pid
    assert pid is not None
    resource.prlimit(pid, resource.RLIMIT_DATA, (data_bytes(pid) + ROOM_BYTES, -1))
    recovered, right, anonymous_bytes, seconds = 0, 0, [], []
    for _ in range(rounds):
        forced = Drawing(engine, large)
        recovered += forced.recovered
        if isinstance(forced.end, RunSucceeded):
            seconds.append(forced.end.timings.total_s)
        right += Drawing(engine, small).is_like(ordinary)
        status = engine.status()
        if status.pid != pid or status.memory is None:
            raise SystemExit("the worker process has ended")
        anonymous_bytes.append(status.memory.anonymous_bytes)
    return {
        "rounds": rounds,
        "recovered": recovered,
        "right": right,
        "recovered_median_s": statistics.median(seconds or [0.0]),
        "first_anonymous_bytes": anonymous_bytes[0],
        "last_anonymous_bytes": anonymous_bytes[-1],
    }


def workflow(folder: Path, name: str, arguments: dict[str, Any]) -> Path:
    """Returns a workflow that draws one image with the bundled model."""
    step = {
        "name": "draw",
        "pipeline": {
            "configuration": {"component_type": "StableDiffusionPipeline"},
            "from_pretrained_arguments": {"model_name": str(PROJECT / "models" / "shapes")},
            "arguments": {"prompt": "a red circle", **arguments},
        },
        "result": {"content_type": "image/png"},
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"id": name, "steps": [step]}))
    return path


def data_bytes(pid: int) -> int:
    """Returns the bytes that count against RLIMIT_DATA."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))


if __name__ == "__main__":
    main()
