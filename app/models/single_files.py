"""Weights in a single file: infers the published model with their configuration.

Such a file has tensors and no configuration. diffusers infers by names and shapes of the tensors
which published model it is of. Its own function is called, extracted from its source: importing it
would import torch.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from app.dialect.files import format_of
from app.dialect.fingerprint import tensor_shapes
from app.dialect.installed.signatures import package_root
from app.stamps import FileStamp, stamp_of

HOW_TO_ALLOW = "Put a safetensors file of its name beside it, or start with --allow-pickles."
STABLE_DIFFUSION = (
    "model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "encoder.down.",
)  # fmt: skip
"""Prefixes of the tensors in Stable Diffusion's checkpoints."""
UNET = "model.diffusion_model."
"""Prefix of the tensors of its U-Net, in a file of its own too."""
TOLD_BY = ("CHECKPOINT_KEY_NAMES", "DIFFUSERS_DEFAULT_PIPELINE_PATHS", "infer_diffusers_model_type")
"""The parts of diffusers' source that infer the published model."""

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of each tensor of a file, by name."""
ReadPickle = Callable[[Path], Shapes]
"""Reads the shapes of a file that may hold code, which only torch can."""


class Published(NamedTuple):
    """A published model with the configuration of a single file."""

    model: str
    subfolder: str


class _Tensor(NamedTuple):
    """Stands for a tensor of which only the shape is needed."""

    shape: tuple[int, ...]


def file_shapes(file: Path, read_pickle: ReadPickle) -> Shapes:
    """Returns the shapes of all tensors of the file. Raises ValueError or OSError where it cannot
    be read, and exceptions of `read_pickle`."""
    if format_of(file) == "pickle":
        return read_pickle(file)
    return _safe_shapes(file, stamp_of(file))


def safetensors_shapes(file: Path) -> Shapes:
    """Returns the shapes of all tensors of the file. Raises ValueError for another format, and
    OSError where it cannot be read."""
    if format_of(file) != "safetensors":
        raise ValueError(f"'{file.name}' is no safetensors file")
    return _safe_shapes(file, stamp_of(file))


@functools.lru_cache(maxsize=32)
def _safe_shapes(file: Path, _stamp: FileStamp) -> Shapes:
    if format_of(file) == "GGUF":
        from gguf import GGUFReader

        return {tensor.name: tuple(tensor.data.shape) for tensor in GGUFReader(file).tensors}
    return {name: shape for name, (_, shape) in tensor_shapes(file).items()}


def published_model(shapes: Shapes) -> Published:
    """Returns the published model that diffusers infers from these tensors. Raises ValueError where
    it cannot tell."""
    found = _source()["DIFFUSERS_DEFAULT_PIPELINE_PATHS"][model_type(shapes)]
    return Published(str(found["pretrained_model_name_or_path"]), str(found.get("subfolder") or ""))


def is_recognised(shapes: Shapes) -> bool:
    """Returns True if diffusers recognises the tensors; unknown ones it takes for a Stable
    Diffusion 1. Raises ValueError where it cannot tell."""
    return model_type(shapes) != "v1" or any(name.startswith(STABLE_DIFFUSION) for name in shapes)


def tells_model(shapes: Shapes) -> bool:
    """Returns False for tensors that may be of several models: those with diffusers' names, and
    those of Stable Diffusion's U-Net alone, unless diffusers tells their version. Raises ValueError
    where it cannot."""
    is_unet = all(name.startswith(UNET) for name in shapes)
    return is_recognised(shapes) and not (is_unet and model_type(shapes) == "v1")


class Family(NamedTuple):
    """Models that the same pipelines take."""

    name: str
    pipelines: str
    """Prefix of the names of their pipelines."""
    kinds: tuple[str, ...]
    """Prefixes of diffusers' words for their checkpoints."""


FAMILIES = (
    Family("Stable Diffusion XL", "StableDiffusionXL", ("xl_", "playground")),
    Family("Stable Diffusion 3", "StableDiffusion3", ("sd3",)),
    Family("Stable Diffusion 1 or 2", "StableDiffusion", ("v1", "v2", "inpainting", "instruct")),
    Family("FLUX.2", "Flux2", ("flux-2",)),
    Family("FLUX.1", "Flux", ("flux-dev", "flux-schnell", "flux-fill", "flux-depth")),
)
"""In the order in which prefixes are compared."""


def family_of_pipeline(class_name: str) -> Family | None:
    """Returns the family whose models this pipeline takes; None for others."""
    return next((each for each in FAMILIES if class_name.startswith(each.pipelines)), None)


def family_of_checkpoint(file: Path) -> Family | None:
    """Returns the family of the pipeline in this safetensors file, by its tensors; None where they
    do not tell. Raises ValueError or OSError where it cannot be read."""
    return _family_of(file, stamp_of(file))


@functools.lru_cache(maxsize=32)
def _family_of(file: Path, stamp: FileStamp) -> Family | None:
    shapes = _safe_shapes(file, stamp)
    if not is_recognised(shapes):
        return None
    kind = model_type(shapes)
    return next((each for each in FAMILIES if kind.startswith(each.kinds)), None)


def model_type(shapes: Shapes) -> str:
    """Returns diffusers' word for the model of these tensors (`xl_base`); `v1` for unknown ones.
    Raises ValueError where it cannot tell."""
    tensors = {name: _Tensor(shape) for name, shape in shapes.items()}
    try:
        return str(_source()["infer_diffusers_model_type"](tensors))
    except LookupError as error:
        raise ValueError(
            f"its tensors are those of no published model: {error} is amiss"
        ) from error


@functools.cache
def _source() -> dict[str, Any]:
    """Returns the names of TOLD_BY, as the installed diffusers defines them."""
    file = package_root("diffusers") / "loaders" / "single_file_utils.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    body: list[ast.stmt] = []
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.Assign([ast.Name(name)]) if name in TOLD_BY:
                body.append(node)
    defined: dict[str, Any] = {}
    exec(compile(ast.Module(body, []), str(file), "exec"), defined)
    return defined
