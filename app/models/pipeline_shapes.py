"""Components of pipelines, from their class names and their models' indexes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from app.dialect.files import read_object
from app.dialect.installed.blocks import blocks_of, modular_class_of
from app.dialect.installed.constructors import AUTOMATIC, automatic_class, constructor
from app.dialect.installed.names import CLASS_RENAMES, MODULAR
from app.dialect.installed.signatures import package_root
from app.dialect.plan import PipelineStep
from app.dialect.plan_sources import parameter_of
from app.errors import LoadError, first_line, nearest
from app.models.model_index import (
    INDEX,
    INDEXES,
    OWN_BLOCKS,
    ModelIndex,
    is_component,
    read_index,
)
from app.models.specs import ComponentSpec, Unknown

OWN_CODE_FLAG = "--trust-remote-code"
OWN_MODULE = "pipeline"
"""Module of a repository's own pipeline where the model's index names none."""


class Shape(NamedTuple):
    """The components and settings of a pipeline class."""

    class_name: str
    """Unqualified."""
    parameters: Mapping[str, bool]
    """Parameters of the constructor: True for one with a default."""
    optional: Collection[str] = ()
    """Components that may be None."""


def read_pipeline_index(folder: Path, step: PipelineStep) -> dict[str, Any]:
    """Returns the index of an ordinary pipeline's model. Raises LoadError."""
    try:
        return read_object(folder / INDEX)
    except (OSError, ValueError) as error:
        raise LoadError(
            f"'{step.model}' is not a diffusers model.",
            hint=f"Its {INDEX} cannot be read: {first_line(error)}",
        ) from error


def pipeline_class_name(step: PipelineStep, index: Mapping[str, Any]) -> str:
    """Returns the name of the step's diffusers class, with a model of this index.

    Raises LoadError where the model's own code defines it, and may not run.
    """
    name = step.pipeline_class.rpartition(".")[2]
    own = index.get("_class_name")
    if name == "DiffusionPipeline":
        if isinstance(own, list):
            raise own_code_refused(step.model)
        return str(own or "")
    if name in AUTOMATIC:
        return automatic_class(name, str(own or ""))
    return name


def shape_of(step: PipelineStep, index: Mapping[str, Any]) -> Shape:
    """Returns the shape from the source of the pipeline's class; for the repository's own code from
    its index."""
    if step.code is not None:
        named = [name for name, entry in index.items() if is_component(entry)]
        given = map(parameter_of, step.components)
        parts = dict.fromkeys([*named, *given, *step.reused], True)
        return Shape(str(index.get("_class_name", "")), parts)
    name = pipeline_class_name(step, index)
    found = constructor(name)
    if found is None:
        raise LoadError(f"'{step.model}' names '{name}', which is not a diffusers pipeline.")
    return Shape(name, found.parameters, found.optional)


def model_index(folder: Path, step: PipelineStep) -> ModelIndex:
    """Returns the index of a modular pipeline's model. Raises LoadError."""
    brings_blocks = (folder / OWN_BLOCKS).is_file()
    if brings_blocks and step.code is None:
        raise own_code_refused(step.model)
    if brings_blocks and not any((folder / each).is_file() for each in INDEXES):
        # Blocks without components need no index.
        return ModelIndex(MODULAR, "", True, {}, frozenset(), {})
    try:
        return read_index(folder, modular=True)
    except (OSError, ValueError) as error:
        raise LoadError(
            f"'{step.model}' is not a diffusers model.",
            hint=f"Its index cannot be read: {first_line(error)}",
        ) from error


def modular_shape(step: PipelineStep, index: ModelIndex) -> Shape:
    """Returns the shape of a modular pipeline from its blocks' docstrings; raises Unknown where
    only the blocks themselves tell it."""
    assert step.modular is not None
    name = step.pipeline_class.rpartition(".")[2]
    if name == MODULAR:
        name = index.class_name if index.is_modular else modular_class_of(index.class_name)
    taken: Collection[str] = index.parts
    if step.modular.names is None:
        if step.modular.workflow is not None or step.code is not None:
            raise Unknown(
                "memory needs unknown until it runs: which components a modular pipeline loads"
                " for its workflow only its blocks say."
            )
        blocks = blocks_of(name, index.blocks_class)
        taken = index.parts if blocks is None else blocks.components
    return Shape(name, dict.fromkeys([*taken, *step.components, *step.reused], True))


def qualified_class(entry: list[Any], name: str, step: PipelineStep) -> str:
    """Returns the qualified class of an index's entry: one of diffusers or transformers, as nothing
    else is ever imported for a model. Raises LoadError."""
    library, class_name = (str(part) for part in entry) if len(entry) == 2 else ("", str(entry))
    bare = CLASS_RENAMES.get(class_name, class_name)
    if bare.isidentifier():
        if library in ("diffusers", "transformers"):
            return f"{library}.{bare}"
        # Models kept beside a pipeline are named by the pipeline's folder.
        if library.isidentifier() and (package_root("diffusers") / "pipelines" / library).is_dir():
            return f"diffusers.pipelines.{library}.{bare}"
    raise not_loaded(name, step.model, f"{library}.{class_name}")


def own_code_refused(model: str) -> LoadError:
    """Returns the refusal of a model's own code, which nobody has allowed."""
    return LoadError(
        f"'{model}' brings code of its own, and nobody has allowed to run it.",
        hint="Set 'trust_remote_code' in the document, and start the workbench with"
        f" {OWN_CODE_FLAG} OWNER/NAME for a repository you trust.",
    )


def not_loaded(name: str, model: str, class_name: str) -> LoadError:
    """Returns the refusal of a class that is not loaded for a model."""
    return LoadError(
        f"The {name} of '{model}' is a {class_name}, which is not a class of diffusers or"
        " transformers and is not loaded."
    )


def named_in(folder: Path) -> list[str]:
    """Returns the class named in the component's own configuration, as diffusers' models have
    it."""
    try:
        return ["diffusers", str(read_object(folder / "config.json").get("_class_name", ""))]
    except (OSError, ValueError):
        return ["", "class that nothing names"]


def reused_components(
    step: PipelineStep, shape: Shape, earlier: Mapping[str, Collection[ComponentSpec]]
) -> dict[str, ComponentSpec]:
    """Returns the components of the steps that share them: under the same keys, so each is held
    once.

    Raises LoadError where the other step has no such component, or this pipeline takes none.
    """
    where = f"{step.place}.pipeline"
    found: dict[str, ComponentSpec] = {}
    for name, sharing in step.reused.items():
        if sharing not in earlier:
            continue
        shared = [each for each in earlier[sharing] if parameter_of(each.name) == name]
        if not shared:
            raise LoadError(
                f"The step whose '{name}' is reused in {where} has no such component.",
                hint=nearest(name, {parameter_of(each.name) for each in earlier[sharing]}),
            )
        if name not in shape.parameters:
            raise LoadError(
                f"{shape.class_name} takes no '{name}', which {where} reuses.",
                hint=nearest(name, shape.parameters),
            )
        found |= {each.name: replace(each, shared_by=sharing) for each in shared}
    return found
