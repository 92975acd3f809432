"""Checks the values of a component's configuration before anything is built from them.

Libraries build a model of any size that a `config.json` names, even of 10^13 positions, and compute
image sizes from it. Checked are the values that decide memory allocation and estimates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from app.dialect.files import config_of
from app.stamps import FileStamp, stamp_of

MOST = 1 << 40
"""Upper bound of all whole numbers in a configuration."""
MOST_BY_KEY = {
    "sample_size": 65_536,
    "sample_height": 65_536,
    "sample_width": 65_536,
    "block_out_channels": 1_000_000,
    "dim_mult": 1_000_000,
    "base_dim": 1_000_000,
    "dim": 1_000_000,
    "attention_head_dim": 1_000_000,
    "num_attention_heads": 1_000_000,
    "layers_per_block": 10_000,
    "num_layers": 10_000,
    "num_hidden_layers": 10_000,
    "latent_channels": 1_000_000,
    "z_dim": 1_000_000,
    "in_channels": 1_000_000,
    "vocab_size": 100_000_000,
    "max_position_embeddings": 20_000_000,
}
"""Upper bounds of whole numbers, or lists of them, above those of any model."""
NUMBERS = ("scaling_factor", "shift_factor")
TEXTS = ("down_block_types", "up_block_types")
NESTED = 50
"""Greatest nesting of a configuration."""


def wrong_in(folder: Path) -> str:
    """Returns the first impossible value of the folder's `config.json`; see `wrong_value`."""
    file = folder / "config.json"
    return _wrong_in(folder, stamp_of(file)) if file.is_file() else ""


@lru_cache(maxsize=512)
def _wrong_in(folder: Path, _stamp: FileStamp) -> str:
    return wrong_value(config_of(folder))


def wrong_value(config: Mapping[str, Any]) -> str:
    """Returns the first impossible value, in words; "" for none."""
    for key, value in config.items():
        if value is None:
            continue
        leaves = list(_leaves(value, NESTED))
        if key in MOST_BY_KEY and not all(_is_count(leaf, MOST_BY_KEY[key]) for leaf in leaves):
            return f"its '{key}' is {_shown(value)}"
        if key in NUMBERS and not all(isinstance(leaf, int | float | None) for leaf in leaves):
            return f"its '{key}' is {_shown(value)}"
        if key in TEXTS and not (
            isinstance(value, list) and all(isinstance(leaf, str | None) for leaf in leaves)
        ):
            return f"its '{key}' is {_shown(value)}"
        if any(isinstance(leaf, int) and abs(leaf) > MOST for leaf in leaves):
            return f"its '{key}' is {_shown(value)}"
    return ""


def _leaves(value: Any, levels: int) -> Iterator[Any]:
    if levels and isinstance(value, list):
        for item in value:
            yield from _leaves(item, levels - 1)
    elif levels and isinstance(value, dict):
        yield from _leaves(list(value.values()), levels - 1)
    else:
        yield value


def _is_count(value: Any, most: int) -> bool:
    whole = isinstance(value, int | float) and not isinstance(value, bool)
    return whole and 0 <= value <= most


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
