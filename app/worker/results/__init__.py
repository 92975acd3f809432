"""Writes results to files, each with its record; one module per kind."""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from app import __version__
from app.dialect.plan import ResultSpec, Step
from app.dialect.result_kinds import RESULT_KINDS, ResultKind
from app.outputs import NewFile, OutputStore, Record, naming_disk_errors, replacing, sidecar_of
from app.protocol import ResultSaved
from app.stamps import stamp_of
from app.unfinished import part_file, private_folder
from app.worker.results import text, video
from app.worker.results.record import record_of
from app.worker.steps.step_output import Extras, StepOutput

if TYPE_CHECKING:
    from app.worker.context import RunContext

Save = Callable[[Any, NewFile, Record, ResultSpec], "tuple[int, int] | None"]
"""Writes an artifact to a file; returns width and height in pixels, or None."""


WHOLE = ("text/", "application/json")
"""Content types that store a mapping in one file; others use one file per entry."""
SHOWN_CHARACTERS = 10_000


class ResultWriter:
    """Writes the results of one run, each with its record, and reports each."""

    def __init__(self, outputs: OutputStore, context: RunContext, versions: dict[str, str]) -> None:
        self._outputs = outputs
        self._context = context
        self._calls: Counter[str] = Counter()
        self._files: Counter[str] = Counter()
        """Number of written calls and files by step; the rounds of a sub-workflow share a count."""
        self._is_held = False
        """Whether other processes can tell that this one still writes into the run's folder."""
        self._segments: Path | None = None
        self._versions = {"diffusers-workbench": __version__, **versions}

    def save(self, step: Step, made: StepOutput, remembered_from: Record | None = None) -> None:
        """Writes everything the step made as its result block says.

        `remembered_from` is the origin of a cached result. The dialect defines the files' names:
        `id-step.number_of_the_step-call.artifact`.
        """
        assert step.result is not None
        started = time.monotonic()
        plan, run_id = self._context.plan, self._context.run_id
        saving = [other.name for other in plan.steps if other.saves]
        content_type = step.result.content_type
        kind = RESULT_KINDS[content_type]
        save = writer_of(kind)
        for name, artifact in _files(made, content_type, self._calls[step.name]):
            index = self._files[step.name]
            self._files[step.name] += 1
            self._context.cancel_point()
            stem = f"{step.result.file_base_name}{step.file_stem}-{name}"
            record = record_of(step, index, self._context, self._versions)
            record["remembered_from"] = remembered_from
            with naming_disk_errors(self._outputs.root):
                path = self._outputs.new_file(run_id, stem, kind.suffix)
                self._hold(path.parent)
                with self._outputs.new_result(path, record) as file:
                    size = save(artifact, file, record, step.result)
                sidecar = sidecar_of(path)
                stamps = stamp_of(path), stamp_of(sidecar)
            self._context.emit(
                ResultSaved(
                    run_id=run_id,
                    step=step.name,
                    path=str(path),
                    sidecar=str(sidecar),
                    content_type=content_type,
                    width=size and size[0],
                    height=size and size[1],
                    seed=step.seed,
                    index=index,
                    final=step.name == saving[-1],
                    stamps=stamps,
                    text=_excerpt(artifact) if content_type.startswith(WHOLE) else "",
                )
            )
        self._calls[step.name] += len(made.returned)
        self._context.spent.save_s += time.monotonic() - started

    def save_segment(
        self,
        step: Step,
        iteration: int,
        number: int,
        frames: Any,
        fps: float,
        sound: tuple[Any, int] | None,
        *,
        keep: bool,
    ) -> Path:
        """Writes a video segment in high quality; deleted with the run unless `keep`. `sound` is
        samples and their rate."""
        started = time.monotonic()
        spec = ResultSpec(content_type="video/mp4", fps=fps)
        samples, rate = sound or (None, None)
        stem = f"{step.file_stem.rpartition('.')[0]}.{iteration}.segment-{number:03}"
        with naming_disk_errors(self._outputs.root):
            path = self._outputs.new_file(
                self._context.run_id, stem, RESULT_KINDS["video/mp4"].suffix
            )
            if not keep:
                path = self._segments_folder() / f"{secrets.token_hex(8)}{path.suffix}"
            with replacing(path) as file:
                record = record_of(step, number, self._context, self._versions)
                video.write_video(file, frames, record, spec, samples, rate, fine=True)
        self._context.spent.save_s += time.monotonic() - started
        return path

    def _hold(self, folder: Path) -> None:
        """Marks the run's folder as in use until the run ends.

        By a file: removing a folder takes 1 to 4 ms on ext4, in every run.
        """
        if not self._is_held:
            self._context.at_end.enter_context(part_file(folder))
            self._is_held = True

    def _segments_folder(self) -> Path:
        """Returns the run's folder for segments that are not kept, deleted when the run ends."""
        if self._segments is None:
            folder = self._outputs.run_folder(self._context.run_id)
            self._segments = self._context.at_end.enter_context(private_folder(folder))
            self._is_held = True
        return self._segments


def writer_of(kind: ResultKind) -> Save:
    """Returns the function that writes results of this kind."""
    save: Save = resolve_name(kind.save)
    return save


def unsaved_data(step: Step, made: StepOutput) -> tuple[JsonValue, ...]:
    """Returns the text and data of a step whose results are not saved."""
    if step.saves:
        return ()
    return tuple(artifact for artifact in made.artifacts if text.is_data(artifact))


def _files(made: StepOutput, content_type: str, first: int) -> Iterator[tuple[str, Any]]:
    """Yields the content of each file with the end of its name; calls count from `first`.

    JSON has one file per call. A call that returned None (a missing key, say) has no file.
    """
    if content_type.endswith("json"):
        whole = enumerate(made.returned, first)
        yield from ((f"{call}", found) for call, found in whole if found is not None)
        return
    for call, artifacts in enumerate(made.by_call, first):
        for number, artifact in enumerate(artifacts):
            name = f"{call}.{number}"
            if artifact is None or isinstance(artifact, Extras):
                continue
            if isinstance(artifact, Mapping) and not content_type.startswith(WHOLE):
                yield from ((f"{name}-{key}", entry) for key, entry in artifact.items())
            elif content_type.startswith("audio/") and getattr(artifact, "ndim", 0) == 3:
                yield from ((f"{name}-{each}", sound) for each, sound in enumerate(artifact))
            else:
                yield name, artifact


def _excerpt(artifact: Any) -> str:
    data = text.is_data(artifact) and not isinstance(artifact, str)
    words = json.dumps(artifact, ensure_ascii=False) if data else str(artifact)
    return words[:SHOWN_CHARACTERS]
