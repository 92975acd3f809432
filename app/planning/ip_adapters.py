"""Plans a step's IP-adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.dialect.document import IpAdapterBlock
from app.dialect.files import is_plain
from app.dialect.installed.signatures import base_names
from app.dialect.plan_sources import IpAdapterSource
from app.dialect.plan_values import FileValue, ListValue, Value
from app.dialect.references import Path as Place
from app.dialect.references import place
from app.planning.adapters import SourceOf, is_there, safetensors
from app.planning.values import ValueReader

FLUX, SD3, UNET = "FluxIPAdapterMixin", "SD3IPAdapterMixin", "IPAdapterMixin"
"""Bases of the pipelines that take IP-adapters."""
IMAGES = ("ip_adapter_image", "negative_ip_adapter_image")
"""Arguments with an image, or a list of images, for each adapter."""
ELSEWHERE = "image_encoder_pretrained_model_name_or_path"


def read_ip_adapters(
    blocks: Sequence[tuple[Place, IpAdapterBlock]],
    pipeline_class: str,
    at: Place,
    source_of: SourceOf,
    reader: ValueReader,
) -> tuple[IpAdapterSource, ...]:
    """Returns the valid adapters; problems of the others are noted. `at` is the pipeline's place,
    below which each block has its own."""
    if not blocks:
        return ()
    short = pipeline_class.rpartition(".")[2]
    bases = base_names(short)
    if "DiffusionPipeline" in bases and not {FLUX, SD3, UNET} & bases:
        reader.note((*at, "ip_adapter"), f"{short} takes no IP-adapter.", "Leave the block out.")
    elif SD3 in bases and len(blocks) > 1:
        message = f"{short} takes one IP-adapter, not {len(blocks)}."
        reader.note((*at, "ip_adapter"), message, "Keep one of them.")
    found = []
    for index, (below, block) in enumerate(blocks):
        where = (*at, *below)
        if len(blocks) > 1:
            _check_scale(block.scale, (*where, "scale"), reader, lists=FLUX in bases)
        elif SD3 in bases and not isinstance(block.scale, float):
            message = f"{short} has one scale for all blocks of its denoiser: a number is needed."
            reader.note((*where, "scale"), message)
        found.append(_read(block, where, source_of, reader, is_first=index == 0))
    return tuple(each for each in found if each is not None)


def _read(
    block: IpAdapterBlock, at: Place, source_of: SourceOf, reader: ValueReader, *, is_first: bool
) -> IpAdapterSource | None:
    """Returns the adapter; a pickle's name is read as the safetensors file of that name."""
    weight_name = safetensors(block.weight_name, at, reader)
    if weight_name is None:
        return None
    encoder = block.image_encoder_folder or ""
    if encoder and not is_plain(encoder):
        reader.note((*at, "image_encoder_folder"), f"{encoder!r} is not a plain name.")
        return None
    source = source_of(block.model_dump(exclude={"weight_name"}), at)
    if source is None or not is_there(source, weight_name, at, reader):
        return None
    elsewhere = block.image_encoder_pretrained_model_name_or_path
    if not is_first:
        for key in {"image_encoder_folder", ELSEWHERE} & block.model_fields_set:
            if getattr(block, key) is not None:
                reader.warn_of_idle((*at, key), "the first adapter's image encoder serves all")
        elsewhere, encoder = None, ""
    encoder_source = None
    if elsewhere is not None:
        where = (*at, ELSEWHERE)
        noted = len(reader.problems)
        encoder_source = source_of({"model_name": elsewhere}, where)
        reader.problems[noted:] = [
            wrong.model_copy(update={"place": place(where)}) for wrong in reader.problems[noted:]
        ]
        if encoder_source is None:
            return None
    below = encoder and source.subfolder and "/" not in encoder
    return IpAdapterSource(
        source=source,
        weight_name=weight_name,
        image_encoder=f"{source.subfolder}/{encoder}" if below else encoder,
        encoder_source=encoder_source,
        scale=block.scale,
    )


def _check_scale(scale: Any, at: Place, reader: ValueReader, *, lists: bool) -> None:
    """Notes a scale that is not for one of several adapters: of UNets an object has one for each
    block, of Flux a list."""
    if isinstance(scale, (float, list if lists else dict)):
        return
    blocks = "a list of numbers" if lists else "an object of numbers"
    message = f"The scale of one of several adapters is a number, or {blocks} for its blocks."
    reader.note(at, message)


def check_ip_adapter_images(
    arguments: Mapping[str, Value],
    count: int,
    pipeline_class: str,
    at: Place,
    reader: ValueReader,
) -> None:
    """Notes images that are missing, or not one for each of `count` IP-adapters: diffusers fails
    with others."""
    if not count:
        return
    if not {"ip_adapter_image", "ip_adapter_image_embeds"} & arguments.keys():
        reader.note(at, "'ip_adapter_image' is missing, the input of the IP-adapter.")
    if SD3 in base_names(pipeline_class.rpartition(".")[2]):
        # It averages over all images.
        return
    for name in IMAGES:
        value = arguments.get(name)
        given = len(value.items) if isinstance(value, ListValue) else 1
        if given == count or not isinstance(value, ListValue | FileValue):
            continue
        pictures = "1 picture" if given == 1 else f"{given} pictures"
        adapters = "1 IP-adapter" if count == 1 else f"{count} IP-adapters"
        hint = "A list with one for each is needed, in their order; several for one are a list"
        reader.note((*at, name), f"{pictures} for {adapters}.", f"{hint} in it.")
