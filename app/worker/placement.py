"""Brings what a step needs to where it is computed with, under the budgets.

Weights are held in at most two places: on the device, and beside an accelerator in RAM. Each has a
budget in bytes. What a step needs is loaded, room is made for it, and it is brought to the device,
one component after the other; what has to go for it goes from the device to RAM, and from RAM for
good. Who goes is decided by `choose_evictions`.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from app.errors import TooLarge
from app.protocol import Budgets, Place
from app.settings import WorkerSettings
from app.worker.context import RunContext
from app.worker.device import Device
from app.worker.loading import Part, Parts
from app.worker.residency import Residency, choose_evictions
from app.worker.weights import Weights
from app.workflow.plan import PipelineStep

DEVICE_SHARE, RAM_SHARE = 0.9, 0.7
"""Of all memory, what weights may take by default; the rest is for activations and others."""
Offload = Literal["model", "sequential"]


def budgets_of(settings: WorkerSettings, device: Device) -> Budgets:
    """The budgets that are set, else shares of what the device and the machine have."""
    memory = device.memory()
    ram_bytes = settings.ram_budget or int(memory.ram_total_bytes * RAM_SHARE)
    return Budgets(
        device_bytes=settings.device_budget or int(memory.device_total_bytes * DEVICE_SHARE),
        ram_bytes=ram_bytes if device.is_accelerator else 0,
    )


def offload_for(
    step: PipelineStep, sizes_bytes: Collection[int], budgets: Budgets
) -> Offload | None:
    """How the step's components take turns on an accelerator; None: all of them stay there.

    A document that fixes its `offload` is obeyed. Where it leaves that open and not all fit, model
    offload is chosen, with the largest component alone on the device. Raises TooLarge where no mode
    that the document allows would do.
    """
    total_bytes, largest_bytes = sum(sizes_bytes), max(sizes_bytes, default=0)
    if step.offload == "sequential":
        return step.offload
    if step.offload is None and total_bytes <= budgets.device_bytes:
        return None
    if largest_bytes <= budgets.device_bytes and budgets.ram_bytes:
        return "model"
    needed = total_bytes if not budgets.ram_bytes else largest_bytes
    raise TooLarge(
        f"Step '{step.name}' needs {needed / 1e9:.3g} GB of weights at once;"
        f" {budgets.device_bytes / 1e9:.3g} GB may be held.",
        hint="Take a smaller model or dtype, or raise DW_DEVICE_BUDGET.",
    )


class Placement:
    """What is held where, for one runner."""

    def __init__(
        self, settings: WorkerSettings, device: Device, residency: Residency, weights: Weights
    ) -> None:
        self.budgets = budgets_of(settings, device)
        self._device = device
        self._residency = residency
        self._weights = weights

    def check(self, steps: Iterable[tuple[PipelineStep, Parts]]) -> None:
        """Raise TooLarge before anything is loaded or has to leave, where a step cannot fit."""
        for step, parts in steps:
            self._offload(step, parts)

    def bring(
        self, step: PipelineStep, parts: Parts, later: Sequence[str], context: RunContext
    ) -> tuple[PipelineStep, list[Part]]:
        """Have all parts of the step where it needs them.

        `later` are the keys that later steps of the run need, the next first. Returns the step with
        the offload it runs with, and the parts that had to be loaded; a cancel in between keeps
        those that have been.
        """
        offload = self._offload(step, parts)
        keys = [part.key for part in parts.parts]
        place: Place = "ram" if offload and self._device.is_accelerator else "device"
        loaded = []
        for part in {part.key: part for part in parts.parts}.values():
            if part.key not in self._residency:
                self._make_room(place, part.weight_bytes, keys, later, context)
                self._residency.hold(self._weights.load(part, context))
                loaded.append(part)
            self._settle(part, place, keys, later, context)
        if offload == "model" and self._device.is_accelerator:
            largest_bytes = max((part.weight_bytes for part in parts.parts), default=0)
            self._make_room("device", largest_bytes, keys, later, context)
        return step.model_copy(update={"offload": offload}), loaded

    def put_back(self, step: PipelineStep, parts: Parts) -> None:
        """After the step: have what took turns on the device lie in its files' pages again.

        Model offload brings each component back as a copy in RAM of its own.
        """
        if step.offload == "model" and self._device.is_accelerator:
            for key in {part.key for part in parts.parts}:
                entry = self._residency[key]
                if entry.origin is not None:
                    self._device.move(entry.component, "ram", entry.origin)

    def _offload(self, step: PipelineStep, parts: Parts) -> Offload | None:
        sizes = {part.key: part.weight_bytes for part in parts.parts}
        if not self._device.is_accelerator:
            offload_for(step.model_copy(update={"offload": None}), sizes.values(), self.budgets)
            return step.offload
        return offload_for(step, sizes.values(), self.budgets)

    def _settle(
        self,
        part: Part,
        place: Place,
        keep: Collection[str],
        later: Sequence[str],
        context: RunContext,
    ) -> None:
        """Move a held part to its place."""
        entry = self._residency[part.key]
        if entry.place == place or not part.weight_bytes:
            return
        need_bytes = part.weight_bytes if place == "device" else entry.private_bytes
        self._make_room(place, need_bytes, keep, later, context)
        self._device.move(entry.component, place, entry.origin)
        self._residency.move([part.key], place, reason=f"step '{context.step}' needs it there")

    def _make_room(
        self,
        place: Place,
        need_bytes: int,
        keep: Collection[str],
        later: Sequence[str],
        context: RunContext,
    ) -> None:
        """Have what is idle leave this place until `need_bytes` more fit into its budget."""
        memory = self._device.memory()
        budget_bytes = self.budgets.device_bytes if place == "device" else self.budgets.ram_bytes
        free_bytes = memory.device_free_bytes if place == "device" else memory.ram_free_bytes
        held_bytes = self._residency.bytes_in(place)
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
        self._send_away(chosen, place, _why(context, need_bytes, budget_bytes, free_bytes))

    def _send_away(self, chosen: Sequence[str], place: Place, reason: str) -> None:
        """From the device to RAM where there is room; else, and from RAM, for good.

        There is always room for what needs none: weights that are taken from their files' pages.
        """
        for key in chosen:
            entry = self._residency[key]
            room_bytes = self.budgets.ram_bytes - self._residency.bytes_in("ram")
            leaves_device = place == "device" and self._device.is_accelerator
            if leaves_device and entry.private_bytes <= room_bytes:
                self._device.move(entry.component, "ram", entry.origin)
                self._residency.move([key], "ram", reason)
            else:
                self._residency.drop([key], reason)
        if chosen:
            self._device.release()


def _why(context: RunContext, need_bytes: int, budget_bytes: int, free_bytes: int) -> str:
    room = (
        f"{free_bytes / 1e6:.0f} MB are free"
        if free_bytes < need_bytes
        else f"{budget_bytes / 1e6:.0f} MB may be held"
    )
    return f"'{context.plan.workflow_id}' loads {need_bytes / 1e6:.0f} MB and {room}"
