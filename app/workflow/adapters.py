"""What a document adds to a denoiser for one step: LoRAs and an IP-adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from app.errors import nearest
from app.workflow.document import IpAdapterBlock, LoraBlock
from app.workflow.files import is_plain
from app.workflow.plan import IpAdapterSource, LoraSource, ModelSource, Value
from app.workflow.references import Path as Place
from app.workflow.values import ValueReader

PICKLES = {"bin", "ckpt", "pt", "pth"}
"""Endings of weight files that can hold code and are never read."""


class SourceOf(Protocol):
    """Finds what a block names; None where it has noted a problem."""

    def __call__(self, loading: dict[str, Any], at: Place) -> ModelSource | None: ...


def read_loras(
    blocks: Sequence[LoraBlock], at: Place, source_of: SourceOf, reader: ValueReader
) -> tuple[LoraSource, ...]:
    """Those that are right; the reader has noted what is wrong with the others."""
    built = [
        _lora(block, index, (*at, index), source_of, reader) for index, block in enumerate(blocks)
    ]
    return tuple(lora for lora in built if lora is not None)


def _lora(
    lora: LoraBlock, index: int, at: Place, source_of: SourceOf, reader: ValueReader
) -> LoraSource | None:
    weight_name = lora.weight_name
    if weight_name is not None and (
        not weight_name.endswith(".safetensors") or not is_plain(weight_name)
    ):
        reader.note((*at, "weight_name"), "A plain name ending in .safetensors is needed.")
        return None
    source = source_of(lora.model_dump(exclude={"weight_name"}), at)
    if source is None:
        return None
    return LoraSource(
        source=source,
        weight_name=weight_name,
        adapter_name=lora.adapter_name or f"lora_{index}",
        scale=lora.scale,
    )


def read_ip_adapter(
    block: IpAdapterBlock | None, at: Place, source_of: SourceOf, reader: ValueReader
) -> IpAdapterSource | None:
    """The adapter; where the document names a pickle, the safetensors file of that name."""
    if block is None:
        return None
    stem, dot, kind = block.weight_name.rpartition(".")
    weight_name = f"{stem}.safetensors"
    if not dot or kind not in PICKLES | {"safetensors"} or not is_plain(weight_name):
        reader.note((*at, "weight_name"), "A plain name ending in .safetensors is needed.")
        return None
    encoder = block.image_encoder_folder
    if not is_plain(encoder):
        reader.note((*at, "image_encoder_folder"), f"{encoder!r} is not a plain name.")
        return None
    source = source_of(block.model_dump(exclude={"weight_name"}), at)
    if source is None:
        return None
    if source.folder is not None:
        folder = Path(source.folder) / source.subfolder
        if not (folder / weight_name).is_file():
            there = [path.name for path in folder.glob("*.safetensors")]
            message = f"'{source.model}' has no {weight_name}."
            reader.note((*at, "weight_name"), message, nearest(weight_name, there))
            return None
    beside = f"{source.subfolder}/{encoder}" if source.subfolder else encoder
    return IpAdapterSource(
        source=source,
        weight_name=weight_name,
        image_encoder=encoder if "/" in encoder else beside,
        scale=block.scale,
    )


def check_ip_adapter_image(arguments: dict[str, Value], at: Place, reader: ValueReader) -> None:
    """Note it where a call gives an IP-adapter nothing to look at, which diffusers cannot make."""
    if not {"ip_adapter_image", "ip_adapter_image_embeds"} & arguments.keys():
        reader.note(at, "'ip_adapter_image' is missing, which an IP-adapter looks at.")
