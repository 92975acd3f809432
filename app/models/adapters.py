"""Resolves a step's adapters into specs with the identities of their files."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TypedDict

from app.dialect.fingerprint import FileIdentity, identify_file
from app.dialect.plan import LoadingStep, PipelineStep
from app.dialect.plan_sources import IpAdapterSource, LoraSource
from app.models.file_places import single_file
from app.models.specs import AdapterSpec, Find, Selection

USUAL_LORA = "pytorch_lora_weights.safetensors"
"""The name that diffusers gives, and prefers."""


class Adapters(TypedDict, total=False):
    """The fields of `StepSpecs` for the adapters of a pipeline step."""

    loras: tuple[AdapterSpec, ...]
    textual_inversions: tuple[AdapterSpec, ...]
    ip_adapters: tuple[AdapterSpec, ...]


def adapters_of(step: LoadingStep, find: Find) -> Adapters:
    """Returns the specs of the step's adapters; empty for a task. Raises what `find` raises."""
    if not isinstance(step, PipelineStep):
        return {}
    files = (single_file(each.source, find) for each in step.textual_inversions)
    return {
        "loras": tuple(_lora_spec(lora, find) for lora in step.loras),
        "textual_inversions": tuple(_spec(file.parent, file) for file in files),
        "ip_adapters": tuple(_ip_adapter_spec(adapter, find) for adapter in step.ip_adapters),
    }


def _lora_spec(lora: LoraSource, find: Find) -> AdapterSpec:
    """Returns the spec of a LoRA. Raises exceptions of `find`."""
    subfolder = lora.source.subfolder
    if lora.weight_name is not None:
        wanted = Selection(files=(str(PurePosixPath(subfolder, lora.weight_name)),))
    else:
        wanted = Selection(adapters=(subfolder,))
    folder = find(lora.source, wanted) / subfolder
    return _spec(folder, folder / lora.weight_name if lora.weight_name else None)


def lora_file(folder: Path, weight_name: str | None) -> Path | None:
    """Returns the file of a LoRA in this folder; None where it is not there or not the only one."""
    if weight_name is not None or (folder / USUAL_LORA).is_file():
        file = folder / (weight_name or USUAL_LORA)
        return file if file.is_file() else None
    files = [*folder.glob("*.safetensors")]
    return files[0] if len(files) == 1 else None


def _ip_adapter_spec(adapter: IpAdapterSource, find: Find) -> AdapterSpec:
    """Returns the spec of an IP-adapter. Raises exceptions of `find`."""
    folder = find(adapter.source, of_ip_adapter(adapter))
    return _spec(folder, folder / adapter.source.subfolder / adapter.weight_name)


def of_ip_adapter(adapter: IpAdapterSource) -> Selection:
    """Returns the adapter's weights, and its image encoder's if that is beside them."""
    return Selection(
        folders=()
        if adapter.encoder_source or not adapter.image_encoder
        else (adapter.image_encoder,),
        files=(str(PurePosixPath(adapter.source.subfolder, adapter.weight_name)),),
    )


def adapter_identities(folder: Path, file: Path | None) -> tuple[FileIdentity, ...]:
    """Returns the present identities of the files that an adapter may be read from."""
    files = [file] if file is not None else folder.glob("*.safetensors")
    return tuple(identify_file(each) for each in sorted(files) if each.is_file())


def _spec(folder: Path, file: Path | None) -> AdapterSpec:
    return AdapterSpec(folder, file, adapter_identities(folder, file))
