"""The context of one run: earlier results, progress events, cancel points.

A cancel point is a place where a cancelled run ends. There is one between components, between
steps, and, by a hook, before every call of every torch module: a cancel takes effect within one
module call, in the text encoder as in the autoencoder.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from app.dialect.plan import Plan
from app.dialect.plan_settings import DENOISERS
from app.errors import Cancelled
from app.models.needs import DECODERS
from app.protocol import (
    CancelPointGap,
    Event,
    Loading,
    MemoryRanOut,
    Noticed,
    Phase,
    PhaseChanged,
    Preview,
    StepProgress,
)
from app.worker.device import Device
from app.worker.steps.step_output import StepOutput

if TYPE_CHECKING:
    from app.worker.memo import PromptMemo
    from app.worker.previews import PreviewMaps, PreviewSource
    from app.worker.tuning.loras import HeldLoras

log = logging.getLogger(__name__)

GAP_WORTH_TELLING_S = 1.0

_watching: Callable[[torch.nn.Module], None] | None = None
"""Called before every call of a torch module; set while the main thread runs a run."""


@functools.cache
def _watch_modules() -> None:
    """Installs the hook once, for good: changing torch's hooks recompiles compiled modules."""
    register_module_forward_pre_hook(_before_any_call)


def _before_any_call(module: torch.nn.Module, _arguments: Any) -> None:
    # Modules inside a compiled one are compiled with it: only the outer call is a cancel point.
    if not torch.compiler.is_compiling() and _watching is not None:
        _watching(module)


@dataclass
class Signals:
    """Requests from other threads to the main thread."""

    cancelled: set[str] = field(default_factory=set)
    """Ids of runs to cancel. A late cancel has no effect: run ids are never reused."""
    watched: set[str] = field(default_factory=set)
    """Ids of runs whose previews somebody watches."""


@dataclass
class Spent:
    """Seconds spent, by activity."""

    load_s: float = 0.0
    compute_s: float = 0.0
    save_s: float = 0.0


class RunContext:
    """One run in the worker."""

    def __init__(
        self,
        run_id: str,
        plan: Plan,
        device: Device,
        emit: Callable[[Event], None],
        signals: Signals,
        preview_interval_s: float,
        prompts: PromptMemo,
        preview_maps: PreviewMaps,
        loras: HeldLoras,
    ) -> None:
        self.run_id = run_id
        self.plan = plan
        self.device = device
        self.emit = emit
        self.prompts = prompts
        self.preview_maps = preview_maps
        self.loras = loras
        self.results: dict[str, StepOutput] = {}
        """Results by step name; in a round of a sub-workflow, its steps' results of that round."""
        self.handed: dict[str, Any] = {}
        """Values passed to sub-workflows in their current rounds, by `handed_at`."""
        self.segment: tuple[int, int] | None = None
        """Number (from 1) and count of the video segment being made."""
        self.at_end = contextlib.ExitStack()
        """Clean-up for the end of the run, however it ends."""
        self.spent = Spent()
        self.out_of_memory: list[str] = []
        """One sentence for each time memory ran out."""
        self.notices: dict[str, list[str]] = {}
        """Notices about the results, by step; those about the whole workflow by ""."""
        self.to_load_bytes = 0
        """Bytes of weights that were not held when the run began."""
        self._loaded_bytes = 0
        self.step = ""
        self.phase: Phase = "queued"
        self._signals = signals
        self._preview_interval_s = preview_interval_s
        self._last_preview = 0.0
        self._last_cancel_point = time.monotonic()
        self._longest_gap_s = 0.0
        self._phases: dict[int, Phase] = {}

    # --- cancel points ---------------------------------------------------------------------------

    def cancel_point(self) -> None:
        """Raises Cancelled when the run has been cancelled."""
        now = time.monotonic()
        gap_s, self._last_cancel_point = now - self._last_cancel_point, now
        if gap_s > GAP_WORTH_TELLING_S and gap_s > 1.2 * self._longest_gap_s:
            self._longest_gap_s = gap_s
            self.emit(CancelPointGap(run_id=self.run_id, seconds=gap_s))
        if self.run_id in self._signals.cancelled:
            raise Cancelled

    @contextlib.contextmanager
    def watching_modules(self) -> Iterator[None]:
        """Makes every call of a torch module inside a cancel point that updates the phase."""
        _watch_modules()
        global _watching
        _watching = self._before_call
        try:
            yield
        finally:
            _watching = None
            self._phases.clear()

    def _before_call(self, module: torch.nn.Module) -> None:
        self.cancel_point()
        phase = self._phases.get(id(module))
        if phase is not None and phase != self.phase:
            self.enter(phase)

    def map_phases(self, components: Mapping[str, Any]) -> None:
        """Maps each component's modules to the phase in which they are called."""
        # Ids of modules from earlier steps may have been reused.
        self._phases.clear()
        for name, component in components.items():
            if not isinstance(component, torch.nn.Module):
                continue
            # Combined pipelines prefix the first model's components.
            name = name.removeprefix("prior_")
            if name in DENOISERS:
                self._phases[id(component)] = "denoising"
            elif name.startswith(("text_encoder", "image_encoder")):
                # Some pipelines call only parts of a large encoder.
                parts = list(component.children())
                for module in (component, *parts, *(m for part in parts for m in part.children())):
                    self._phases[id(module)] = "encoding"
            elif name in DECODERS:
                for part, phase in (("encoder", "encoding"), ("decoder", "decoding")):
                    if (inner := getattr(component, part, None)) is not None:
                        self._phases[id(inner)] = phase  # type: ignore[assignment]

    # --- events ----------------------------------------------------------------------------------

    def enter(self, phase: Phase) -> None:
        """Sets the phase of the running step and reports it."""
        self.phase = phase
        self.emit(PhaseChanged(run_id=self.run_id, step=self.step, phase=phase))

    def report_loading(self, component: str, model: str, loaded_bytes: int) -> None:
        """Reports that a component is being loaded, after `loaded_bytes` more."""
        self._loaded_bytes += loaded_bytes
        # Components evicted for another step are loaded twice.
        self.to_load_bytes = max(self.to_load_bytes, self._loaded_bytes)
        self.emit(
            Loading(
                run_id=self.run_id,
                step=self.step,
                component=component,
                model=model,
                loaded_bytes=self._loaded_bytes,
                total_bytes=self.to_load_bytes,
            )
        )

    def report_memory_ran_out(self, done: Sequence[str]) -> None:
        """Reports that memory ran out in the running step, and the remedies, in sentences."""
        event = MemoryRanOut(run_id=self.run_id, step=self.step, phase=self.phase, done=tuple(done))
        log.warning("%s", event.sentence)
        self.out_of_memory.append(event.sentence)
        self.emit(event)

    def notice(self, sentence: str) -> None:
        """Notices something about the step's result, once: in the log, the run and the record."""
        notices = self.notices.setdefault(self.step, [])
        if sentence not in notices:
            notices.append(sentence)
            log.warning("%s", sentence)
            self.emit(Noticed(run_id=self.run_id, step=self.step, sentence=sentence))

    def progress(
        self, done: int, total: int, clock_started: float, *, without_preview: bool = False
    ) -> None:
        """Reports denoising steps done (for a task: calls); `clock_started` is the end of the
        first, in monotonic seconds."""
        seconds_left = None
        if done > 1:
            seconds_left = (time.monotonic() - clock_started) / (done - 1) * (total - done)
        self.emit(
            StepProgress(
                run_id=self.run_id,
                step=self.step,
                done=done,
                total=total,
                seconds_left=seconds_left,
                without_preview=without_preview,
                segment=self.segment and self.segment[0],
                segments=self.segment and self.segment[1],
            )
        )

    def end_step(
        self,
        done: int,
        total: int,
        clock_started: float,
        latents: torch.Tensor | None,
        preview_source: PreviewSource,
    ) -> None:
        """Reports a finished denoising step, with a preview if possible. A cancel point."""
        known = preview_source if preview_source.knows(latents) else None
        self.progress(done, total, clock_started, without_preview=known is None)
        if latents is not None:
            self._show(latents, known)
        self.cancel_point()

    def _show(self, latents: torch.Tensor, preview_source: PreviewSource | None) -> None:
        """Sends a preview if somebody watches and the last one is old enough."""
        now = time.monotonic()
        if (
            preview_source is None
            or self.run_id not in self._signals.watched
            or now - self._last_preview < self._preview_interval_s
        ):
            return
        self._last_preview = now
        if (rendered := preview_source.render(latents)) is None:
            return
        jpeg, width, height = rendered
        self.emit(Preview(run_id=self.run_id, jpeg=jpeg, width=width, height=height))
