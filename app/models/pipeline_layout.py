"""Which components an ordinary pipeline consists of, and whether its step has them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from app.dialect.installed.constructors import constructor
from app.dialect.plan import PipelineStep
from app.dialect.plan_sources import parameter_of
from app.errors import LoadError, shortened
from app.models.model_index import INDEX, is_component
from app.models.pipeline_shapes import Shape, qualified_class, read_pipeline_index, shape_of

NOT_IN_CHECKPOINTS = {"safety_checker", "image_encoder"}
"""Components that diffusers leaves out where a whole pipeline is one file."""
INDISPENSABLE = {"adapter", "controlnet", "prior", "scheduler", "transformer", "unet"}
"""Components without which no call of a pipeline that needs them works; without a text encoder one
may, from embeddings."""
BESIDE_MODELS = {"adapter", "controlnet"}
"""Components that are published alone, not in a pipeline's model."""


class Layout(NamedTuple):
    """The components of an ordinary pipeline and their sources, before they are resolved."""

    shape: Shape
    checkpoint: Path | None
    """The file that has the whole pipeline."""
    folder: Path | None
    """Folder of its model's index."""
    listed: Mapping[str, Any]
    """The content of this index."""
    own: dict[str, str]
    """The model's own components, with their classes."""
    settings: dict[str, Any]
    """Plain values, and None for absent components."""
    missing: tuple[str, ...] = ()
    """Components that are needed and neither given nor in the model."""
    unfit: tuple[LoadError, ...] = ()
    """Reasons why the pipeline cannot be assembled."""


class Misfit(NamedTuple):
    """How a step's blocks and model do not fit its pipeline's class."""

    class_name: str
    error: LoadError | None
    """The refusal of missing components, if any."""
    idle: tuple[str, ...]
    """Components that the pipeline does not take, and that diffusers ignores."""


def layout_of(
    step: PipelineStep, shape: Shape | None, checkpoint: Path | None, folder: Path | None
) -> Layout:
    """Returns the components and sources of an ordinary pipeline; reads only its model's
    index."""
    if checkpoint is not None and folder is None:
        named = step.pipeline_class.rpartition(".")[2]
        return Layout(Shape(named, {}), checkpoint, None, {}, {}, {})
    index = {} if folder is None else read_pipeline_index(folder, step)
    shape = shape or shape_of(step, index)
    given = {*step.reused, *map(parameter_of, step.components)}
    own: dict[str, str] = {}
    settings: dict[str, Any] = {}
    unfit: list[LoadError] = []
    missing: list[str] = []
    for name, may_be_left_out in shape.parameters.items():
        if name in given:
            continue
        is_null = name in step.absent or index.get(name) == [None, None]
        if is_null or (checkpoint and name in NOT_IN_CHECKPOINTS):
            settings[name] = None
            if name in INDISPENSABLE and not may_be_left_out and name not in shape.optional:
                missing.append(name)
        elif is_component(entry := index.get(name)):
            own[name] = qualified_class(entry, name, step)
        elif name in index:
            settings[name] = index[name]
            if not may_be_left_out:
                unfit.append(_unnamed(name, step, shape, index))
        elif may_be_left_out:
            continue
        elif name in shape.optional:
            settings[name] = None
        else:
            missing.append(name)
    if missing:
        unfit.append(_lacking(missing, step, shape, index))
    if "safety_checker" in settings and "requires_safety_checker" in shape.parameters:
        settings["requires_safety_checker"] = False
    if "add_watermarker" in shape.parameters:
        # Otherwise SDXL's images change as soon as a certain package is installed.
        settings["add_watermarker"] = False
    return Layout(shape, checkpoint, folder, index, own, settings, tuple(missing), tuple(unfit))


def misfit_of(step: PipelineStep, layout: Layout) -> Misfit:
    """Returns how the step does not fit its pipeline's class, as far as it is sure."""
    shape, index = layout.shape, layout.listed
    given = dict.fromkeys(map(parameter_of, step.components))
    idle = tuple(name for name in given if shape.parameters and name not in shape.parameters)
    missing = _surely_missing(layout.missing, step, index)
    error = _lacking(missing, step, shape, index) if missing else None
    return Misfit(shape.class_name, error, idle)


def _unnamed(name: str, step: PipelineStep, shape: Shape, index: Mapping[str, Any]) -> LoadError:
    """Returns the refusal of a model with another value in place of a component."""
    return LoadError(
        f"'{step.model}' names no class for its {name}, which {shape.class_name} needs.",
        hint=f"Its {INDEX} says {shortened(repr(index[name]))}.",
    )


def _lacking(
    names: Sequence[str], step: PipelineStep, shape: Shape, index: Mapping[str, Any]
) -> LoadError:
    """Returns the refusal of a pipeline with missing components."""
    where = f"{step.place}.pipeline"
    if step.source is None:
        what = f"a {names[0]}" if len(names) == 1 else ", ".join(names)
        it, block = ("it", f"'{names[0]}'") if len(names) == 1 else ("they", "for each")
        return LoadError(
            f"{shape.class_name} needs {what}, and {where} names no model that {it} could be"
            " taken from.",
            hint=f"Give {where} a block {block}, or reuse an earlier step's.",
        )
    if set(names) <= set(step.absent):
        return LoadError(
            f"The {names[0]} is set to null, and {shape.class_name} needs one.",
            hint=f"Leave it out of {where}.from_pretrained_arguments, or give a block of it.",
        )
    others = set(names) <= BESIDE_MODELS
    return LoadError(
        f"'{step.model}' has no {', '.join(names)}, which {shape.class_name} needs.",
        hint=f"It is a model for {index.get('_class_name')}"
        + (f": give {where} a block '{names[0]}'." if others else "."),
    )


def _surely_missing(
    names: Sequence[str], step: PipelineStep, index: Mapping[str, Any]
) -> list[str]:
    """Returns those of the missing components that no complete model of this class would have;
    those that it would have, its load reports."""
    if step.source is None:
        return [*names]
    published_for = constructor(str(index.get("_class_name")))
    if published_for is None or not any(map(is_component, index.values())):
        return []
    return [
        name
        for name in names
        if name not in published_for.parameters
        or (name in INDISPENSABLE and (name in step.absent or name in index))
    ]
