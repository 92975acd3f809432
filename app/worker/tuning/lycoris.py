"""LoHa, LoKr and DoRA in a pipeline's components: layers that change a weight by its factors.

peft and diffusers see a layer of peft, whose scale they set. A change is computed from its factors
in every call, as peft does: all of them together would be as large as the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as functional
from peft import LoHaConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file

from app.models.lycoris import (
    ALPHA,
    DORA,
    UnfitLora,
    component_of,
    diffusers_name,
    factors_by_module,
    kind_of,
    paths_by_name,
)

Factors = Mapping[str, torch.Tensor]


def weight_change(factors: Factors) -> torch.Tensor:
    """Returns the product of the factors of a LoRA, LoHa or LoKr, in float32. Conv weights may be
    flat: `(out, in * height * width)`."""
    f = {name: factor.float() for name, factor in factors.items()}
    if "lora_up" in f:
        up, down = f["lora_up"].flatten(1), f["lora_down"]
        if "lora_mid" in f:
            down = down.flatten(1)
            return torch.einsum("rs..., or, si -> oi...", f["lora_mid"], up, down)
        return up @ down.flatten(1)
    if "hada_w1_a" in f:
        return _of_rank(f, "hada_w1", "hada_t1") * _of_rank(f, "hada_w2", "hada_t2")
    one = f["lokr_w1"] if "lokr_w1" in f else f["lokr_w1_a"] @ f["lokr_w1_b"]
    two = f["lokr_w2"] if "lokr_w2" in f else _of_rank(f, "lokr_w2", "lokr_t2")
    return torch.kron(one.reshape(*one.shape, *[1] * (two.dim() - 2)), two.contiguous())


def _of_rank(f: Factors, name: str, core: str) -> torch.Tensor:
    a, b = f[f"{name}_a"], f[f"{name}_b"]
    return torch.einsum("rs..., ro, si -> oi...", f[core], a, b) if core in f else a @ b


def rank_of(factors: Factors) -> int | None:
    """Returns the rank by which alpha is divided; None for a LoKr of two whole factors, whose alpha
    counts for nothing."""
    for name in ("lora_down", "hada_w1_b", "lokr_w1_b", "lokr_w2_b"):
        if name in factors:
            return int(factors[name].shape[0])
    return None


class DecomposedLayer(torch.nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """A linear or convolutional layer with changes of its weight, by adapter."""

    adapter_layer_names = ("factors",)
    other_param_names = ("scaling",)

    def __init__(self, base_layer: torch.nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.factors = torch.nn.ModuleDict()
        self.scaling: dict[str, float] = {}
        """The scales that the step asks for."""
        self._of_files: dict[str, float] = {}
        """Alpha by rank."""
        self._disable_adapters = False
        self._active_adapter: list[str] = []
        self.merged_adapters: list[str] = []

    def add(self, name: str, factors: Factors, scale: float) -> None:
        """Adds the adapter of this name. Raises ValueError if it is for another weight."""
        base = self._own
        shape = _shape_of(base)
        there = {key: torch.empty_like(value, device="meta") for key, value in factors.items()}
        try:
            change = weight_change({key: v for key, v in there.items() if key != DORA})
            change.reshape(shape)
        except RuntimeError as error:
            raise ValueError(f"it does not make a weight of {list(shape)}") from error
        if DORA in factors:
            if type(base) not in (torch.nn.Linear, torch.nn.Conv2d):
                raise ValueError("its magnitudes need weights that are not quantised")
            _axes(factors[DORA], shape)
        held = {
            key: torch.nn.Parameter(value.to(base.weight.device), requires_grad=False)
            for key, value in factors.items()
        }
        self.factors[name] = torch.nn.ParameterDict(held)
        self._of_files[name] = scale
        self.scaling[name] = 1.0

    @property
    def _own(self) -> Any:
        """Returns the component's own layer."""
        return BaseTunerLayer.get_base_layer(self)

    @property
    def _active(self) -> list[str]:
        """Returns the active adapters, in order."""
        return [*BaseTunerLayer.active_adapters.fget(self)]

    def set_scale(self, adapter: str, scale: float) -> None:
        if adapter in self.factors:
            self.scaling[adapter] = scale

    def scale_layer(self, scale: float) -> None:
        for name in self._active:
            if name in self.factors:
                self.scaling[name] *= scale

    def unscale_layer(self, scale: float | None = None) -> None:
        for name in self._active:
            if name in self.factors:
                self.scaling[name] = 1.0 if scale is None else self.scaling[name] / scale

    def change_of(self, name: str) -> torch.Tensor:
        """Returns what this adapter adds to the weight at scale 1."""
        base = self._own
        shape = _shape_of(base)
        factors = dict(self.factors[name].named_parameters())
        magnitudes = factors.pop(DORA, None)
        change = weight_change(factors).reshape(shape) * self._of_files[name]
        if magnitudes is None:
            return change
        own = base.weight.float()
        changed = own + change
        norm = torch.linalg.vector_norm(changed, dim=_axes(magnitudes, shape), keepdim=True)
        scale = magnitudes.float().reshape(norm.shape) / norm.clamp(min=torch.finfo().tiny)
        difference: torch.Tensor = changed * scale - own
        return difference

    def forward(self, x: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        result: torch.Tensor = self.base_layer(x, *arguments, **named)
        base = self._own
        for name in self._active:
            if name not in self.factors or self._disable_adapters:
                continue
            change = (self.change_of(name) * self.scaling[name]).to(result.dtype)
            x = x.to(result.dtype)
            if isinstance(base, torch.nn.Conv2d):
                how = {key: getattr(base, key) for key in CONVOLVED}
                result = result + functional.conv2d(x, change, **how)
            else:
                result = result + functional.linear(x, change)
        return result


CONVOLVED = ("stride", "padding", "dilation", "groups")


def _shape_of(layer: Any) -> tuple[int, ...]:
    """Returns the shape of the layer's weight, which differs where it is quantised."""
    if isinstance(layer, torch.nn.Conv2d):
        return (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)
    return (layer.out_features, layer.in_features)


def _axes(magnitudes: torch.Tensor, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the axes of which the magnitudes are norms: all but the outputs', or all but the
    inputs' (LyCORIS before 3.0). Raises ValueError for others."""
    others = tuple(range(1, len(shape)))
    if magnitudes.shape[0] == shape[0] and magnitudes.numel() == shape[0]:
        return others
    if magnitudes.dim() > 1 and magnitudes.shape[1] == magnitudes.numel() == shape[1]:
        return (0, *others[1:])
    raise ValueError(f"its magnitudes {list(magnitudes.shape)} are not those of {list(shape)}")


def load_decomposed(pipeline: Any, file: Path, name: str) -> list[str]:
    """Adds the file's layers to the pipeline's components; returns the modules that none of them
    has. Raises UnfitLora. `check_fits` has been called."""
    tensors = load_file(file)
    unmatched: list[str] = []
    paths: dict[str, list[str]] = {}
    tables: dict[str, dict[str, str]] = {}
    for module in factors_by_module(tensors):
        place, short = component_of(module)
        component = getattr(pipeline, place, None)
        if component is None:
            unmatched.append(module)
            continue
        table = tables.setdefault(place, paths_by_name(_layers(component)))
        if place == "unet":
            path = table.get(diffusers_name(short, component.config.layers_per_block))
        else:
            # CLIPTextModel has no inner model in transformers 5.
            path = table.get(short) or table.get(short.removeprefix("text_model_"))
        if path is None:
            unmatched.append(module)
            continue
        found = _factors(tensors, module)
        alpha, rank = found.pop(ALPHA, None), rank_of(found)
        scale = 1.0 if alpha is None or rank is None else float(alpha) / rank
        try:
            _wrapped(component, path).add(name, found, scale)
        except ValueError as error:
            raise UnfitLora(
                f"The {kind_of(tensors)} file '{file.name}' is not for this model: of '{module}'"
                f" {error}."
            ) from error
        paths.setdefault(place, []).append(path)
    for place, changed in paths.items():
        component = getattr(pipeline, place)
        if not getattr(component, "peft_config", None):
            component.peft_config = {}
        component.peft_config[name] = LoHaConfig(target_modules=changed)
        component._hf_peft_config_loaded = True
    return unmatched


def _factors(tensors: Factors, module: str) -> dict[str, torch.Tensor]:
    prefix = f"{module}."
    return {
        name.removeprefix(prefix).removesuffix(".weight"): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _layers(component: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Returns the layers that may be changed, wrapped or not, by their paths."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d, BaseTunerLayer)
    return {path: each for path, each in component.named_modules() if isinstance(each, kinds)}


def _wrapped(component: torch.nn.Module, path: str) -> DecomposedLayer:
    """Returns the wrapper of the layer of this path, which may be inside one for other LoRAs."""
    parent, _, attribute = path.rpartition(".")
    holder = component.get_submodule(parent)
    layer = outmost = holder.get_submodule(attribute)
    while isinstance(layer, BaseTunerLayer):
        if isinstance(layer, DecomposedLayer):
            return layer
        layer = layer.base_layer
    made = holder._modules[attribute] = DecomposedLayer(outmost)
    return made
