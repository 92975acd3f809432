"""Components from one file, loaded as diffusers' `from_single_file` loads them.

Which file that is and whose configuration it has is resolved before
(`app/workflow/models/single_files.py`).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import diffusers
from diffusers.loaders import single_file
from diffusers.loaders.single_file_model import FromOriginalModelMixin
from diffusers.loaders.single_file_utils import (
    SingleFileComponentError,
    load_single_file_checkpoint,
)

from app.errors import LoadError
from app.workflow.fingerprint import identify_file
from app.workflow.models.single_files import Shapes


def read_pickle(file: Path) -> Shapes:
    """The shapes of the tensors in a file that may hold code; torch reads the tensors alone.

    Raises ValueError or OSError where it cannot be read.
    """
    return _read_pickle(file, identify_file(file).content)


@cache
def _read_pickle(file: Path, _stamp: str) -> Shapes:
    checkpoint = load_single_file_checkpoint(str(file), local_files_only=True)
    return {name: tuple(tensor.shape) for name, tensor in checkpoint.items()}


def load_component(
    file: Path, folder: Path, name: str, component_class: type[Any], **arguments: Any
) -> Any:
    """The component of this name from this file, with the configuration in this folder."""
    if issubclass(component_class, FromOriginalModelMixin):
        return component_class.from_single_file(str(file), config=str(folder), **arguments)
    # Text encoders have no such method of their own: diffusers takes them out of a whole
    # checkpoint when it loads its pipeline, by the function that is called here.
    try:
        return single_file.load_single_file_sub_model(
            library_name=component_class.__module__.partition(".")[0],
            class_name=component_class.__name__,
            name=folder.name,
            checkpoint=load_single_file_checkpoint(str(file), local_files_only=True),
            pipelines=diffusers.pipelines,
            is_pipeline_module=False,
            cached_model_config_path=str(folder.parent),
            local_files_only=True,
            torch_dtype=arguments["torch_dtype"],
        )
    except SingleFileComponentError as error:
        raise LoadError(
            f"'{file.name}' has no {name}.",
            hint=f"Give the {name} as a block of its own, or leave it out with null.",
        ) from error
