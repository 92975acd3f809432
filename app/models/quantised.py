"""Bytes of quantised weights, from their files' headers.

Exact for weights stored quantised. For weights quantised while they load it is an estimate: which
layers a quantiser skips is known when it has run. The worker counts the real bytes
(`app/worker/loading/quantising.py`).
"""

from __future__ import annotations

import re
from math import prod
from pathlib import Path

from app.dialect.files import PICKLE_SUFFIXES, config_of, format_of
from app.dialect.fingerprint import (
    DTYPE_BYTES,
    FLOAT_BYTES,
    tensor_shapes,
    weight_bytes,
    weight_files,
)
from app.dialect.plan_settings import ComponentChanges, DType
from app.dialect.quantisation import Quantisation

BNB_BLOCK, BNB_NESTED_BLOCK = 64, 256
"""Weights that share a scale, and scales that share a second scale, in bitsandbytes."""
TORCHAO_GROUP = 128
"""Weights that share a scale and a zero point in torchao's 4-bit layouts."""
QUANTO_GROUP = 128
FLOAT32_BYTES = 4
EMBEDDINGS = {
    "shared", "embed_tokens", "token_embedding", "position_embedding", "relative_attention_bias",
    "wte", "wpe", "word_embeddings", "lm_head",
}  # fmt: skip
"""Layers of text encoders with a table as weight, or that quantisers skip."""

PREFIXES: dict[str, tuple[str, ...]] = {
    "unet": ("model.diffusion_model.",),
    "transformer": ("model.diffusion_model.",),
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": (
        "cond_stage_model.", "conditioner.embedders.0.transformer.", "text_encoders.clip_l.",
    ),
    "text_encoder_2": ("conditioner.embedders.1.model.", "text_encoders.clip_g."),
    "text_encoder_3": ("text_encoders.t5xxl.",),
}  # fmt: skip
"""Prefixes of a component's tensors in a checkpoint that holds a whole pipeline."""


def component_bytes(
    folder: Path,
    variant: str | None,
    dtype: DType | None,
    quantisation: Quantisation | None,
    changes: ComponentChanges | None = None,
) -> int:
    """Returns the bytes of the component in this folder as it will be held, after these changes.

    Raises ValueError where a file is not a safetensors file, OSError where it cannot be read.
    """
    if stored_quantiser(folder) is not None:
        return weight_bytes(folder, variant, None, changes)
    if quantisation is None or dtype is None:
        return weight_bytes(folder, variant, dtype, changes)
    files = weight_files(folder, variant)
    return round(sum(_file_bytes(file, "", dtype, quantisation, changes) for file in files))


def single_file_bytes(
    file: Path, component: str, dtype: DType, quantisation: Quantisation | None
) -> int:
    """Returns the bytes of this component's weights in a single file, as they will be held; of the
    whole file if no tensors have a checkpoint's names.

    An estimate until it has been loaded. Raises ValueError or OSError where it cannot be read.
    """
    if format_of(file) == "GGUF" or file.suffix.lower() in PICKLE_SUFFIXES:
        # A GGUF file is held as it is, except its header.
        return file.stat().st_size
    within = _file_bytes(file, component, dtype, quantisation)
    return round(within or _file_bytes(file, "", dtype, quantisation))


def _file_bytes(
    file: Path,
    component: str,
    dtype: DType,
    quantisation: Quantisation | None,
    changes: ComponentChanges | None = None,
) -> float:
    prefixes = PREFIXES.get(component, ("",))
    return sum(
        _tensor_bytes(name, kind, shape, dtype, quantisation)
        for name, (kind, shape) in tensor_shapes(file).items()
        if name.startswith(prefixes) and not (changes and changes.leaves_out(name))
    )


def stored_quantiser(folder: Path) -> str | None:
    """Returns the quantiser of published quantised weights in this folder, from their configuration
    (`bitsandbytes`, `sdnq`); None for others."""
    stored = config_of(folder).get("quantization_config")
    if not isinstance(stored, dict):
        return None
    return str(stored.get("quant_method") or "bitsandbytes")


def _tensor_bytes(
    name: str, kind: str, shape: tuple[int, ...], dtype: DType, quantisation: Quantisation | None
) -> float:
    count = prod(shape)
    plain_bytes = count * (DTYPE_BYTES[dtype] if kind in FLOAT_BYTES else 1)
    if quantisation is None or not _is_converted(name, shape, quantisation):
        return plain_bytes
    return count * _bytes_per_weight(quantisation, dtype, shape)


def _is_converted(name: str, shape: tuple[int, ...], quantisation: Quantisation) -> bool:
    """Returns True for the weight of a linear layer that the quantiser converts."""
    if not name.endswith(".weight") or len(shape) != 2 or EMBEDDINGS.intersection(name.split(".")):
        return False
    given = quantisation.arguments
    kept = given.get("modules_to_not_convert") or given.get("llm_int8_skip_modules") or []
    assert isinstance(kept, list)
    if any(str(module) in name for module in kept):
        return False
    if quantisation.kind != "sdnq":
        return True
    if given.get("add_skip_keys", True) and not re.search(r"\.\d+\.", name):
        # It skips the layers before and after a model's blocks, which are numbered.
        return False
    least, least_channels = 16384, 32
    return prod(shape) >= int(str(given.get("minimum_allowed_numel", least))) and min(shape) >= int(
        str(given.get("minimum_allowed_channel_size", least_channels))
    )


def _bytes_per_weight(quantisation: Quantisation, dtype: DType, shape: tuple[int, ...]) -> float:
    given = quantisation.arguments
    per_row = FLOAT32_BYTES / shape[1]
    match quantisation.kind:
        case "bitsandbytes" if "load_in_8bit" in given:
            return 1 + per_row
        case "bitsandbytes" if "bnb_4bit_use_double_quant" in given:
            return 0.5 + (1 + FLOAT32_BYTES / BNB_NESTED_BLOCK) / BNB_BLOCK
        case "bitsandbytes":
            return 0.5 + FLOAT32_BYTES / BNB_BLOCK
        case "torchao" if "Int4Weight" in str(given["quant_type"]):
            return 0.5 + 2 * DTYPE_BYTES[dtype] / TORCHAO_GROUP
        case "torchao":
            return 1 + per_row
        case "sdnq":
            return _sdnq_bytes(quantisation, shape, dtype)
        case "quanto":
            bits = _bits(given["weights_dtype"])
            return bits / 8 + (2 * DTYPE_BYTES[dtype] / QUANTO_GROUP if bits < 8 else per_row)
        case _:
            return DTYPE_BYTES[dtype]


def _sdnq_bytes(quantisation: Quantisation, shape: tuple[int, ...], dtype: DType) -> float:
    """Returns the bytes with a scale for each group, and for the unsigned types a zero point; the
    default group is of 2 to the power of the bits plus 2. SVDQuant keeps two thin matrices in
    addition."""
    given = quantisation.arguments
    kind = str(given["weights_dtype"])
    bits = _bits(kind)
    group = int(str(given.get("group_size", 0))) or 2 ** (bits + 2)
    scales = 2 if kind.startswith(("uint", "ufp")) or kind.endswith("fnu") else 1
    scale_bytes = FLOAT32_BYTES if given.get("dequantize_fp32", True) else 2
    rank = int(str(given.get("svd_rank", 32))) if "use_svd" in given else 0
    beside_bytes = rank * sum(shape) * DTYPE_BYTES[dtype] / prod(shape)
    return bits / 8 + beside_bytes + (scales * scale_bytes / group if group > 0 else 0)


def _bits(kind: object) -> int:
    """Returns the bits in a name, which come first: `uint4` gives 4."""
    found = re.search(r"\d+", str(kind))
    return int(found[0]) if found else {"bf": 16}.get(str(kind)[:2], 1)
