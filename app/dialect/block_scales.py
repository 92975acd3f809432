"""A LoRA's scale for each part of a model, as diffusers' `set_adapters` takes it; pure.

`{"text_encoder": 0.5, "unet": {"down": 0.2, "mid": 1, "up": {"block_0": [0, 0.5, 1]}}}`: a number
counts for everything below it, a list for the layers of a block in order. What is not named has 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import JsonValue

from app.errors import nearest
from app.mistakes import shown

Scale = float | dict[str, JsonValue]
UNET = "unet"
SECTIONS = {"down": "down_blocks", "mid": "mid_block", "up": "up_blocks"}
"""Parts of a UNet, and where they are in it."""
BLOCK = re.compile(r"block_(\d+)")


class UnetShape(NamedTuple):
    """The blocks of a UNet, and the layers of each."""

    down: int
    up: int
    layers: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> UnetShape | None:
        """Returns the shape that a UNet's configuration tells; None where it does not."""
        down, up = config.get("down_block_types"), config.get("up_block_types")
        layers = config.get("layers_per_block")
        if isinstance(down, list) and isinstance(up, list) and isinstance(layers, int):
            return cls(len(down), len(up), layers)
        return None


class Wrong(NamedTuple):
    """A mistake in a scale, below the scale's own place."""

    path: tuple[str | int, ...]
    message: str
    hint: str = ""


def scale_at(scale: Scale, component: str, path: str) -> float:
    """Returns the scale for the module of this path in a component of this name."""
    below: Any = scale.get(component, 1.0) if isinstance(scale, dict) else scale
    if not isinstance(below, dict):
        return float(below)
    first, *rest = path.split(".")
    section = next((name for name, place in SECTIONS.items() if place == first), "")
    below = below.get(section, 1.0)
    number, rest = (rest[0], rest[1:]) if section != "mid" and rest else ("0", rest)
    if isinstance(below, dict):
        below = below.get(f"block_{number}", 1.0)
    if isinstance(below, list):
        layer = int(rest[1]) if len(rest) > 1 and rest[1].isdigit() else 0
        below = below[min(layer, len(below) - 1)]
    return float(below)


def mistakes_in(
    scale: Scale, components: tuple[str, ...], unet: UnetShape | None
) -> Iterator[Wrong]:
    """Yields what is wrong with a scale for these components (empty where they are not known)."""
    if not isinstance(scale, dict):
        return
    for name, value in scale.items():
        at = (name,)
        if components and name not in components:
            hint = nearest(name, components) or f"It changes {', '.join(components)}."
            if name in SECTIONS and UNET in components:
                hint = f"Put it below '{UNET}'."
            yield Wrong(at, f"No LoRA of this pipeline changes a '{name}'.", hint)
        elif name == UNET and isinstance(value, dict):
            yield from _mistakes_in_unet(value, at, unet)
        else:
            yield from _not_a_number(value, at)


def _mistakes_in_unet(
    sections: Mapping[str, Any], at: tuple[str, ...], unet: UnetShape | None
) -> Iterator[Wrong]:
    for name, value in sections.items():
        where = (*at, name)
        if name not in SECTIONS:
            hint = nearest(name, SECTIONS) or f"It has {', '.join(SECTIONS)}."
            yield Wrong(where, f"A UNet has no part '{name}'.", hint)
            continue
        layers = None if unet is None else unet.layers + (name == "up")
        if name == "mid":
            layers = 1
        if not isinstance(value, dict) or name == "mid":
            yield from _not_numbers(value, where, layers)
            continue
        blocks = None if unet is None else [unet.down, unet.up][name == "up"]
        for block, inner in value.items():
            found = BLOCK.fullmatch(block)
            if found is None or (blocks is not None and int(found[1]) >= blocks):
                names = f"It has block_0 to block_{blocks - 1}." if blocks else ""
                yield Wrong(
                    (*where, block), f"There is no '{block}' in '{name}' of this UNet.", names
                )
                continue
            yield from _not_numbers(inner, (*where, block), layers)


def _not_numbers(value: Any, at: tuple[str, ...], count: int | None) -> Iterator[Wrong]:
    if not isinstance(value, list):
        yield from _not_a_number(value, at)
        return
    if not value or (count is not None and len(value) not in (1, count)):
        needed = (
            "One number" if count in (1, None) else f"1 or {count} numbers, one for each layer,"
        )
        yield Wrong(at, f"{needed} must stand here, not {len(value)}.")
    for index, each in enumerate(value):
        yield from _not_a_number(each, (*at, index))


def _not_a_number(value: Any, at: tuple[str | int, ...]) -> Iterator[Wrong]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        yield Wrong(at, f"A number is needed, not {shown(value)}.")
