"""Loads components from one file, as diffusers' `from_single_file` does.

`app/models/single_files.py` resolves the file and its configuration before.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import safetensors.torch
from diffusers.loaders import single_file
from diffusers.loaders.single_file_model import FromOriginalModelMixin
from diffusers.loaders.single_file_utils import (
    SingleFileComponentError,
    load_single_file_checkpoint,
)
from diffusers.models.model_loading_utils import load_gguf_checkpoint

from app.dialect.files import format_of
from app.dialect.fingerprint import identify_file
from app.errors import LoadError
from app.models.single_files import Shapes


def read_pickle(file: Path) -> Shapes:
    """Returns the shapes of the tensors in a pickle file, whose code torch does not run.

    Raises ValueError or OSError if it cannot be read.
    """
    return _read_pickle(file, identify_file(file).content)


@cache
def _read_pickle(file: Path, _stamp: str) -> Shapes:
    checkpoint = load_single_file_checkpoint(str(file), local_files_only=True)
    return {name: tuple(tensor.shape) for name, tensor in checkpoint.items()}


def _checkpoint(file: Path) -> dict[str, Any]:
    """Returns the tensors of the file, whose format its content tells."""
    match format_of(file):
        case "safetensors":
            return safetensors.torch.load_file(file)
        case "GGUF":
            return dict(load_gguf_checkpoint(str(file)))
    return dict(load_single_file_checkpoint(str(file), local_files_only=True))


def load_component(
    file: Path, folder: Path, name: str, component_class: type[Any], **arguments: Any
) -> Any:
    """Returns the component of this name from this file, with the configuration in the folder."""
    if issubclass(component_class, FromOriginalModelMixin):
        # diffusers tells formats by suffixes, in lower case only, and takes others for pickles.
        usual = file.suffix == file.suffix.lower()
        source = str(file) if usual else _checkpoint(file)
        return component_class.from_single_file(source, config=str(folder), **arguments)
    # Text encoders have no such method: diffusers extracts them from a whole checkpoint when it
    # loads a pipeline, with the function called here.
    try:
        return single_file.load_single_file_sub_model(
            library_name=component_class.__module__.partition(".")[0],
            class_name=component_class.__name__,
            name=folder.name,
            checkpoint=_checkpoint(file),
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
