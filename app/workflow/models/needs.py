"""What the steps of a plan need, read from their models' folders: headers and configurations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from app.errors import WorkbenchError
from app.workflow.dtypes import for_device, task_dtype
from app.workflow.files import config_of
from app.workflow.installed.names import MODULAR
from app.workflow.models import fit
from app.workflow.models.activations import Size, decode_bytes, denoise_bytes
from app.workflow.models.asked_size import asked_size
from app.workflow.models.config_check import wrong_value
from app.workflow.models.fit import Mode, Need, Room, Weights
from app.workflow.models.hub import find_snapshot
from app.workflow.models.model_index import NO_INDEX, IndexedPart, read_index
from app.workflow.models.quantised import component_bytes, single_file_bytes
from app.workflow.plan import LoadingStep, PipelineStep, Plan, SubWorkflowStep, TaskStep
from app.workflow.plan_settings import DENOISERS, DType
from app.workflow.plan_sources import ComponentBlock, ModelSource
from app.workflow.quantisation import Quantisation

DECODERS = ("vae", "vqvae", "movq", "audio_vae")


class Component(NamedTuple):
    """One component of a step, as it lies on this machine."""

    name: str
    folder: Path
    dtype: DType
    weight_bytes: int


class StepModel(NamedTuple):
    """What a step is put together from."""

    class_name: str
    """The pipeline's, unqualified."""
    components: tuple[Component, ...]


class Unknown(WorkbenchError):
    """What a step needs cannot be said; the message says why."""


Find = Callable[[ModelSource, str | None], Path]
"""Says where the files of a model lie, as `local_folder` does."""


def local_folder(source: ModelSource, part: str | None) -> Path:
    """Where the model lies on this machine; `part` is the component's folder in it that is wanted,
    None: the whole pipeline. Raises Unknown where it does not lie here."""
    found = (
        Path(source.folder)
        if source.folder is not None
        else find_snapshot(source.model, source.revision, part)
    )
    if found is None:
        raise Unknown(f"memory needs unknown until '{source.model}' has been downloaded.")
    return found


def lines(plan: Plan, room: Room | None, find: Find = local_folder) -> list[str]:
    """For each step that loads a model one sentence: what it needs, and whether that fits."""
    found = [_sentence(plan, step, need, room) for step, need in _needs(plan, room, find)]
    return found or [_no_model(plan)]


def line(plan: Plan, room: Room | None, find: Find = local_folder) -> str:
    """The sentence of the step that needs most; of the first whose need is unknown, if one is."""

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
    models: dict[str, StepModel] = {}
    found: list[tuple[LoadingStep, Need | Unknown]] = []
    accelerator = room is not None and room.is_accelerator
    for planned in plan.steps:
        step = for_device(planned, accelerator=accelerator)
        if isinstance(step, SubWorkflowStep) or not step.sources:
            continue
        try:
            if isinstance(step, TaskStep):
                models[step.name] = task_model(step, room, find)
            else:
                models[step.name] = step_model(step, find, models)
            found.append((step, step_need(step, models[step.name], sizes)))
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
        # Of the machine's memory only what may be held of it is known here.
        room = Room(room.ram_bytes, 0, room.ram_bytes)
    return fit.sentence(title, asked_mode(step), found, room)


def asked_mode(step: LoadingStep) -> Mode:
    """What the document itself asks for."""
    if not isinstance(step, PipelineStep):
        return Mode()
    return Mode(step.offload, step.vae_slicing, step.vae_tiling)


def step_need(step: LoadingStep, model: StepModel, sizes: dict[str, Size]) -> Need:
    """What the step needs with this model.

    `sizes` has what the steps before it draw, and what this one draws afterwards.
    """
    class_name, components = model
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
            by_name[name].weight_bytes for name in step.never_offloaded if name in by_name
        ),
    )


def _config(folder: Path) -> dict[str, Any]:
    """The component's configuration; empty where its values cannot be right: the load tells it."""
    config = config_of(folder)
    return {} if wrong_value(config) else config


def _weights(components: Sequence[Component]) -> tuple[Weights, ...]:
    return tuple(
        Weights(each.name, each.dtype, each.weight_bytes)
        for each in {(e.folder, e.dtype): e for e in components if e.weight_bytes}.values()
    )


def task_model(step: TaskStep, room: Room | None, find: Find = local_folder) -> StepModel:
    """What the models of a task are put together from; see `step_model`."""
    dtype = task_dtype(step, accelerator=room is not None and room.is_accelerator)
    components = []
    for name, block in step.components.items():
        if block.is_foreign:
            components.append(_foreign(name, block))
        elif block.has_weights:
            folder = find(block.source, block.source.subfolder) / block.source.subfolder
            try:
                size_bytes = component_bytes(folder, block.source.variant, dtype, None)
            except (OSError, ValueError) as error:
                raise _unreadable(block.source, error) from error
            components.append(Component(name, folder, dtype, size_bytes))
    if not any(each.weight_bytes for each in components):
        raise Unknown(
            "memory needs unknown:"
            f" '{next(iter(step.sources)).short_name}' has no safetensors weights."
        )
    return StepModel("", tuple(components))


def _foreign(name: str, block: ComponentBlock) -> Component:
    """What its own library loads takes about what its files do."""
    source = block.source
    if source.folder is None:
        raise Unknown(f"memory needs unknown until '{source.model}' has been downloaded.")
    folder = Path(source.folder)
    try:
        sizes = [(folder / f).stat().st_size for f in block.files.values() or (source.file,)]
    except OSError as error:
        raise _unreadable(source, error) from error
    return Component(name, folder, "float32", sum(sizes))


def step_model(
    step: PipelineStep,
    find: Find = local_folder,
    earlier: Mapping[str, StepModel] = MappingProxyType({}),
) -> StepModel:
    """What the step is put together from, its weights' bytes in the dtype they are loaded in; what
    it reuses is taken from the models of `earlier` steps.

    Raises what `find` raises, and Unknown where the files cannot be read.
    """
    named = step.pipeline_class.rpartition(".")[2]
    if step.source is not None and step.source.file:
        whole = _in_a_file("checkpoint", step.source, step.dtype, None, Path())
        return StepModel(named, (whole,))
    if step.modular is not None and (step.modular.workflow or step.modular.names is not None):
        raise Unknown(
            "memory needs unknown until it runs: which components a modular pipeline loads"
            " for its workflow only its blocks say."
        )
    # What the hub is asked for is an ordinary pipeline's index.
    look = find if step.modular is None else local_folder
    folder = Path() if step.source is None else look(step.source, None)
    try:
        index = NO_INDEX
        if step.source is not None:
            index = read_index(folder, modular=step.modular is not None)
        own = {
            name: _own_part(name, part, step, folder, find)
            for name, part in index.parts.items()
            if name not in step.absent and name not in step.components and name not in step.reused
        }
        blocks = {
            name: (
                find(block.source, block.source.subfolder) / block.source.subfolder,
                block.dtype,
                block.source.variant,
                block.quantisation,
            )
            for name, block in step.components.items()
            if name not in step.reused and not block.source.file
        }
        reused = tuple(
            component
            for name, sharing in step.reused.items()
            if sharing in earlier
            for component in earlier[sharing].components
            if component.name == name
        )
        components = tuple(
            Component(
                name,
                place,
                dtype,
                component_bytes(place, variant, dtype, quantised, step.changes_of(name)),
            )
            for name, (place, dtype, variant, quantised) in {**own, **blocks}.items()
        )
        # What it computes with is told by the configuration of the model it stands in for.
        components += tuple(
            _in_a_file(name, block.source, block.dtype, block.quantisation, folder / name)
            for name, block in step.components.items()
            if name not in step.reused and block.source.file
        )
        components += reused
    except (OSError, ValueError) as error:
        raise _unreadable(next(iter(step.sources)), error) from error
    if not any(each.weight_bytes for each in components):
        raise Unknown(f"memory needs unknown: '{step.model}' has no weights.")
    real = index.class_name if named in ("DiffusionPipeline", MODULAR) else named
    return StepModel(real, components)


def _own_part(
    name: str, part: IndexedPart, step: PipelineStep, folder: Path, find: Find
) -> tuple[Path, DType, str | None, Quantisation | None]:
    """Where a component of the step's own model lies, its dtype, the variant of its files, and
    what quantises it."""
    if step.modular is None:
        return folder / name, step.dtype_of(name), step.named_source.variant, None
    elsewhere = step.modular.sources.get(name)
    place = folder if elsewhere is None else find(elsewhere, part.subfolder)
    return (
        place / part.subfolder,
        step.dtype_of(name),
        step.named_source.variant or part.variant,
        step.modular.quantised.get(name),
    )


def _unreadable(source: ModelSource, error: Exception) -> Unknown:
    return Unknown(
        f"memory needs unknown: the files of '{source.short_name}' cannot be read ({error})."
    )


def _in_a_file(
    name: str,
    source: ModelSource,
    dtype: DType,
    quantisation: Quantisation | None,
    described_by: Path,
) -> Component:
    """The component whose weights are in a single file, which has no configuration of its own.

    Raises Unknown where it is not on this machine, OSError and ValueError where it cannot be read.
    """
    folder = (
        Path(source.folder)
        if source.folder is not None
        else find_snapshot(source.model, source.revision, source.file)
    )
    if folder is None:
        raise Unknown(f"memory needs unknown until '{source.short_name}' has been downloaded.")
    size_bytes = single_file_bytes(folder / source.file, name, dtype, quantisation)
    return Component(name, described_by, dtype, size_bytes)


def _decoded_in(dtype: DType, class_name: str, autoencoder: Mapping[str, Any]) -> DType:
    """SDXL's pipelines decode in float32 where float16 would overflow."""
    upcast = class_name.startswith("StableDiffusionXL") and autoencoder.get("force_upcast", True)
    return "float32" if upcast and dtype == "float16" else dtype
