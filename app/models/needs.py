"""Memory needs of a plan's steps: the bytes of their components, and of computing with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from types import MappingProxyType
from typing import Any

from app.dialect.files import config_of
from app.dialect.plan import LoadingStep, PipelineStep, Plan, SubWorkflowStep, TaskStep, for_device
from app.dialect.plan_settings import DENOISERS, DType
from app.dialect.plan_sources import parameter_of
from app.errors import LoadError
from app.models import fit
from app.models.activations import Size, decode_bytes, denoise_bytes
from app.models.asked_size import asked_size
from app.models.config_check import wrong_in
from app.models.fit import Mode, Need, Room, Weights
from app.models.resolve import component_specs
from app.models.specs import ComponentSpec, Find, StepSpecs, Unknown, known_folder

DECODERS = ("vae", "vqvae", "movq", "audio_vae")


def lines(plan: Plan, room: Room | None, find: Find = known_folder) -> list[str]:
    """Returns a sentence for each step that loads a model: its needs, and whether it fits."""
    found = [_sentence(plan, step, need, room) for step, need in _needs(plan, room, find)]
    return found or [_no_model(plan)]


def line(plan: Plan, room: Room | None, find: Find = known_folder) -> str:
    """Returns the sentence of the step with the greatest need; of the first unknown one, if any."""

    def order(each: tuple[LoadingStep, Need | Unknown]) -> float:
        step, found = each
        return inf if isinstance(found, Unknown) else fit.peak_bytes(asked_mode(step), found, room)

    needs = _needs(plan, room, find)
    if not needs:
        return _no_model(plan)
    step, found = max(needs, key=order)
    return _sentence(plan, step, found, room)


def _no_model(plan: Plan) -> str:
    return f"{plan.workflow_id}: no model is loaded."


def _needs(plan: Plan, room: Room | None, find: Find) -> list[tuple[LoadingStep, Need | Unknown]]:
    sizes: dict[str, Size] = {}
    earlier: dict[str, StepSpecs] = {}
    found: list[tuple[LoadingStep, Need | Unknown]] = []
    accelerator = room is not None and room.is_accelerator
    for planned in plan.steps:
        step = for_device(planned, accelerator=accelerator)
        if isinstance(step, SubWorkflowStep) or not step.sources:
            continue
        try:
            specs = weighed_specs(step, find, earlier, accelerator=accelerator)
            earlier[step.name] = specs
            found.append((step, step_need(step, specs, sizes)))
        except Unknown as unknown:
            found.append((step, unknown))
    return found


def _sentence(plan: Plan, step: LoadingStep, found: Need | Unknown, room: Room | None) -> str:
    title = plan.workflow_id
    if len(plan.steps) > 1:
        title += f", step '{step.name}'"
    if isinstance(found, Unknown):
        return f"{title}: {found.message}"
    if isinstance(step, TaskStep) and step.on_cpu and room is not None and room.is_accelerator:
        # Of RAM only the budget for weights is known here.
        room = Room(room.ram_bytes, 0, room.ram_bytes)
    return fit.sentence(title, asked_mode(step), found, room)


def asked_mode(step: LoadingStep) -> Mode:
    """Returns the document's own settings."""
    if not isinstance(step, PipelineStep):
        return Mode()
    return Mode(step.offload, step.vae_slicing, step.vae_tiling)


def weighed_specs(
    step: LoadingStep,
    find: Find = known_folder,
    earlier: Mapping[str, StepSpecs] = MappingProxyType({}),
    *,
    accelerator: bool = False,
) -> StepSpecs:
    """Returns the step's component specs. Raises Unknown for none, or none with weights."""
    before = {name: each.components for name, each in earlier.items()}
    try:
        found = component_specs(step, find, before, accelerator=accelerator)
    except LoadError as error:
        # The run reports what cannot be loaded.
        raise Unknown(f"memory needs unknown. {error.message} {error.hint}".strip()) from error
    if not any(each.weight_bytes for each in found.components):
        model = step.model if isinstance(step, PipelineStep) else step.sources[0].model
        raise Unknown(f"memory needs unknown: '{model}' has no weights.")
    return found


def step_need(step: LoadingStep, specs: StepSpecs, sizes: dict[str, Size]) -> Need:
    """Returns the step's needs with these components.

    `sizes` has the output sizes of the steps before it, and this step's afterwards.
    """
    class_name, components = specs.class_name, specs.components
    if isinstance(step, TaskStep):
        return Need(step=step.name, weights=_weights(components), takes_turns=False)
    by_name = {each.name: each for each in components}
    decoder = next((by_name[name] for name in DECODERS if name in by_name), None)
    denoisers = [by_name[name] for name in DENOISERS if name in by_name]
    autoencoder = _config(decoder.folder) if decoder else {}
    configs = [_config(each.folder) for each in denoisers]
    size = asked_size(step, class_name, configs, autoencoder, sizes)
    sizes[step.name] = size
    denoising = [
        denoise_bytes(config, autoencoder, size, each.dtype)
        for config, each in zip(configs, denoisers, strict=True)
    ]
    known = [each for each in denoising if each is not None]
    return Need(
        step=step.name,
        weights=_weights(components),
        denoise_bytes=max(known) if known and len(known) == len(denoising) else None,
        decode=decode_bytes(autoencoder, size, _decoded_in(decoder.dtype, class_name, autoencoder))
        if decoder
        else None,
        denoiser_bytes=max((each.weight_bytes for each in denoisers), default=0),
        decoder_bytes=decoder.weight_bytes if decoder else 0,
        drawn_bytes=3 * 4 * size.width_px * size.height_px * size.frames * size.batch,
        streams=step.streams,
        never_offloaded_bytes=sum(
            each.weight_bytes
            for each in components
            if parameter_of(each.name) in step.never_offloaded
        ),
    )


def _config(folder: Path) -> dict[str, Any]:
    """Returns the component's configuration; empty for impossible values, which the load
    reports."""
    return {} if wrong_in(folder) else config_of(folder)


def _weights(components: Sequence[ComponentSpec]) -> tuple[Weights, ...]:
    found: dict[str, Weights] = {}
    for each in {e.key: e for e in components if e.weight_bytes}.values():
        # Several of one parameter are moved together.
        name = parameter_of(each.name)
        before = found[name].weight_bytes if name in found else 0
        found[name] = Weights(name, each.dtype, before + each.weight_bytes)
    return tuple(found.values())


def _decoded_in(dtype: DType, class_name: str, autoencoder: Mapping[str, Any]) -> DType:
    """Returns float32 for SDXL's pipelines where float16 would overflow while decoding."""
    upcast = class_name.startswith("StableDiffusionXL") and autoencoder.get("force_upcast", True)
    return "float32" if upcast and dtype == "float16" else dtype
