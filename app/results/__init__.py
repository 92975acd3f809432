"""How results are written: one file per kind, and the record that goes with every one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from app import __version__
from app.outputs import OutputStore, Record
from app.protocol import ResultSaved
from app.results import audio, image, text, video
from app.workflow.plan import PipelineStep, Step

if TYPE_CHECKING:
    from app.worker.context import RunContext

RESULT_KINDS = {
    "image/png": image.save_png,
    "image/jpeg": image.save_jpeg,
    "image/webp": image.save_webp,
    "video/mp4": video.save_mp4,
    "audio/wav": audio.save_wav,
    "audio/x-wav": audio.save_wav,
    "audio/flac": audio.save_flac,
    "audio/x-flac": audio.save_flac,
    "audio/mpeg": audio.save_mp3,
    "audio/mp3": audio.save_mp3,
    "text/plain": text.save_text,
    "application/json": text.save_json,
}
"""What writes a result of this content type; each returns width and height in pixels, or None."""
SUFFIXES = {
    "image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp", "video/mp4": ".mp4",
    "audio/wav": ".wav", "audio/x-wav": ".wav", "audio/flac": ".flac", "audio/x-flac": ".flac",
    "audio/mpeg": ".mp3", "audio/mp3": ".mp3",
    "text/plain": ".txt", "application/json": ".json",
}  # fmt: skip
WHOLE = ("text/", "application/json")
"""Content types of which a mapping is one file; of the others every entry is one."""
SHOWN_CHARACTERS = 10_000


class ResultWriter:
    """Writes the results of one run, each with its record, and tells of each."""

    def __init__(self, outputs: OutputStore, context: RunContext, versions: dict[str, str]) -> None:
        self._outputs = outputs
        self._context = context
        self._versions = {"diffusers-workbench": __version__, **versions}

    def save(self, step: Step, artifacts: list[Any], remembered_from: Record | None = None) -> None:
        """Write every artifact of the step as its result block says.

        `remembered_from` tells which run made them, where this one did not.
        """
        assert step.result is not None
        started = time.monotonic()
        plan, run_id = self._context.plan, self._context.run_id
        saving = [other.name for other in plan.steps if other.saves]
        number = [other.name for other in plan.steps].index(step.name)
        content_type = step.result.content_type
        for index, key, artifact in _files(artifacts, content_type):
            self._context.checkpoint()
            stem = f"{step.result.file_base_name}{plan.workflow_id}-{step.name}.{number}-{index}"
            path = self._outputs.new_file(run_id, f"{stem}{key}", SUFFIXES[content_type])
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
                    width=size and size[0],
                    height=size and size[1],
                    seed=step.seed,
                    index=index,
                    final=step.name == saving[-1],
                    text=_shown(artifact) if content_type.startswith(WHOLE) else "",
                )
            )
        self._context.spent.save_s += time.monotonic() - started

    def _record(self, step: Step, index: int) -> Record:
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
            "mode": _mode(step),
            "timings": {
                "load_s": round(context.spent.load_s, 4),
                "compute_s": round(context.spent.compute_s, 4),
            },
        }


def _mode(step: Step) -> Record | None:
    """How the step computed, where there is a choice."""
    if not isinstance(step, PipelineStep):
        return None
    return {
        "offload": step.offload,
        "vae_slicing": step.vae_slicing,
        "vae_tiling": step.vae_tiling,
    }


def unsaved_data(step: Step, artifacts: list[Any]) -> tuple[JsonValue, ...]:
    """The texts and data that the step gave and no file holds."""
    if step.saves:
        return ()
    return tuple(artifact for artifact in artifacts if text.is_data(artifact))


def _files(artifacts: list[Any], content_type: str) -> Iterator[tuple[int, str, Any]]:
    """What is written to files of its own: number in the step, end of the file's name, artifact.

    A step that gave nothing (a key that is not there, say) has no file.
    """
    for index, artifact in enumerate(artifacts):
        if isinstance(artifact, dict) and not content_type.startswith(WHOLE):
            yield from ((index, f"-{key}", entry) for key, entry in artifact.items())
        elif artifact is not None:
            yield index, "", artifact


def _shown(artifact: Any) -> str:
    words = artifact if isinstance(artifact, str) else json.dumps(artifact, ensure_ascii=False)
    return words[:SHOWN_CHARACTERS]
