"""Runs plans. Each run ends with exactly one event: a terminal one, or FilesMissing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from app.dialect.fingerprint import library_versions
from app.dialect.plan import LoadingStep, Plan, Step, SubWorkflowStep, for_device
from app.errors import Cancelled, ResultError
from app.models.specs import NotHere
from app.outputs import OutputStore
from app.protocol import (
    DropComponents,
    Event,
    FilesMissing,
    FreeMemory,
    MemoryFreed,
    MoveToRam,
    PinComponent,
    RunCancelled,
    RunFailed,
    RunStarted,
    RunSucceeded,
    StartRun,
    StepRemembered,
    StepStarted,
    TerminalEvent,
    Timings,
)
from app.settings import WorkerSettings
from app.worker import previews
from app.worker.context import RunContext, Signals
from app.worker.device import Device
from app.worker.failures import report_of
from app.worker.guards import optional_work
from app.worker.loading import converted
from app.worker.loading.converted import ConvertedWeights
from app.worker.loading.parts import Part, StepParts, TaskParts
from app.worker.loading.plan_parts import plan_parts
from app.worker.loading.weights import Weights
from app.worker.memo import FOLDER, PromptMemo
from app.worker.memory_reports import Growth, MemoryReports
from app.worker.placement import Placement
from app.worker.previews import PreviewMaps
from app.worker.residency import Entry, Residency, WorkflowUses
from app.worker.results import ResultWriter, unsaved_data
from app.worker.retry import Retry
from app.worker.step_results import CachedResults, StepResult, StepResults
from app.worker.steps import STEP_KINDS
from app.worker.steps.arguments import comes_after, in_order
from app.worker.steps.notices import plan_notices
from app.worker.tuning.acceleration import check_accelerations
from app.worker.tuning.loras import HeldLoras
from app.worker.watched_files import WatchedFiles, drop_replaced

log = logging.getLogger(__name__)


class _Unprepared(Exception):
    """Raised when a run needs files that are not on this machine."""

    def __init__(self, lacks: NotHere) -> None:
        super().__init__()
        self.lacks = lacks


class Runner:
    """Runs plans one after the other and holds the components they loaded."""

    def __init__(
        self,
        settings: WorkerSettings,
        outputs: OutputStore,
        device: Device,
        emit: Callable[[Event], None],
    ) -> None:
        self.weights = Weights(
            device,
            ConvertedWeights(outputs.root / converted.FOLDER, settings.converted_weights_bytes),
        )
        self.loras = HeldLoras(settings.lora_bytes)
        self.residency = Residency(self._has_left, lambda entry: self.loras.forget(entry.key))
        self.placement = Placement(settings, device, self.residency, self.weights, self.loras)
        self._retry = Retry(self.placement, self.residency, device, self.loras)
        self.signals = Signals()
        self.prompts = PromptMemo(
            settings.prompt_memo_bytes, outputs.root / FOLDER, settings.prompt_memo_disk_bytes
        )
        self.preview_maps = PreviewMaps(outputs.root / previews.FOLDER)
        self.step_results = StepResults(settings.step_memo_bytes)
        self._settings = settings
        self._outputs = outputs
        self._device = device
        self._emit = emit
        self._uses = WorkflowUses()
        self._growth = Growth(settings.growth_warning_bytes)
        self.reports = MemoryReports(
            emit,
            device,
            self.placement,
            self.residency,
            {
                "LoRAs": self.loras.cache,
                "prompts": self.prompts.cache,
                "step results": self.step_results.cache,
                "components without weights": self.weights.shells,
                "maps for previews": self.preview_maps.cache,
            },
        )

    def _has_left(self, entry: Entry) -> None:
        self.loras.forget(entry.key)
        self.weights.on_evict(entry)

    # --- one run ---------------------------------------------------------------------------------

    def run(self, command: StartRun) -> None:
        """Runs the plan; its last event says how it ended."""
        run_id, plan = command.run_id, command.plan
        steps = (for_device(s, accelerator=self._device.is_accelerator) for s in plan.steps)
        plan = plan.model_copy(update={"steps": tuple(steps)})
        if command.previews:
            self.signals.watched.add(run_id)
        context = RunContext(
            run_id,
            plan,
            self._device,
            self._emit,
            self.signals,
            self._settings.preview_interval_s,
            self.prompts,
            self.preview_maps,
            self.loras,
        )
        files = WatchedFiles(plan)
        self.prompts.begin()
        started = time.monotonic()
        log.info("Run %s started", run_id)
        self._emit(RunStarted(run_id=run_id, steps=tuple(s.name for s in plan.steps)))
        ended: TerminalEvent | FilesMissing
        try:
            with context.at_end, files.watching():
                loaded, made_at = self._walk(command, plan, context, files)
            ended = RunSucceeded(
                run_id=run_id,
                timings=Timings(
                    total_s=time.monotonic() - started,
                    load_s=context.spent.load_s,
                    compute_s=context.spent.compute_s,
                    save_s=context.spent.save_s,
                ),
                loaded=tuple(part.title for part in loaded),
                outputs=unsaved_data(plan.steps[-1], context.results[plan.steps[-1].name]),
                out_of_memory=tuple(context.out_of_memory),
                files_changed=not files.matches_request(command, self._settings.device),
                made_at=made_at,
            )
        except _Unprepared as unprepared:
            lacks = unprepared.lacks
            ended = FilesMissing(
                run_id=run_id, time=time.time(), source=lacks.source, names=lacks.names
            )
        except Cancelled:
            ended = RunCancelled(run_id=run_id, phase=context.phase)
        except Exception as error:  # noqa: BLE001  (any error ends the run, not the worker)
            ended = RunFailed(run_id=run_id, error=report_of(error, context))
        context.results.clear()
        with optional_work("Files could not be checked for changes"):
            drop_replaced(files, plan, self.residency, self.weights, self.prompts)
        log.info("Run %s ended: %s", run_id, ended.type.removeprefix("run_"))
        # What is held is reported before the final event, so that a reader of that event sees it.
        # Memory is measured after it: that takes time, and after a failure the device may answer
        # late or never (CUDA errors are sticky).
        self.reports.report()
        self._emit(ended)
        self.report_memory()
        held = (entry.key for entry in self.residency.entries)
        self._growth.note(plan, self.reports.last, held)
        # Cleared last, so that a cancel that arrives while the run ends leaves nothing behind.
        self.signals.cancelled.discard(run_id)
        self.signals.watched.discard(run_id)

    def _walk(
        self, command: StartRun, plan: Plan, context: RunContext, files: WatchedFiles
    ) -> tuple[list[Part], float | None]:
        """Runs the steps whose results are not cached.

        Returns the parts that were loaded, and `made_at` (see `CachedResults`).
        """
        log.info("Loading workflow from %s", plan.workflow_path)
        for warning in plan_notices(plan.warnings, accelerator=self._device.is_accelerator):
            context.notice(warning)
        context.cancel_point()
        context.enter("loading")
        looking_started = time.monotonic()
        try:
            needed = plan_parts(plan, files.still_as(command.specs), self._device)
            cached = self.step_results.look_up(plan, needed, self._device, fresh=command.fresh)
        except NotHere as lacks:
            raise _Unprepared(lacks) from lacks
        running = [
            step
            for step in plan.steps
            if not isinstance(step, SubWorkflowStep)
            and step.name in needed
            and step.name in cached.running
        ]
        self.placement.check((step, needed[step.name]) for step in running)
        check_accelerations(((step, needed[step.name]) for step in running), self._device)
        # Includes steps that do not run: the components they would need stay held.
        used = {part.key for found in needed.values() for part in found.parts}
        self._uses.drop_stale(self.residency, plan.workflow_path, plan.workflow_hash, used)
        self._log_loading(running, needed)
        wanted = {part.key: part for step in running for part in needed[step.name].parts}
        missing = [part for part in wanted.values() if part.key not in self.residency]
        context.to_load_bytes = sum(part.weight_bytes for part in missing)
        context.spent.load_s += time.monotonic() - looking_started
        writer = ResultWriter(self._outputs, context, library_versions())
        names = [step.name for step in plan.steps]
        loaded: list[Part] = []
        with context.watching_modules():
            for step in in_order(plan.steps, cached.running, context):
                cached_result = cached.results.get(step.name)
                if cached_result is None and step.name not in cached.running:
                    log.debug("Nothing needs step: %s", step.name)
                    continue
                after = [other for other in running if comes_after(other, step, names)]
                later = [part.key for s in after for part in needed[s.name].parts]
                context.cancel_point()
                context.step = step.name
                self._emit(
                    StepStarted(
                        run_id=context.run_id,
                        step=step.name,
                        index=names.index(step.name),
                        count=len(names),
                    )
                )
                if cached_result is not None:
                    self._reuse(step, cached_result, context, writer)
                    self._release(step, needed, later)
                    continue
                if isinstance(step, SubWorkflowStep):
                    STEP_KINDS[step.kind](step, context, writer)
                else:
                    parts = needed.get(step.name, TaskParts(()))
                    try:
                        loaded += self._run_step(step, parts, later, context, writer)
                    except ResultError:
                        # Only the write failed: the next try reuses the result.
                        if step.name in context.results and not step.rounds:
                            self._cache(step, cached, context, files)
                        raise
                self._release(step, needed, later)
                if not step.rounds:
                    self._cache(step, cached, context, files)
                self.residency.note_memoised(self.prompts.spared)
            for step in plan.steps:
                if step.rounds and step.name in cached.running:
                    self._cache(step, cached, context, files)
        return loaded, cached.made_at

    def _cache(
        self, step: Step, cached: CachedResults, context: RunContext, files: WatchedFiles
    ) -> None:
        key = cached.keys[step.name]
        # A leaner mode may change results slightly. A sub-workflow's result is cached as that of
        # its last step.
        if key is None or context.out_of_memory or isinstance(step, SubWorkflowStep):
            return
        if files.are_as_planned:
            notices = context.notices.get(step.name, ())
            self.step_results.keep(key, context.results[step.name], context.run_id, notices)

    def _reuse(
        self, step: Step, cached_result: StepResult, context: RunContext, writer: ResultWriter
    ) -> None:
        """Uses the cached result of the step; its files are written again."""
        log.info("Reusing the remembered result of step: %s", step.name)
        self._emit(
            StepRemembered(
                run_id=context.run_id,
                step=step.name,
                made_by=cached_result.made_by,
                made_at=cached_result.made_at,
            )
        )
        for sentence in cached_result.notices:
            context.notice(sentence)
        context.results[step.name] = made = cached_result.made
        if step.saves:
            context.enter("saving")
            writer.save(step, made, cached_result.origin)

    def _run_step(
        self,
        step: LoadingStep,
        parts: StepParts,
        later: list[str],
        context: RunContext,
        writer: ResultWriter,
    ) -> list[Part]:
        """Runs one step; returns the parts that had to be loaded for it."""
        distinct = {part.key: part for part in parts.parts}
        missing = [part for key, part in distinct.items() if key not in self.residency]
        if parts.parts and context.phase != "loading":
            context.enter("loading")

        def attempt(wanted: LoadingStep) -> None:
            started = time.monotonic()
            placed = self.placement.place_parts(wanted, parts, later, context)
            context.spent.load_s += time.monotonic() - started
            with self.residency.lease(set(distinct), context.plan.workflow_id) as components:
                try:
                    STEP_KINDS[step.kind](placed, parts, components, context, writer)
                except BaseException:
                    # An error here must not replace the step's own.
                    with optional_work("Offloaded components could not be restored"):
                        self.placement.restore(placed, parts)
                    raise
                self.placement.restore(placed, parts)

        self._retry.run(attempt, step, parts, later, context)
        return missing

    def _release(self, step: Step, needed: Mapping[str, StepParts], later: Collection[str]) -> None:
        """Drops the parts the step releases, unless pinned or needed by `later` steps."""
        had = [needed[name] for name in step.releases if name in needed]
        keys = {part.key for parts in had for part in parts.parts if part.key not in later}
        keys -= {entry.key for entry in self.residency.entries if entry.pinned}
        if keys:
            self.residency.drop(keys, reason=f"step '{step.name}' releases it")
            self._device.release()

    def _log_loading(self, steps: Sequence[Step], needed: Mapping[str, StepParts]) -> None:
        anything = False
        for step in steps:
            if all(part.key in self.residency for part in needed[step.name].parts):
                log.debug("Reusing cached pipeline for step: %s", step.name)
            else:
                anything = True
                log.debug("Creating pipeline for step: %s", step.name)
                for source in step.sources[:1]:
                    log.info("Loading pipeline from model: %s", source.model)
        if steps and not anything:
            log.info("Reusing loaded models from cache")

    # --- memory ----------------------------------------------------------------------------------

    def free(self, command: FreeMemory) -> None:
        """Drops everything held, frees the memory, and reports the difference."""
        log.info("Performing full cleanup")
        started = time.monotonic()
        before = self._device.memory()
        keys = [entry.key for entry in self.residency.entries]
        dropped = self.residency.drop(keys, reason="memory was freed")
        self.prompts.clear()
        self.step_results.clear()
        self._device.release()
        self._growth.forget()
        self.report_memory()
        self._emit(
            MemoryFreed(
                request_id=command.request_id,
                before=before,
                after=self._device.memory(),
                seconds=time.monotonic() - started,
                dropped=dropped,
            )
        )

    def pin(self, command: PinComponent) -> None:
        self.residency.pin(command.key, command.pinned)
        self.report_memory(command.request_id)

    def drop(self, command: DropComponents) -> None:
        """Drops these components; ignores keys that are not held."""
        self.residency.drop(command.keys, command.reason)
        self._device.release()
        self.report_memory(command.request_id)

    def move_to_ram(self, command: MoveToRam) -> None:
        """Moves these components off the accelerator; ignores keys that are not held."""
        with optional_work("Idle components could not be moved to RAM"):
            self.placement.move_off_device(command.keys, command.reason)
        self.report_memory(command.request_id)

    def clean_up(self, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Does the light cleanup while the worker is idle, until `interrupted` returns True.

        No error in it ends the worker.
        """
        with optional_work("Prompt embeddings could not be written"):
            self.prompts.flush()
        with optional_work("A preview map could not be learnt"):
            self.preview_maps.learn()
        with optional_work("Memory could not be given back"):
            self._device.tidy()
        with optional_work("Converted weights could not be cached"):
            if self.weights.write_converted(self.residency, interrupted):
                self.report_memory()

    def report_memory(self, request_id: str = "") -> None:
        self.reports.measure()
        self.reports.report(request_id)
