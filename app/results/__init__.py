"""How results are written: one file per kind, and the record that goes with every one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from app import __version__
from app.outputs import OutputStore, Record
from app.protocol import ResultSaved
from app.results import image, video

if TYPE_CHECKING:
    from app.worker.context import RunContext
    from app.workflow.plan import PipelineStep

RESULT_KINDS = {
    "image/png": image.save_png,
    "image/jpeg": image.save_jpeg,
    "image/webp": image.save_webp,
    "video/mp4": video.save_mp4,
}
SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp", "video/mp4": ".mp4"}


class ResultWriter:
    """Writes the results of one run, each with its record, and tells of each."""

    def __init__(self, outputs: OutputStore, context: RunContext, versions: dict[str, str]) -> None:
        self._outputs = outputs
        self._context = context
        self._versions = {"diffusers-workbench": __version__, **versions}

    def save(
        self, step: PipelineStep, artifacts: list[Any], remembered_from: Record | None = None
    ) -> None:
        """Write every artifact of the step as its result block says.

        `remembered_from` tells which run made them, where this one did not.
        """
        assert step.result is not None
        started = time.monotonic()
        plan, run_id = self._context.plan, self._context.run_id
        saving = [other.name for other in plan.steps if other.saves]
        number = [other.name for other in plan.steps].index(step.name)
        content_type = step.result.content_type
        for index, artifact in enumerate(artifacts):
            self._context.checkpoint()
            stem = f"{step.result.file_base_name}{plan.workflow_id}-{step.name}.{number}-{index}"
            path = self._outputs.new_file(run_id, stem, SUFFIXES[content_type])
            record = {**self._record(step, index), "remembered_from": remembered_from}
            size = RESULT_KINDS[content_type](artifact, path, record, step.result)
            sidecar = self._outputs.write_sidecar(path, record)
            self._context.emit(
                ResultSaved(
                    run_id=run_id,
                    time=time.time(),
                    step=step.name,
                    path=str(path),
                    sidecar=str(sidecar),
                    content_type=content_type,
                    width=size[0],
                    height=size[1],
                    seed=step.seed,
                    index=index,
                    final=step.name == saving[-1],
                )
            )
        self._context.spent.save_s += time.monotonic() - started

    def _record(self, step: PipelineStep, index: int) -> Record:
        context = self._context
        return {
            "run_id": context.run_id,
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "workflow": context.plan.document,
            "workflow_sha256": context.plan.workflow_hash,
            "changes": context.plan.changes,
            "inputs": context.plan.inputs,
            "step": step.name,
            "seed": step.seed,
            "index": index,
            "versions": dict(self._versions),
            "device": str(context.device),
            "device_name": context.device.name,
            "out_of_memory": list(context.out_of_memory),
            "mode": {
                "offload": step.offload,
                "vae_slicing": step.vae_slicing,
                "vae_tiling": step.vae_tiling,
            },
            "timings": {
                "load_s": round(context.spent.load_s, 4),
                "compute_s": round(context.spent.compute_s, 4),
            },
        }
