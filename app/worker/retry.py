"""Retries a step that ran out of memory once, with idle components evicted and a leaner mode.

No exception or traceback is kept: its frames hold the tensors of the failed try. Idle components
are evicted and the step runs again from its beginning in the next leaner mode. When memory runs out
again the run fails, with numbers; the step's components are still held, and the memory of its calls
is free for the next run.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from app.dialect.plan import LoadingStep, PipelineStep, TaskStep
from app.errors import OutOfMemory
from app.protocol import Phase, Place
from app.worker.context import RunContext
from app.worker.device import Device, is_out_of_memory, refused_amount
from app.worker.guards import optional_work
from app.worker.loading.parts import StepParts
from app.worker.placement import Placement
from app.worker.residency import Residency
from app.worker.tuning.loras import HeldLoras


class Shortage(NamedTuple):
    """One out-of-memory error, as plain text, so that it keeps no frame alive."""

    phase: Phase
    place: Place
    asked_for: str
    """The amount the allocator refused, in its own words; empty if unknown."""
    detail: str

    @property
    def in_call(self) -> bool:
        """True if the step's call ran out of memory, not the load of its parts."""
        return self.phase != "loading"


class Retry:
    def __init__(
        self, placement: Placement, residency: Residency, device: Device, loras: HeldLoras
    ) -> None:
        self._placement = placement
        self._residency = residency
        self._device = device
        self._loras = loras

    def run(
        self,
        attempt: Callable[[LoadingStep], None],
        step: LoadingStep,
        parts: StepParts,
        later: Sequence[str],
        context: RunContext,
    ) -> None:
        """Calls `attempt` with the step; after running out of memory, again with a leaner one.

        Retries once while parts are loaded and once in the call. `later` are the keys that later
        steps of the run need, the next first. Raises OutOfMemory when memory runs out again, when
        no remedy is left, and while results are saved, which would write them twice.
        """
        lean = asked = self._placement.in_mode(step, parts)
        ran_out: list[Shortage] = []
        while (shortage := self._shortage_of(attempt, lean, context)) is not None:
            # No exception is being handled any more, so no frame holds tensors.
            with optional_work("Memory could not be given back"):
                self._device.release()
            tried = self._tried(lean, asked, ran_out)
            if shortage.phase == "saving" or any(o.in_call == shortage.in_call for o in ran_out):
                raise self._failure(shortage, parts, context, tried)
            done = self._evict_idle(shortage, parts, later, context)
            leanest = self._leaner(lean, step, parts, shortage)
            if leanest is not None:
                done.append(f"Run again with {difference(leanest, lean)}.")
            elif done:
                done.append("Run again.")
            else:
                raise self._failure(shortage, parts, context, tried)
            ran_out.append(shortage)
            lean = leanest or lean
            context.report_memory_ran_out(done)
            context.cancel_point()
            context.enter("loading")

    def _shortage_of(
        self, attempt: Callable[[LoadingStep], None], step: LoadingStep, context: RunContext
    ) -> Shortage | None:
        try:
            attempt(step)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return Shortage(
                context.phase,
                self._device.exhausted_place(error),
                refused_amount(error),
                "".join(traceback.format_exception(error)),
            )
        return None

    def _leaner(
        self, lean: LoadingStep, step: LoadingStep, parts: StepParts, shortage: Shortage
    ) -> LoadingStep | None:
        if isinstance(step, TaskStep) or isinstance(lean, TaskStep):
            # Tasks have one mode only.
            return None
        if shortage.place == "ram":
            # RAM beside an accelerator holds weights, and offload would need more of it.
            return None
        # During the call all parts are held.
        vaes = [
            self._residency[part.key].component
            for part in parts.parts
            if part.name == "vae" and shortage.in_call
        ]
        return leaner(
            lean,
            may_offload=self._device.is_accelerator
            and step.offload is None
            and parts.weight_bytes <= self._placement.budgets.ram_bytes,
            switches=[name for name in SWITCHES for vae in vaes if hasattr(vae, f"use_{name}")],
        )

    @staticmethod
    def _tried(lean: LoadingStep, asked: LoadingStep, ran_out: Sequence[Shortage]) -> str:
        """Returns what was tried before, as text that follows the step's name."""
        if lean != asked:
            return f", also with {difference(lean, asked)}"
        return ", also after idle components were evicted" if ran_out else ""

    def _evict_idle(
        self, shortage: Shortage, parts: StepParts, later: Sequence[str], context: RunContext
    ) -> list[str]:
        gone = self._placement.evict_idle(
            shortage.place,
            [part.key for part in parts.parts],
            later,
            f"memory ran out in step '{context.step}'",
        )
        done = []
        if gone:
            size_bytes = sum(item.weight_bytes for item in gone)
            names = ", ".join(item.title for item in gone)
            done.append(f"Idle components were evicted ({size_bytes / 1e6:.0f} MB): {names}.")
        if lora_bytes := self._loras.clear():
            done.append(f"LoRAs that were kept were dropped ({lora_bytes / 1e6:.0f} MB).")
        return done

    def _failure(
        self, shortage: Shortage, parts: StepParts, context: RunContext, tried: str
    ) -> OutOfMemory:
        free = ""
        with optional_work("Memory could not be measured"):
            memory = self._device.memory()
            free_bytes, total_bytes = memory.device_free_bytes, memory.device_total_bytes
            if shortage.place == "ram":
                free_bytes, total_bytes = memory.ram_free_bytes, memory.ram_total_bytes
            free = f"{free_bytes / 1e6:.0f} of {total_bytes / 1e6:.0f} MB are free, "
        held_bytes = self._residency.bytes_in(shortage.place)
        return OutOfMemory(
            f"Memory ran out in step '{context.step}' ({shortage.phase}){tried}: "
            + (f"{shortage.asked_for} more were refused, " if shortage.asked_for else "")
            + free
            + f"{held_bytes / 1e6:.0f} MB of models are held,"
            f" the step's own weigh {parts.weight_bytes / 1e6:.0f} MB.",
            hint="Ask for a smaller picture or fewer at once, or free the GPU first."
            if shortage.in_call
            else "Take a smaller model or dtype, unpin what is pinned, or end what else runs.",
            detail=shortage.detail,
        )


# --- the next leaner mode -------------------------------------------------------------------------

SWITCHES = ("tiling", "slicing")
"""An autoencoder with an attribute `use_<name>` supports this mode."""


def leaner(
    step: PipelineStep, *, may_offload: bool, switches: Collection[str]
) -> PipelineStep | None:
    """Returns the step in its next leaner mode: less memory, more time; None when there is none.

    On an accelerator: model offload, where the document leaves it open. Everywhere: VAE slicing
    (one image at a time) and tiling (one part of an image at a time). Slicing changes only
    rounding. Tiling blends overlapping tiles, so the image differs slightly; an image no larger
    than one tile is identical. Attention slicing would need more memory than torch's
    `scaled_dot_product_attention`, which never writes out scores for every pair of tokens.

    `switches` are the SWITCHES that its autoencoder supports. `may_offload`: an accelerator ran out
    of memory and the document leaves the offload open.
    """
    changes: dict[str, object] = {}
    if may_offload and step.offload is None:
        changes["offload"] = "model"
    for name in SWITCHES:
        if name in switches and not getattr(step, f"vae_{name}"):
            changes[f"vae_{name}"] = True
    return step.model_copy(update=changes) if changes else None


def difference(lean: LoadingStep, step: LoadingStep) -> str:
    """Returns what the lean mode adds to the step: `model offload and VAE tiling`."""
    if isinstance(lean, TaskStep) or isinstance(step, TaskStep):
        return ""
    names = [] if lean.offload == step.offload else [f"{lean.offload} offload"]
    names += [
        f"VAE {name}"
        for name in SWITCHES
        if getattr(lean, f"vae_{name}") and not getattr(step, f"vae_{name}")
    ]
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
