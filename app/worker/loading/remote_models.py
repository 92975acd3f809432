"""Models of tasks whose class a trusted repository's own code defines.

transformers constructs every model without weights ("meta"), which the code of published models
(BiRefNet, RMBG-2.0) does not stand. Here the class is constructed as any other, then gets its
weights from safetensors files.
"""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load_file

from app.dialect.files import config_of
from app.dialect.fingerprint import weight_files
from app.errors import LoadError
from app.models.specs import ComponentSpec
from app.worker.loading.foreign import Foreign
from app.worker.loading.remote_code import load_class

CONFIG = "config.json"


class OwnModel(Foreign):
    """A model of a repository's own class, which is the `tool`."""

    def __init__(self, model: torch.nn.Module) -> None:
        torch.nn.Module.__init__(self)
        self.tool = model


def own_model_class(spec: ComponentSpec) -> type[OwnModel]:
    """Returns a class for this one component, whose `load` needs no arguments. Raises LoadError."""
    automatic = spec.class_name.rpartition(".")[2]
    auto_map = config_of(spec.folder).get("auto_map")
    entry = auto_map.get(automatic) if isinstance(auto_map, dict) else None
    module, _, name = str(entry or "").rpartition(".")
    if not (module.isidentifier() and name.isidentifier()):
        # Another repository's code is named `owner/name--module.Class`.
        raise LoadError(
            f"'{spec.model}' has no code of its own for this task ({automatic}).",
            hint=f"The auto_map of its {CONFIG} names {entry!r}." if entry else "",
        )
    found = load_class(spec.folder, module, name, torch.nn.Module)

    def load() -> OwnModel:
        return OwnModel(_with_weights(_constructed(found, spec), spec))

    return type(name, (OwnModel,), {"load": staticmethod(load)})


def _constructed(found: type[Any], spec: ComponentSpec) -> torch.nn.Module:
    config = found.config_class.from_json_file(str(spec.folder / CONFIG))
    # The first weights are drawn, and no step's result may depend on it.
    with torch.random.fork_rng(devices=[]):
        model: torch.nn.Module = found(config=config)
    return model.to(getattr(torch, spec.dtype))


def _with_weights(model: torch.nn.Module, spec: ComponentSpec) -> torch.nn.Module:
    state: dict[str, torch.Tensor] = {}
    for file in weight_files(spec.folder, spec.variant):
        state |= load_file(file)
    dtype = getattr(torch, spec.dtype)
    state = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }
    missing = model.load_state_dict(state, strict=False, assign=True).missing_keys
    if missing:
        raise LoadError(
            f"The {spec.name} of '{spec.model}' is incomplete: '{missing[0]}' has no weights.",
            hint="Download it again: its files may be cut off, or its code of another version.",
        )
    return model
