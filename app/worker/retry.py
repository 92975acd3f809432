"""Out of memory is an event, not an end: a step is tried once more with more room and less need.

First the error is let go: its frames hold the tensors of the failed try, so nothing here keeps an
exception or a traceback. Then what is idle leaves, and the step is run again from its beginning in
the next leaner mode. When that runs out too the run fails, with numbers; what the step was
given is still held, and the next run finds the memory free.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Sequence
from typing import NamedTuple

from app.errors import OutOfMemory
from app.protocol import Phase, Place
from app.worker.context import RunContext
from app.worker.device import Device, amount_asked_for, is_out_of_memory
from app.worker.leaner import SWITCHES, difference, leaner
from app.worker.loading import Parts
from app.worker.placement import Placement
from app.worker.residency import Residency
from app.workflow.plan import PipelineStep

log = logging.getLogger(__name__)


class Shortage(NamedTuple):
    """That memory ran out, in plain text: no frame stays alive through it."""

    phase: Phase
    place: Place
    asked_for: str
    """The amount that was refused, as the allocator said it; empty where it did not."""
    detail: str


class Retry:
    """Runs steps of one runner, each twice if need be."""

    def __init__(self, placement: Placement, residency: Residency, device: Device) -> None:
        self._placement = placement
        self._residency = residency
        self._device = device

    def run(
        self,
        attempt: Callable[[PipelineStep], None],
        step: PipelineStep,
        parts: Parts,
        later: Sequence[str],
        context: RunContext,
    ) -> None:
        """Call `attempt` with the step, and when memory runs out once more with a leaner one.

        `later` are the keys that later steps of the run need, the next first. Raises OutOfMemory
        when the second try runs out as well, when nothing can be done for one, and when the first
        was already writing results, which must not be written twice.
        """
        shortage = self._shortage_of(attempt, step, context)
        if shortage is None:
            return
        # Here no exception is being handled any more.
        self._device.release()
        if shortage.phase == "saving":
            raise self._failure(shortage, parts, context)
        tried = step.model_copy(update={"offload": self._placement.offload(step, parts)})
        lean = self._leaner(tried, step, parts, shortage)
        done = self._evict_idle(shortage, parts, later, context)
        mode = difference(lean, tried) if lean is not None else ""
        if mode:
            done.append(f"Run again with {mode}.")
        elif done:
            done.append("Run again.")
        else:
            raise self._failure(shortage, parts, context)
        context.tell_memory_ran_out(done)
        context.checkpoint()
        context.enter("loading")
        shortage = self._shortage_of(attempt, lean or step, context)
        if shortage is not None:
            self._device.release()
            raise self._failure(shortage, parts, context, mode)

    def _shortage_of(
        self, attempt: Callable[[PipelineStep], None], step: PipelineStep, context: RunContext
    ) -> Shortage | None:
        try:
            attempt(step)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return Shortage(
                context.phase,
                self._device.place_that_ran_out(error),
                amount_asked_for(error),
                "".join(traceback.format_exception(error)),
            )
        return None

    def _leaner(
        self, tried: PipelineStep, step: PipelineStep, parts: Parts, shortage: Shortage
    ) -> PipelineStep | None:
        if shortage.place == "ram":
            # The machine's memory beside an accelerator holds weights, and offload wants more.
            return None
        held = [
            self._residency[part.key].component
            for part in parts.parts
            if part.name == "vae" and part.key in self._residency
        ]
        return leaner(
            tried,
            may_offload=self._device.is_accelerator
            and step.offload is None
            and parts.weight_bytes <= self._placement.budgets.ram_bytes,
            switches=[name for name in SWITCHES for vae in held if hasattr(vae, f"use_{name}")],
        )

    def _evict_idle(
        self, shortage: Shortage, parts: Parts, later: Sequence[str], context: RunContext
    ) -> list[str]:
        gone = self._placement.evict_idle(
            shortage.place,
            [part.key for part in parts.parts],
            later,
            f"memory ran out in step '{context.step}'",
        )
        if not gone:
            return []
        size_bytes = sum(item.weight_bytes for item in gone)
        names = ", ".join(item.title for item in gone)
        return [f"What was idle left ({size_bytes / 1e6:.0f} MB): {names}."]

    def _failure(
        self, shortage: Shortage, parts: Parts, context: RunContext, mode: str = ""
    ) -> OutOfMemory:
        memory = self._device.memory()
        free_bytes, total_bytes = memory.device_free_bytes, memory.device_total_bytes
        if shortage.place == "ram":
            free_bytes, total_bytes = memory.ram_free_bytes, memory.ram_total_bytes
        return OutOfMemory(
            f"Memory ran out in step '{context.step}' ({shortage.phase})"
            + (f", also with {mode}: " if mode else ": ")
            + (f"{shortage.asked_for} more were refused, " if shortage.asked_for else "")
            + f"{free_bytes / 1e6:.0f} of {total_bytes / 1e6:.0f} MB are free,"
            f" {self._residency.bytes_in(shortage.place) / 1e6:.0f} MB of models are held,"
            f" of which the step needs {parts.weight_bytes / 1e6:.0f} MB.",
            hint="Ask for a smaller picture or fewer at once, or free the GPU first.",
            detail=shortage.detail,
        )
