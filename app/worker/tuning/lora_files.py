"""Loads one LoRA into a pipeline, and tells what of it is not applied."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from app.dialect.fingerprint import tensor_shapes
from app.dialect.plan import PipelineStep
from app.dialect.plan_sources import LoraSource
from app.errors import LoadError, first_line, shortened
from app.models.adapters import lora_file
from app.models.lora_family import family_of
from app.models.lycoris import DORA, UnfitLora, check_fits, factors_by_module, kind_of
from app.models.specs import AdapterSpec
from app.worker.device import is_out_of_memory
from app.worker.tuning.ip_adapters import lora_of

log = logging.getLogger(__name__)

MAX_REASON = 300
IN_CONVERTED = re.compile(
    r"(?:\.lora_A|[._]lora\.down|\.lora_linear_layer\.down|\.lokr_w1(?:_a)?)\b"
)
"""What each layer has once in diffusers' names."""
MAGNITUDES = "lora_magnitude_vector"
OF_LORAS = re.compile(r"lora|hada|lokr|dora", re.IGNORECASE)
"""What names of a LoRA's tensors have, in any of its notations."""


def load_lora(
    pipeline: Any, name: str, lora: LoraSource, spec: AdapterSpec, step: PipelineStep
) -> tuple[str, ...]:
    """Loads one of the step's LoRAs into the pipeline under this name; returns sentences about what
    of it is not applied. Raises LoadError."""
    step_name = step.name
    shown = _shown(lora, spec)
    log.info("Loading LoRA: %s", shown)
    tensors = _tensors(spec)
    file = spec.file or lora_file(spec.folder, None)
    if tensors and not any(map(OF_LORAS.search, tensors)):
        raise LoadError(
            f"'{shown}', in step '{step_name}', is no LoRA.",
            hint=f"Its first tensor is '{tensors[0]}'. Take another file.",
        )
    has_unet = hasattr(pipeline, "unet")
    unmatched = None
    try:
        check_fits(shown, tensors, has_unet=has_unet, offload=step.offload)
        if kind_of(tensors) and has_unet and file is not None:
            # Imported late: it imports peft, which takes a second, and most workers load none.
            from app.worker.tuning.lycoris import load_decomposed

            unmatched = load_decomposed(pipeline, file, name)
    except UnfitLora as error:
        raise LoadError(f"Step '{step_name}': {error.message}", hint=error.hint) from error
    if unmatched is not None:
        _check_applied(pipeline, name, lora, spec, step_name)
        return _unmatched_told(shown, len(unmatched), len(factors_by_module(tensors)))
    with _seeing_converted(pipeline) as converted:
        _load_by_diffusers(pipeline, name, lora, spec, step_name)
    _check_applied(pipeline, name, lora, spec, step_name)
    layers = sum(1 for each in converted if IN_CONVERTED.search(each))
    sentences = _unmatched_told(shown, layers - _layers_of(pipeline, name), layers)
    if any(each.endswith(DORA) for each in tensors) and not any(
        MAGNITUDES in each for each in converted
    ):
        sentences += (
            f"'{shown}' is a DoRA: its magnitudes are left out, and it is applied as a plain LoRA.",
        )
    return sentences


def load_face_lora(
    pipeline: Any, name: str, spec: AdapterSpec, step: PipelineStep
) -> tuple[str, ...]:
    """Loads the LoRA that an IP-adapter for faces includes, as `load_lora` does; all of it is
    applied. Raises LoadError."""
    assert spec.file is not None
    log.info("Loading LoRA of IP-adapter: %s", spec.file.name)
    try:
        with _beside_others():
            pipeline.load_lora_weights(lora_of(pipeline, spec), adapter_name=name)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise LoadError(
            f"The LoRA of the IP-adapter '{spec.file.name}' could not be applied in step"
            f" '{step.name}'.",
            hint=f"{type(error).__name__}: {first_line(error)}.",
        ) from error
    return ()


@contextlib.contextmanager
def _beside_others() -> Iterator[None]:
    """Inside, peft does not warn of a second LoRA, which is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
        yield


def _unmatched_told(shown: str, unmatched: int, layers: int) -> tuple[str, ...]:
    if unmatched <= 0:
        return ()
    return (f"{unmatched} of the {layers} layers of '{shown}' match nothing in this model.",)


def _layers_of(pipeline: Any, name: str) -> int:
    """Returns how many layers of the pipeline have the LoRA of this name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return sum(
        isinstance(module, BaseTunerLayer) and name in module._get_available_adapters()
        for component in pipeline.components.values()
        if isinstance(component, torch.nn.Module)
        for module in component.modules()
    )


@contextlib.contextmanager
def _seeing_converted(pipeline: Any) -> Iterator[list[str]]:
    """Returns a list that gets the names of the tensors that diffusers makes of a file inside."""
    seen: list[str] = []
    convert = pipeline.lora_state_dict

    def converting(*arguments: Any, **named: Any) -> Any:
        found = convert(*arguments, **named)
        tensors: Mapping[str, Any] = found[0] if isinstance(found, tuple) else found
        seen.extend(tensors)
        return found

    pipeline.lora_state_dict = converting
    try:
        yield seen
    finally:
        del pipeline.lora_state_dict


def _load_by_diffusers(
    pipeline: Any, name: str, lora: LoraSource, spec: AdapterSpec, step_name: str
) -> None:
    try:
        with _beside_others():
            pipeline.load_lora_weights(
                str(spec.folder),
                weight_name=lora.weight_name,
                adapter_name=name,
                local_files_only=True,
                use_safetensors=True,
            )
    except Exception as error:
        if is_out_of_memory(error):
            raise
        quantised = any(hasattr(c, "hf_quantizer") for c in pipeline.components.values())
        reason = shortened(first_line(error), MAX_REASON)
        raise LoadError(
            f"The LoRA '{_shown(lora, spec)}' could not be applied in step '{step_name}', to a"
            f" {type(pipeline).__name__}.",
            hint=f"{_made_for(spec)} {type(error).__name__}: {reason}".strip()
            + " It meets quantised weights: weights of 8 bits or another quantiser may take it."
            * quantised,
        ) from error


def _check_applied(
    pipeline: Any, name: str, lora: LoraSource, spec: AdapterSpec, step_name: str
) -> None:
    """Raises LoadError for a LoRA of which no component has taken a tensor: diffusers skips them
    all in silence."""
    components = [c for c in pipeline.components.values() if hasattr(c, "peft_config")]
    if not any(name in component.peft_config for component in components):
        raise LoadError(
            f"The LoRA '{_shown(lora, spec)}' does not fit the model of step"
            f" '{step_name}': none of its tensors is for a {type(pipeline).__name__}.",
            hint=_made_for(spec),
        )


def _shown(lora: LoraSource, spec: AdapterSpec) -> str:
    """Returns the name of a LoRA's file; that of its folder where it is not known."""
    file = spec.file or lora_file(spec.folder, None)
    return lora.source.model if file is None else file.name


def _made_for(spec: AdapterSpec) -> str:
    """Returns a sentence about the family of models a LoRA was made for; "" if unreadable."""
    tensors = _tensors(spec)
    if family := family_of(tensors):
        return f"By its tensors it was made for {family}."
    return f"Its first tensor is '{tensors[0]}'." if tensors else "It has no tensors."


def _tensors(spec: AdapterSpec) -> list[str]:
    """Returns the names of the LoRA's tensors; none where its file cannot be read."""
    file = spec.file or lora_file(spec.folder, None)
    try:
        return [] if file is None else [*tensor_shapes(file)]
    except (OSError, ValueError):
        return []
