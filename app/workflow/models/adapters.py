"""LoRAs and IP-adapters of a step → where they lie, and the identities of their files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

from app.workflow.fingerprint import FileIdentity, identify_file
from app.workflow.models.specs import AdapterSpec, Find, Selection, StepSpecs, known_folder
from app.workflow.plan import LoadingStep, PipelineStep
from app.workflow.plan_sources import IpAdapterSource, LoraSource


def with_adapters(specs: StepSpecs, step: LoadingStep, find: Find) -> StepSpecs:
    """Returns the specs with those of the step's adapters. Raises what `find` raises."""
    if not isinstance(step, PipelineStep):
        return specs
    loras = tuple(lora_spec(lora, find) for lora in step.loras)
    adapter = None if step.ip_adapter is None else ip_adapter_spec(step.ip_adapter, find)
    return replace(specs, loras=loras, ip_adapter=adapter)


def lora_spec(lora: LoraSource, find: Find = known_folder) -> AdapterSpec:
    """Returns where the LoRA's weights lie. Raises what `find` raises."""
    subfolder = lora.source.subfolder
    if lora.weight_name is not None:
        wanted = Selection(files=(str(PurePosixPath(subfolder, lora.weight_name)),))
    else:
        wanted = Selection(adapters=(subfolder,))
    folder = find(lora.source, wanted) / subfolder
    return _spec(folder, folder / lora.weight_name if lora.weight_name else None)


def ip_adapter_spec(adapter: IpAdapterSource, find: Find = known_folder) -> AdapterSpec:
    """Returns where the adapter lies, with its image encoder. Raises what `find` raises."""
    folder = find(adapter.source, of_ip_adapter(adapter))
    return _spec(folder, folder / adapter.source.subfolder / adapter.weight_name)


def of_ip_adapter(adapter: IpAdapterSource) -> Selection:
    """Returns its weights, and its image encoder's where that lies beside them."""
    return Selection(
        folders=() if adapter.encoder_source else (adapter.image_encoder,),
        files=(str(PurePosixPath(adapter.source.subfolder, adapter.weight_name)),),
    )


def adapter_identities(folder: Path, file: Path | None) -> tuple[FileIdentity, ...]:
    """Returns the files that an adapter may be read from, as they are now."""
    files = [file] if file is not None else folder.glob("*.safetensors")
    return tuple(identify_file(each) for each in sorted(files) if each.is_file())


def _spec(folder: Path, file: Path | None) -> AdapterSpec:
    return AdapterSpec(folder, file, adapter_identities(folder, file))
