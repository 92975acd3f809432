"""In what number format a document has weights loaded."""

from __future__ import annotations

from typing import Any

from app.workflow.installed import names
from app.workflow.plan_settings import DType
from app.workflow.plan_sources import OTHERS
from app.workflow.planning.values import ValueReader
from app.workflow.references import Path as Place
from app.workflow.references import place

AUTO = ("auto", "{auto}")
AUTO_WARNING = (
    "{}: 'auto' is float32 for a pipeline, as in diffusers. Name the dtype: torch.bfloat16, say."
)
FLOAT16_WARNING = (
    "float16 is meant for accelerators: on a CPU it is slow and some operations lack it."
)


def read_dtypes(loading: dict[str, Any], at: Place, reader: ValueReader) -> dict[str, DType]:
    """The dtype of each component of a pipeline that is named, and under OTHERS that of all others:
    float32 where the document does not say, as in diffusers."""
    key = dtype_key(loading)
    wanted = loading.get(key)
    if wanted in AUTO:
        reader.warnings.append(AUTO_WARNING.format(place((*at, key))))
        wanted = None
    each = wanted if isinstance(wanted, dict) else {OTHERS: wanted}
    found: dict[str, DType] = {OTHERS: "float32"}
    for name, dtype in each.items():
        if dtype is not None:
            where = (*at, key, name) if each is wanted else (*at, key)
            found[name] = _dtype(dtype, where, reader)
    return found


def component_dtype(
    loading: dict[str, Any], pipelines: DType, at: Place, reader: ValueReader
) -> DType:
    """The dtype of a component with a block of its own; its `auto` is that of the pipeline."""
    key = dtype_key(loading)
    named = loading.get(key)
    if named in AUTO:
        return pipelines
    return "float32" if named is None else _dtype(named, (*at, key), reader)


def dtype_key(loading: dict[str, Any]) -> str:
    """Under which of its two names these loading arguments have the dtype."""
    return "dtype" if "dtype" in loading and "torch_dtype" not in loading else "torch_dtype"


def _dtype(named: Any, at: Place, reader: ValueReader) -> DType:
    try:
        dtype = names.dtype_name(str(named))
    except names.UnknownName as error:
        reader.note(at, str(error))
        return "float32"
    if dtype == "float16":
        reader.warnings.append(FLOAT16_WARNING)
    return dtype
