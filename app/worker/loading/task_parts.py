"""What a task's models are put together from, as parts like those of pipelines.

They get the same keys, so they lie in the same table: what two tasks need, or a task and a
pipeline, is held once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from transformers.models.auto.auto_factory import _get_model_class

from app.errors import LoadError, first_line
from app.worker.device import Device
from app.worker.loading.components import block_class, block_folder, known_part
from app.worker.loading.foreign import foreign_part
from app.worker.loading.parts import Part, TaskParts
from app.workflow.dtypes import task_dtype
from app.workflow.fingerprint import weight_files
from app.workflow.plan import TaskStep
from app.workflow.plan_settings import DType
from app.workflow.plan_sources import ComponentBlock


def find_task_parts(step: TaskStep, device: Device) -> TaskParts:
    """What the step computes with.

    Raises LoadError with a sentence.
    """
    dtype = task_dtype(step, accelerator=device.is_accelerator)
    return TaskParts(tuple(_part(name, block, dtype) for name, block in step.components.items()))


def _part(name: str, block: ComponentBlock, dtype: DType) -> Part:
    if block.is_foreign:
        return foreign_part(name, block)
    folder, found = block_folder(block), block_class(block)
    if not block.has_weights:
        # In whatever a model computes, its tokenizer is the same.
        return known_part(name, found, folder, "float32", block.source)
    if not weight_files(folder, block.source.variant):
        raise LoadError(
            f"'{block.source.model}' has no safetensors weights, and others are not loaded.",
            hint="Take a model that has, or convert this one.",
        )
    if found.__name__.startswith("AutoModel"):
        found = _model_class(found, folder, block)
    return known_part(name, found, folder, dtype, block.source)


def _model_class(automatic: type[Any], folder: Path, block: ComponentBlock) -> type[Any]:
    """The class that stands behind an Auto class for this model: the one in its key."""
    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        found: type[Any] = _get_model_class(config, automatic._model_mapping)
    except Exception as error:
        # An unknown model, code that would come with it, a broken file: all kinds are raised.
        raise LoadError(
            f"'{block.source.model}' is no model that transformers knows for this task"
            f" ({automatic.__name__}).",
            hint=f"{type(error).__name__}: {first_line(error)}",
        ) from error
    return found
