"""A runner in this process, with one call to plan a document and run it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.dialect.plan import Plan
from app.errors import LoadError
from app.outputs import OutputStore
from app.planning.planner import make_plan
from app.protocol import Event, FreeMemory, StartRun
from app.settings import PathSettings, WorkerSettings
from app.worker.context import RunContext, Signals
from app.worker.device import Device
from app.worker.loading.load import assemble, find_parts
from app.worker.placement import Placement
from app.worker.residency import Residency
from app.worker.runner import Runner
from tests.engines import Finished

Document = dict[str, Any]
SHAPES = str(Path(__file__).resolve().parents[2] / "models" / "shapes")


class Bench:
    """A folder for documents and images, and a runner on the CPU that writes below it."""

    def __init__(self, folder: Path, device: Device | None = None, **settings: Any) -> None:
        self.folder = folder
        self.models = folder / "models"
        self.when: Callable[[Event], None] = lambda _event: None
        """Called with every event, during the run."""
        self._events: list[Event] = []
        self._numbers = itertools.count()
        self.run_id = ""
        """Id of the active run, else of the last."""
        self.runner = Runner(
            WorkerSettings(device="cpu", **settings),
            OutputStore(folder / "outputs"),
            device or Device("cpu"),
            self._take,
        )

    def _take(self, event: Event) -> None:
        self._events.append(event)
        self.when(event)

    def write(self, document: Document, name: str = "flow") -> Path:
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(document))
        return path

    def plan(self, document: Document | Path, seed: int | None = 7, **inputs: Any) -> Plan:
        path = document if isinstance(document, Path) else self.write(document)
        paths = PathSettings(
            media=(self.folder,), models=(self.models,), outputs=self.folder / "outputs"
        )
        return make_plan(path, inputs, paths=paths, seed=seed)

    def run(
        self,
        document: Document | Path | Plan,
        seed: int | None = 7,
        *,
        previews: bool = False,
        fresh: bool = True,
    ) -> Finished:
        plan = document if isinstance(document, Plan) else self.plan(document, seed)
        self.run_id = run_id = f"20260101-000000-{next(self._numbers):06x}"
        self._events.clear()
        self.runner.run(StartRun(run_id=run_id, plan=plan, previews=previews, fresh=fresh))
        events = (event for event in self._events if getattr(event, "run_id", "") == run_id)
        return Finished(run_id, tuple(events))

    def free(self) -> None:
        """Drops everything that is held."""
        self.runner.free(FreeMemory(request_id="free"))

    def cancel(self, run_id: str) -> None:
        """Cancels the run, as the worker's reader thread does for CancelRun."""
        self.runner.signals.cancelled.add(run_id)

    def assembled(self, document: Document) -> Any:
        """Returns the pipeline of the document's first step, loaded, before any call."""
        plan, residency, weights = self.plan(document), Residency(), self.runner.weights
        step, device = plan.steps[0], Device("cpu")
        context = RunContext(
            "20260101-000000-000000", plan, device, self._take, Signals(), 1.0,
            self.runner.prompts, self.runner.preview_maps, self.runner.loras,
        )  # fmt: skip
        parts = find_parts(step)
        settings = WorkerSettings(device="cpu")
        placement = Placement(settings, device, residency, weights, self.runner.loras)
        placement.place_parts(step, parts, (), context)
        with residency.lease([part.key for part in parts.parts], plan.workflow_id) as components:
            return assemble(step, parts, components)

    def refused(self, document: Document) -> LoadError:
        """Returns the error of loading the document's first step."""
        with pytest.raises(LoadError) as caught:
            self.assembled(document)
        return caught.value


def step(
    name: str = "draw",
    model: str | Path = SHAPES,
    kind: str = "",
    *,
    loading: Document | None = None,
    saved_as: str = "image/png",
    blocks: Document | None = None,
    **arguments: Any,
) -> Document:
    """Returns a Stable Diffusion step of two denoising steps; `blocks` are further blocks."""
    return {
        "name": name,
        "pipeline": {
            "configuration": {"component_type": f"StableDiffusion{kind}Pipeline"},
            "from_pretrained_arguments": {"model_name": str(model), **(loading or {})},
            "arguments": {"prompt": "a red circle", "num_inference_steps": 2, **arguments},
            **(blocks or {}),
        },
        "result": {"content_type": saved_as},
    }


def document(*steps: Document, **changes: Any) -> Document:
    return {"id": "test", "steps": list(steps) or [step()], **changes}


def pixels(finished: Finished) -> list[np.ndarray]:
    """Returns the images of a successful run."""
    assert finished.success
    return [np.asarray(Image.open(result.path)) for result in finished.results]


def same(one: Finished, other: Finished) -> bool:
    """Returns whether two runs drew bit-identical images."""
    pairs = zip(pixels(one), pixels(other), strict=True)
    return all(np.array_equal(first, second) for first, second in pairs)
