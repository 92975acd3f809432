"""Places the components of a step, under the memory budgets.

Weights are held in at most two places, each with a budget in bytes: on the device and, beside an
accelerator, in RAM. The components of a step are loaded and moved to the device one after the
other; what `choose_evictions` chooses to make room goes from the device to RAM, and from RAM for
good.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from app.dialect.plan import LoadingStep, PipelineStep, TaskStep
from app.dialect.plan_sources import parameter_of
from app.errors import TooLarge
from app.models.activations import Size
from app.models.fit import (
    DEVICE_SHARE,
    RAM_SHARE,
    Mode,
    Need,
    Room,
    choose_mode,
    working_bytes,
)
from app.models.needs import asked_mode, step_need
from app.models.specs import StepSpecs
from app.protocol import Budgets, HeldComponent, Place
from app.settings import WorkerSettings
from app.worker.context import RunContext
from app.worker.device import Device
from app.worker.loading.origins import Origin
from app.worker.loading.parts import Part, Parts, StepParts
from app.worker.loading.weights import Weights
from app.worker.residency import Entry, Residency, choose_evictions
from app.worker.tuning.loras import HeldLoras

log = logging.getLogger(__name__)


def budgets_of(settings: WorkerSettings, device: Device) -> Budgets:
    """Returns the budgets from the settings, else shares of the device's and machine's memory."""
    memory = device.memory()
    device_bytes = int(memory.device_total_bytes * DEVICE_SHARE) // settings.workers_on_device
    ram_bytes = settings.ram_budget or int(memory.ram_total_bytes * RAM_SHARE) // settings.workers
    return Budgets(
        device_bytes=settings.device_budget or device_bytes,
        ram_bytes=ram_bytes if device.is_accelerator else 0,
    )


class Placement:
    """Decides and changes where components are held, for one runner."""

    def __init__(
        self,
        settings: WorkerSettings,
        device: Device,
        residency: Residency,
        weights: Weights,
        loras: HeldLoras,
    ) -> None:
        self.budgets = budgets_of(settings, device)
        self._device = device
        self._residency = residency
        self._weights = weights
        self._loras = loras
        self._total_bytes = device.free_and_total_bytes()[1]
        self._sizes: dict[str, Size] = {}
        """Image sizes of the active run's steps, by step name."""
        self._needs: dict[str, Need] = {}
        """Memory needs of the active run's steps with what is held now, by step name."""

    def check(self, steps: Iterable[tuple[LoadingStep, StepParts]]) -> None:
        """Raises TooLarge if a step cannot fit, before anything is loaded or evicted."""
        self._sizes.clear()
        self._needs.clear()
        for step, parts in steps:
            self._mode(step, self._need(step, parts))

    def in_mode(self, step: LoadingStep, parts: StepParts) -> LoadingStep:
        """Returns the step in the mode in which it will run; logs the mode. Raises TooLarge."""
        mode = self._mode(step, self._need(step, parts))
        if isinstance(step, PipelineStep):
            _log_mode(step, mode)
        return _in_mode(step, mode)

    def place_parts(
        self, step: LoadingStep, parts: StepParts, later: Sequence[str], context: RunContext
    ) -> LoadingStep:
        """Loads and moves all parts of the step to where it needs them.

        `later` are the keys that later steps of the run need, the next first. Returns the step in
        the mode it runs in. A cancel keeps the parts that have been loaded.
        """
        need = self._need(step, parts)
        mode = self._mode(step, need)
        keys = [part.key for part in parts.parts]
        waits_in_ram = mode.offload or self._stays_in_ram(step)
        place: Place = "ram" if waits_in_ram else "device"
        for part in {part.key: part for part in parts.parts}.values():
            if part.key not in self._residency:
                lands_in: Place = "device" if part.quantiser else place
                self._make_room(lands_in, part.weight_bytes, keys, later, context)
                self._residency.hold(self._weights.load(part, context))
                self._needs.clear()
            self._move_held(part, place, keys, later, context)
        if mode.offload == "model":
            self._make_room("device", need.largest_bytes, keys, later, context)
        if mode.offload == "sequential":
            self._make_room("device", need.never_offloaded_bytes, keys, later, context)
        on_cpu = not self._device.is_accelerator
        work_bytes = working_bytes(mode, need, on_cpu=on_cpu)
        self._make_room_to_work(work_bytes, keys, later, context)
        return _in_mode(step, mode)

    def restore(self, step: LoadingStep, parts: StepParts) -> None:
        """Restores file-backed weights after a step with offload.

        Model offload leaves each component as a private copy in RAM; sequential offload leaves
        `never_offloaded` components on the device.
        """
        if isinstance(step, TaskStep) or not self._device.is_accelerator:
            return
        for key in {part.key for part in parts.parts if _has_moved(step, part)}:
            entry = self._residency[key]
            had_origin, origin = entry.origin is not None, _checked_origin(entry)
            if had_origin or step.offload == "sequential":
                self._device.move(entry.component, "ram", origin)

    def evict_idle(
        self, place: Place, keep: Collection[str], later: Sequence[str], reason: str
    ) -> list[HeldComponent]:
        """Evicts everything from this place except `keep` and pinned entries; returns it."""
        others = [entry for entry in self._residency.entries if entry.key not in keep]
        chosen = choose_evictions(
            others, self._residency.bytes_in(place), place, time.time(), later
        )
        gone = [item for item in self._residency.described() if item.key in chosen]
        self._evict(chosen, place, reason)
        return gone

    def move_off_device(self, keys: Iterable[str], reason: str) -> None:
        """Moves these off the device, to RAM where there is room."""
        entries = [self._residency[key] for key in keys if key in self._residency]
        there = [entry.key for entry in entries if entry.bytes_in("device")]
        self._evict(there, "device", reason)

    def _need(self, step: LoadingStep, parts: StepParts) -> Need:
        """Returns the memory needs of the step; shared components count once."""
        if (known := self._needs.get(step.name)) is not None:
            return known
        components = tuple(
            replace(part, weight_bytes=self._weight_bytes(part))
            for part in {part.key: part for part in parts.parts}.values()
        )
        name = parts.pipeline_class.__name__ if isinstance(parts, Parts) else ""
        folder = parts.folder if isinstance(parts, Parts) else Path()
        need = step_need(step, StepSpecs(name, folder, components), self._sizes)
        self._needs[step.name] = need
        return need

    def _weight_bytes(self, part: Part) -> int:
        """Returns the measured bytes if the part is held, else the estimate."""
        held = part.key in self._residency
        return self._residency[part.key].weight_bytes if held else part.weight_bytes

    def _stays_in_ram(self, step: LoadingStep) -> bool:
        return isinstance(step, TaskStep) and step.on_cpu and self._device.is_accelerator

    def _mode(self, step: LoadingStep, need: Need) -> Mode:
        """Returns the document's own mode, else one that fits; see `choose_mode`."""
        if self._stays_in_ram(step):
            # `_make_room` raises if it does not fit.
            return Mode()
        room = Room(self.budgets.device_bytes, self.budgets.ram_bytes, self._total_bytes)
        return choose_mode(asked_mode(step), need, room)

    def _move_held(
        self,
        part: Part,
        place: Place,
        keep: Collection[str],
        later: Sequence[str],
        context: RunContext,
    ) -> None:
        entry = self._residency[part.key]
        if entry.place == place or not entry.weight_bytes:
            return
        origin = _checked_origin(entry)
        need_bytes = entry.weight_bytes if place == "device" else entry.private_bytes
        self._make_room(place, need_bytes, keep, later, context)
        self._device.move(entry.component, place, origin)
        self._residency.move([part.key], place, reason=f"step '{context.step}' needs it there")

    def _make_room(
        self,
        place: Place,
        need_bytes: int,
        keep: Collection[str],
        later: Sequence[str],
        context: RunContext,
    ) -> None:
        """Evicts idle entries until `need_bytes` more fit into the budget of this place."""
        memory = self._device.memory()
        budget_bytes = self.budgets.device_bytes if place == "device" else self.budgets.ram_bytes
        free_bytes = memory.device_free_bytes if place == "device" else memory.ram_free_bytes
        held_bytes = self._residency.bytes_in(place)
        if free_bytes < need_bytes:
            free_bytes += self._loras.clear()
        missing_bytes = need_bytes - min(budget_bytes - held_bytes, free_bytes)
        if missing_bytes <= 0:
            return
        others = (entry for entry in self._residency.entries if entry.key not in keep)
        chosen = choose_evictions(others, missing_bytes, place, time.time(), later)
        given_back = sum(self._residency[key].bytes_in(place) for key in chosen)
        if held_bytes - given_back + need_bytes > budget_bytes:
            pinned = [e.title for e in self._residency.entries if e.pinned and e.place == place]
            raise TooLarge(
                f"Step '{context.step}' needs {need_bytes / 1e9:.3g} GB more, which do not fit into"
                f" the {budget_bytes / 1e9:.3g} GB that may be held"
                + (f" beside what is pinned: {', '.join(pinned)}." if pinned else "."),
                hint="Unpin something, or raise the budget." if pinned else "Raise the budget.",
            )
        self._evict(chosen, place, _eviction_reason(context, need_bytes, budget_bytes, free_bytes))

    def _make_room_to_work(
        self, need_bytes: int, keep: Collection[str], later: Sequence[str], context: RunContext
    ) -> None:
        """Evicts idle entries from the device for activations; an estimate, so never raises."""
        free_bytes = self._device.free_and_total_bytes()[0]
        if need_bytes <= free_bytes:
            return
        others = (entry for entry in self._residency.entries if entry.key not in keep)
        missing_bytes = need_bytes - free_bytes
        chosen = choose_evictions(others, missing_bytes, "device", time.time(), later)
        self._evict(
            chosen,
            "device",
            f"'{context.plan.workflow_id}' needs about {need_bytes / 1e6:.0f} MB to compute with"
            f" and {free_bytes / 1e6:.0f} MB are free",
        )

    def _evict(self, chosen: Sequence[str], place: Place, reason: str) -> None:
        """Moves entries from the device to RAM where there is room; drops the others.

        Weights that are mapped from files need no room in RAM.
        """
        for key in chosen:
            entry = self._residency[key]
            room_bytes = self.budgets.ram_bytes - self._residency.bytes_in("ram")
            leaves_device = place == "device" and self._device.is_accelerator
            origin = _checked_origin(entry)
            if leaves_device and entry.private_bytes <= room_bytes:
                self._device.move(entry.component, "ram", origin)
                self._residency.move([key], "ram", reason)
            else:
                self._residency.drop([key], reason)
        if chosen:
            self._device.release()


def _checked_origin(entry: Entry) -> Origin | None:
    """Returns the entry's origin; clears it if its files are gone or were replaced."""
    if entry.origin is not None and not entry.origin.is_unchanged:
        log.warning(
            "The files of %s are gone or were replaced: its weights are copied", entry.title
        )
        entry.origin = None
    return entry.origin


def _in_mode(step: LoadingStep, mode: Mode) -> LoadingStep:
    return step.model_copy(update=asdict(mode)) if isinstance(step, PipelineStep) else step


def _has_moved(step: PipelineStep, part: Part) -> bool:
    """Returns whether the step's offload leaves this part in another place."""
    if step.offload == "sequential":
        return parameter_of(part.name) in step.never_offloaded
    return step.offload == "model"


def _log_mode(step: PipelineStep, mode: Mode) -> None:
    """Logs the step's mode where the document asks for another or leaves it open."""
    asked = asked_mode(step)
    if asked.offload and not mode.offload:
        log.warning("offload '%s' has no effect: there is no accelerator", asked.offload)
    elif mode != asked:
        chosen = [f"{name} {value}" for name, value in asdict(mode).items() if value]
        log.info("Step '%s' runs with %s, to fit into memory", step.name, ", ".join(chosen))


def _eviction_reason(
    context: RunContext, need_bytes: int, budget_bytes: int, free_bytes: int
) -> str:
    room = (
        f"{free_bytes / 1e6:.0f} MB are free"
        if free_bytes < need_bytes
        else f"{budget_bytes / 1e6:.0f} MB may be held"
    )
    return f"'{context.plan.workflow_id}' loads {need_bytes / 1e6:.0f} MB and {room}"
