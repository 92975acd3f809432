"""Plans a document's settings of a modular pipeline: its workflow, configs and components."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from app.dialect.document import Configuration, PipelineBlock
from app.dialect.installed import names
from app.dialect.installed.blocks import Blocks, blocks_of, modular_class_of
from app.dialect.installed.signatures import CallSignature, Parameter
from app.dialect.plan_settings import DType
from app.dialect.plan_sources import OTHERS, ModelSource, ModularSettings
from app.dialect.quantisation import Quantisation
from app.dialect.references import Path as Place
from app.errors import nearest
from app.mistakes import shown
from app.models.hub import find_in_folders, folder_of, is_repository
from app.models.model_index import OWN_BLOCKS, ModelIndex, holds, read_index
from app.planning.quantisers import read_quantisation
from app.planning.values import ValueReader

ONLY_MODULAR = ("load_components", "configs", "components_manager")
OUTPUT = Parameter(name="output", required=False, annotation="", default="None")
"""Names the output that the call returns; every modular pipeline takes it."""


def is_modular(pipeline_class: str) -> bool:
    """Returns True for the class name of a modular pipeline."""
    return pipeline_class.endswith(names.MODULAR)


def read_modular(
    block: PipelineBlock,
    pipeline_class: str,
    source: ModelSource | None,
    code: ModelSource | None,
    at: Place,
    reader: ValueReader,
    models: Collection[Path],
) -> ModularSettings | None:
    """Returns the modular settings of the pipeline at this place; None for an ordinary pipeline."""
    configured, where = block.configuration, (*at, "configuration")
    workflow = block.from_pretrained_arguments.get("workflow")
    workflow_at = (*at, "from_pretrained_arguments", "workflow")
    if not is_modular(pipeline_class):
        for key, place in _modular_keys(configured, workflow, where, workflow_at):
            reader.note(place, f"'{key}' is for modular pipelines, which this one is not.")
        return None
    if workflow is not None and not isinstance(workflow, str):
        reader.note(workflow_at, f"The name of a workflow is needed, not {shown(workflow)}.")
        return None
    index = _index_of(source)
    blocks = _find_blocks(pipeline_class, index, code)
    if blocks is not None:
        if workflow is not None and workflow not in blocks.workflows:
            reader.note(workflow_at, *_no_workflow(workflow, blocks))
        for name in configured.configs:
            if name not in blocks.configs:
                message = f"The pipeline has no config '{name}'."
                hint = nearest(name, blocks.configs) or _there_are(blocks.configs)
                reader.note((*where, "configs", name), message, hint)
    load_at = (*where, "load_components")
    dtypes = _dtypes(configured, load_at, reader)
    quantised = dict(_quantised(configured, (*load_at, "quantization_config"), reader))
    return ModularSettings(
        workflow=workflow,
        configs=configured.configs,
        names=None if configured.load_components is None else configured.load_components.names,
        dtypes=dtypes,
        quantised=quantised,
        sources=dict(_elsewhere(index, source, models)),
    )


def _find_blocks(
    pipeline_class: str, index: ModelIndex | None, code: ModelSource | None
) -> Blocks | None:
    """Returns the blocks of this pipeline class with this model; None while unknown, and for a
    repository's own."""
    if code is not None and _may_bring_blocks(code):
        return None
    named = pipeline_class.rpartition(".")[2]
    if index is None:
        return None if named == names.MODULAR else blocks_of(named)
    if named == names.MODULAR:
        named = index.class_name if index.is_modular else modular_class_of(index.class_name)
    return blocks_of(named, index.blocks_class)


def modular_signature(
    pipeline_class: str,
    source: ModelSource | None,
    settings: ModularSettings,
    code: ModelSource | None,
) -> CallSignature | None:
    """Returns the signature of the pipeline's call; None while its blocks are unknown.

    An argument is required if every way to ask for the workflow needs it, or every way to ask for
    any workflow where the document names none.
    """
    blocks = _find_blocks(pipeline_class, _index_of(source), code)
    if blocks is None:
        return None
    asked = settings.workflow
    ways = [
        set(way) for name, all_ in blocks.workflows.items() for way in all_ if asked in (None, name)
    ]
    required = set.intersection(*ways) if ways else set()
    has_strength = any(each.name == "strength" for each in blocks.inputs)
    return CallSignature(
        strength="strength" if has_strength else "",
        rounds_strength_down=blocks.rounds_strength_down,
        parameters=(
            *(
                each.model_copy(update={"required": each.name in required})
                for each in blocks.inputs
            ),
            OUTPUT,
        ),
        docstring=blocks.docstring,
    )


def _modular_keys(
    configured: Configuration, workflow: Any, at: Place, workflow_at: Place
) -> Iterator[tuple[str, Place]]:
    """Yields the keys for modular pipelines that the document has, with their places."""
    yield from ((key, (*at, key)) for key in ONLY_MODULAR if key in configured.model_fields_set)
    if workflow is not None:
        yield "workflow", workflow_at


def _no_workflow(name: str, blocks: Blocks) -> tuple[str, str]:
    if not blocks.workflows:
        return "This pipeline has no workflows to choose from.", "Leave the key out."
    hint = nearest(name, blocks.workflows) or _there_are(blocks.workflows)
    return f"The pipeline has no workflow '{name}'.", hint


def _there_are(names_: Collection[str]) -> str:
    return f"There is: {', '.join(names_) or 'none'}."


def _dtypes(configured: Configuration, at: Place, reader: ValueReader) -> dict[str, DType]:
    """Returns the dtype of each named component, and under OTHERS that of all others."""
    block = configured.load_components
    wanted = block and (block.dtype or block.torch_dtype)
    if not block or not wanted:
        return {}
    at = (*at, "dtype" if block.dtype else "torch_dtype")
    found: dict[str, DType] = {}
    for name, dtype in ({OTHERS: wanted} if isinstance(wanted, str) else wanted).items():
        try:
            found[name] = names.dtype_name(dtype)
        except names.UnknownName as error:
            reader.note(at if isinstance(wanted, str) else (*at, name), str(error))
    return found


def _quantised(
    configured: Configuration, at: Place, reader: ValueReader
) -> Iterator[tuple[str, Quantisation]]:
    blocks = configured.load_components and configured.load_components.quantization_config
    for name, block in (blocks or {}).items():
        found = read_quantisation(block, (*at, name), reader)
        if found is not None and found.kind == "gguf":
            message = "GGUFQuantizationConfig is for weights in a .gguf file."
            reader.note((*at, name), message, "Take another quantiser.")
        elif found is not None:
            yield name, found


def _may_bring_blocks(code: ModelSource) -> bool:
    """Returns False where the repository is local and has no blocks of its own."""
    folder = folder_of(code)
    return folder is None or (folder / OWN_BLOCKS).is_file()


def _index_of(source: ModelSource | None) -> ModelIndex | None:
    """Returns the index of a local model; its load tells about problems of the index."""
    if source is None:
        return None
    folder = folder_of(source)
    if folder is None:
        return None
    try:
        return read_index(folder, modular=True)
    except (OSError, ValueError):
        return None


def _elsewhere(
    index: ModelIndex | None, source: ModelSource | None, models: Collection[Path]
) -> Iterator[tuple[str, ModelSource]]:
    """Yields the components whose index entry names another repository."""
    if index is None or source is None:
        return
    for name, part in index.parts.items():
        if part.model is None or part.model == source.model or not is_repository(part.model):
            continue
        if source.folder is not None and holds(Path(source.folder) / part.subfolder):
            continue
        folder = find_in_folders(part.model, models)
        yield (
            name,
            ModelSource(
                model=part.model,
                folder=None if folder is None else str(folder.resolve()),
                subfolder=part.subfolder,
                revision=part.revision,
                variant=part.variant,
            ),
        )
