"""The quantisers a document may name, their arguments, and the reader of a `quantization_config`.

A quantiser's configuration is named by the dialect's type rule (`BitsAndBytesConfig`,
`sdnq.SDNQConfig`), but only from this list, and its arguments are checked here: nothing is imported
and no weights are touched. The workbench decides where weights are quantised and where they lie
afterwards, so arguments about that are accepted without effect.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from app.dialect.document import PipelineBlock, QuantisationBlock
from app.dialect.plan_sources import ComponentBlock, ModelSource
from app.dialect.quantisation import (
    BITSANDBYTES,
    GGUF,
    QUANTISERS,
    QUANTO,
    SDNQ,
    TORCHAO,
    Quantisation,
    quantisation,
)
from app.dialect.references import Path as Place
from app.errors import nearest
from app.models.hub import folder_of
from app.models.quantised import stored_quantiser
from app.planning.values import ValueReader
from app.tasks.task import mistakes_in

PRE_LOADED = {package.module: package for package in (BITSANDBYTES, TORCHAO, GGUF, SDNQ, QUANTO)}
"""Modules that `pre_load_modules` may name. The worker imports what it needs itself."""
STORED = {
    "bitsandbytes": BITSANDBYTES, "torchao": TORCHAO, "sdnq": SDNQ, "quanto": QUANTO,
}  # fmt: skip
"""The supported quantisers of published weights, by their names in configurations; others may fetch
code of the hub."""

LIBRARIES = ("diffusers", "transformers", "sdnq")


def read_quantisation(
    block: QuantisationBlock, at: Place, reader: ValueReader
) -> Quantisation | None:
    """Returns the quantisation of the block at this place, or None with its problems noted.

    The one reader of such blocks, for component blocks and `load_components`. The component decides
    which configuration of diffusers or transformers is made of it.
    """
    named, where = block.configuration.config_type, (*at, "configuration", "config_type")
    library, _, bare = named.rpartition(".")
    quantiser = QUANTISERS.get(bare)
    if reader.is_typed(where):
        reader.note(where, "An input cannot choose a class.")
        return None
    if quantiser is None or library not in ("", *LIBRARIES):
        reader.note(
            where,
            f"'{named}' is not a quantiser that is known: {', '.join(QUANTISERS)}.",
            nearest(bare, QUANTISERS),
        )
        return None
    if not reader.needs(quantiser.package, bare, where):
        return None
    wrong = mistakes_in(bare, quantiser.arguments, block.arguments)
    for found in wrong:
        reader.note((*at, "arguments", *found.path), found.message, found.hint)
    if wrong:
        return None
    made = quantisation(quantiser, block.arguments)
    further = quantiser.also_needs(made.arguments)
    if further is not None and not reader.needs(further, f"'{made.label}'", (*at, "arguments")):
        return None
    return made


def check_quantisers(
    block: PipelineBlock,
    source: ModelSource | None,
    components: Mapping[str, ComponentBlock | None],
    at: Place,
    reader: ValueReader,
) -> None:
    """Notes missing packages: for the document's quantisers, and for local weights that were
    published quantised."""
    configured = (*at, "configuration")
    for index, module in enumerate(block.configuration.pre_load_modules):
        _check_pre_loaded(module, (*configured, "pre_load_modules", index), reader)
    if block.configuration.sdnq_optimize:
        reader.needs(SDNQ, "'sdnq_optimize'", (*configured, "sdnq_optimize"))
    loading = "from_pretrained_arguments"
    for name, below, _ in block.all_component_blocks:
        component = components.get(name)
        folder = None if component is None else _snapshot(component.source)
        if component is not None and folder is not None:
            place = (*at, *below, loading)
            _check_stored(folder / component.source.subfolder, name, place, reader)
    folder = None if source is None else _snapshot(source)
    if folder is not None:
        with os.scandir(folder) as entries:
            inner = sorted(entry.name for entry in entries if entry.is_dir())
        for name in inner:
            if name not in components:
                _check_stored(folder / name, name, (*at, loading), reader)


def _snapshot(source: ModelSource) -> Path | None:
    """Returns the model's local folder; a single file has no configuration to read."""
    return None if source.file else folder_of(source, source.subfolder)


def _check_pre_loaded(module: str, at: Place, reader: ValueReader) -> None:
    package = PRE_LOADED.get(module)
    if package is None or reader.is_typed(at):
        reader.note(
            at,
            f"'{module}' is not a module that may be loaded: {', '.join(PRE_LOADED)}.",
            nearest(module, PRE_LOADED),
        )
    elif package.is_missing:
        reader.note(at, f"'{module}' is not installed.", package.how_to_add)


def _check_stored(folder: Path, name: str, at: Place, reader: ValueReader) -> None:
    """Notes weights in this folder whose quantiser is not installed."""
    stored = stored_quantiser(folder)
    if stored is None:
        return
    package = STORED.get(stored)
    if package is None:
        reader.note(at, f"The {name} is quantised with '{stored}', which is not supported.",
                    f"Those of {', '.join(STORED)} are loaded.")  # fmt: skip
    elif package.is_missing:
        message = f"The {name} is quantised with {package.name}, which is not installed."
        reader.note(at, message, package.how_to_add)
