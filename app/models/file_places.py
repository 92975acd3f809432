"""Finds a single file, and the configuration that it lacks."""

from __future__ import annotations

import functools
from pathlib import Path, PurePosixPath

from app.dialect.files import PICKLE_SUFFIXES, config_of, safe_name
from app.dialect.plan import PipelineStep
from app.dialect.plan_sources import ModelSource
from app.errors import LoadError, nearest
from app.models import original_vae
from app.models.component_files import unreadable
from app.models.family_configs import (
    Configuration,
    configuration_of,
    configuration_of_controlnet,
    written,
)
from app.models.hub import find_in_folders, listed_files
from app.models.single_files import (
    HOW_TO_ALLOW,
    ReadPickle,
    file_shapes,
    published_model,
    tells_model,
)
from app.models.specs import TEXTS, Find, NotHere, Selection
from app.stamps import FileStamp, stamp_of


def single_file(source: ModelSource, find: Find) -> Path:
    """Returns the path of the single file. Raises LoadError where its model has none of this
    name."""
    if source.folder is not None:
        return Path(source.folder) / source.file
    folder = find(source, Selection(files=(source.file,)))
    beside = str(PurePosixPath(source.file).with_suffix(".safetensors"))
    there = [beside] if (folder / beside).is_file() else []
    path = folder / (safe_name(source.file, there, allow_pickles=True) or source.file)
    if not path.is_file():
        listed = listed_files(source.model, source.revision)
        stem = Path(source.file).stem
        pickles = [f for f in listed if Path(f).stem == stem]
        pickles = [f for f in pickles if Path(f).suffix.lower() in PICKLE_SUFFIXES]
        raise LoadError(
            f"'{source.model}' has no file '{source.file}'"
            + (f", only '{pickles[0]}', which may hold code." if pickles else "."),
            hint=HOW_TO_ALLOW if pickles else nearest(source.file, listed),
        )
    return path


def described_by(
    find: Find,
    read_pickle: ReadPickle,
    file: Path,
    config: ModelSource | None,
    step: PipelineStep,
    own: Path | None = None,
    unet: Path | None = None,
) -> Path:
    """Returns the folder with the configuration of the component, or pipeline, in this file.

    The step names the folders where the published model is looked for first; then a file of a
    family known here needs no other. `own`, the same component's folder in the pipeline's model, is
    used where the tensors do not tell the model, and for an autoencoder of its shapes, whose scale
    the families differ in. `unet` is the folder of its U-Net, which a ControlNet is a copy of.
    Raises LoadError.
    """
    if config is not None:
        return find(config, TEXTS) / config.subfolder
    try:
        shapes = file_shapes(file, read_pickle)
        if own is not None and (
            not tells_model(shapes) or original_vae.fits(config_of(own), shapes)
        ):
            return own
        known, found = None, None
        if step.config_cache:
            of_unet = {} if unet is None else config_of(unet)
            known = configuration_of_controlnet(shapes, of_unet)
        published = published_model(shapes)
        if known is None:
            found = find_in_folders(published.model, map(Path, step.model_folders))
        if known is None and found is None and step.config_cache:
            known = _known(file, stamp_of(file), read_pickle)
    except (ValueError, OSError) as error:
        raise unreadable(file.name, error) from error
    if known is not None:
        return _written(known, Path(step.config_cache), file)
    source = ModelSource(model=published.model, folder=str(found) if found else None)
    try:
        return find(source, TEXTS) / published.subfolder
    except NotHere:
        raise
    except LoadError as error:
        raise LoadError(
            f"'{file.name}' has no configuration of its own; by its tensors it is a"
            f" '{published.model}'. {error.message}",
            hint="Name another model, or a folder with its configuration, as 'config' beside"
            " 'from_single_file'.",
            detail=error.detail,
        ) from error


@functools.lru_cache(maxsize=32)
def _known(file: Path, _stamp: FileStamp, read_pickle: ReadPickle) -> Configuration | None:
    """Returns the included configuration of this file, made once while the file is unchanged."""
    return configuration_of(file_shapes(file, read_pickle))


def _written(configuration: Configuration, cache: Path, file: Path) -> Path:
    try:
        return written(configuration, cache)
    except OSError as error:
        raise LoadError(
            f"The configuration of '{file.name}' cannot be written to the results folder.",
            hint=f"{error}.",
        ) from error
