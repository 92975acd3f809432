"""Keys of a document that decide nothing here: why, told as warnings at their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from app.workflow.document import ComponentDocument, Configuration, PipelineBlock, ResultBlock
from app.workflow.planning.values import ValueReader
from app.workflow.references import Path as Place
from app.workflow.references import place

PLACEMENT = (
    "the workbench decides by the memory that is free where components lie, which changes no result"
)
DOWNLOADS = (
    "models are looked for in the models folders and the hub's cache, then downloaded, for every"
    " workflow alike"
)
TOKEN = "a token in a document is not used; set HF_TOKEN instead"
NO_WATERMARK = (
    "no invisible watermark is added, so that results are the same whatever packages are installed"
)
IDLE_LOADING_ARGUMENTS = {
    "add_watermarker": NO_WATERMARK,
    "cache_dir": DOWNLOADS,
    "device_map": PLACEMENT,
    "force_download": DOWNLOADS,
    "local_files_only": DOWNLOADS,
    "max_memory": PLACEMENT,
    "mirror": DOWNLOADS,
    "offload_folder": PLACEMENT,
    "offload_state_dict": PLACEMENT,
    "proxies": "set HTTPS_PROXY instead",
    "token": TOKEN,
    "use_auth_token": TOKEN,
}
"""Loading arguments that do nothing here, by name: why, or what to do instead."""
HARMLESS_LOADING_ARGUMENTS = {
    "disable_mmap", "low_cpu_mem_usage", "output_loading_info", "requires_safety_checker",
    "resume_download",
}  # fmt: skip
"""Loading arguments nobody needs to be told about: no result depends on them in diffusers either,
or what they ask for is done anyway."""
HOLD_RECORD = ("image/png", "image/jpeg", "image/webp")
"""Kinds of files that hold the record of their run."""


def warn_of_loading_arguments(loading: Mapping[str, Any], at: Place, reader: ValueReader) -> None:
    """Warns of arguments in this `from_pretrained_arguments` that do nothing."""
    for key, value in loading.items():
        if key in IDLE_LOADING_ARGUMENTS and value not in (None, False):
            _warn((*at, key), IDLE_LOADING_ARGUMENTS[key], reader)


def warn_of_configuration(block: PipelineBlock, at: Place, reader: ValueReader) -> None:
    """Warns of keys of the pipeline's and its components' configurations that do nothing."""
    for where, why in _idle(block.configuration, (*at, "configuration")):
        _warn(where, why, reader)
    for name, component in block.component_blocks.items():
        for where, why in _idle_of_component(component, (*at, name, "configuration")):
            _warn(where, why, reader)


def warn_of_result(block: ResultBlock, at: Place, reader: ValueReader) -> None:
    """Warns where `embed_metadata` asks for another thing than what is written."""
    if "embed_metadata" not in block.model_fields_set:
        return
    where, holds_record = (*at, "embed_metadata"), block.content_type in HOLD_RECORD
    if block.embed_metadata and not holds_record:
        why = f"a file of {block.content_type} has no room for the record, which lies beside it"
        _warn(where, f"{why} as JSON", reader)
    elif holds_record and not block.embed_metadata:
        _warn(where, "each PNG, JPEG and WebP holds the record of its run", reader)


def _idle(configuration: Configuration, at: Place) -> Iterator[tuple[Place, str]]:
    if configuration.preserve_device_placement:
        yield (*at, "preserve_device_placement"), PLACEMENT
    if configuration.components_manager is not None:
        yield (*at, "components_manager"), PLACEMENT
    if configuration.disable_attention_slicing:
        why = "attention is sliced only where 'enable_attention_slicing' asks for it"
        yield (*at, "disable_attention_slicing"), why


def _idle_of_component(component: ComponentDocument, at: Place) -> Iterator[tuple[Place, str]]:
    if component.configuration.preserve_device_placement:
        yield (*at, "preserve_device_placement"), PLACEMENT


def _warn(at: Place, why: str, reader: ValueReader) -> None:
    reader.warnings.append(f"{place(at)} has no effect: {why}.")
