"""LoHa, LoKr and DoRA files of random factors, as kohya-ss/sd-scripts and LyCORIS write them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Factors = dict[str, torch.Tensor]
ALPHA, RANK = 3.0, 2
STD = 0.4


def shape_of(layer: Any) -> tuple[int, ...]:
    return tuple(layer.weight.shape)


class Writer:
    """Draws the factors of layers."""

    def __init__(self, seed: int = 0) -> None:
        self._noise = torch.Generator().manual_seed(seed)

    def _drawn(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self._noise) * STD

    def lora(self, shape: tuple[int, ...]) -> Factors:
        ones = [1] * (len(shape) - 2)
        return {
            "lora_up.weight": self._drawn(shape[0], RANK, *ones),
            "lora_down.weight": self._drawn(RANK, *shape[1:]),
            "alpha": torch.tensor(ALPHA),
        }

    def loha(self, shape: tuple[int, ...], *, core: bool = False) -> Factors:
        found: Factors = {"alpha": torch.tensor(ALPHA)}
        flat = shape[1] * (1 if core else torch.Size(shape[2:]).numel())
        for one in ("w1", "w2"):
            a, b = (RANK, shape[0]) if core else (shape[0], RANK), (RANK, flat)
            found |= {f"hada_{one}_a": self._drawn(*a), f"hada_{one}_b": self._drawn(*b)}
            if core:
                found[f"hada_t{one[1]}"] = self._drawn(RANK, RANK, *shape[2:])
        return found

    def lokr(self, shape: tuple[int, ...], one: str = "whole", two: str = "whole") -> Factors:
        """Each factor is `whole`, of `two` parts, or with a `core`."""
        outer, (out, into) = (2, 4), (shape[0] // 2, shape[1] // 4)
        found: Factors = {"alpha": torch.tensor(ALPHA)}
        if one == "whole":
            found["lokr_w1"] = self._drawn(*outer)
        else:
            found |= {"lokr_w1_a": self._drawn(2, RANK), "lokr_w1_b": self._drawn(RANK, 4)}
        if two == "whole":
            found["lokr_w2"] = self._drawn(out, into, *shape[2:])
        elif two == "core":
            found |= {"lokr_w2_a": self._drawn(RANK, out), "lokr_w2_b": self._drawn(RANK, into)}
            found["lokr_t2"] = self._drawn(RANK, RANK, *shape[2:])
        else:
            flat = into * torch.Size(shape[2:]).numel()
            found |= {"lokr_w2_a": self._drawn(out, RANK), "lokr_w2_b": self._drawn(RANK, flat)}
        return found

    def magnitudes(self, weight: torch.Tensor, *, of_inputs: bool = False) -> Factors:
        """Magnitudes near those of the weight."""
        axis = 1 if of_inputs else 0
        others = [each for each in range(weight.dim()) if each != axis]
        norm = torch.linalg.vector_norm(weight, dim=others, keepdim=True)
        return {"dora_scale": norm * (1 + self._drawn(*norm.shape))}


def save_lycoris(file: Path, modules: Mapping[str, Factors], extra: Iterable[str] = ()) -> Path:
    """Writes the factors of these modules, by their names in the file."""
    tensors = {
        f"{module}.{name}": tensor.detach().clone().contiguous()
        for module, factors in modules.items()
        for name, tensor in factors.items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({**tensors, **{name: torch.zeros(1) for name in extra}}, file)
    return file
