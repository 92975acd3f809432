"""Plans a step's LoRAs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from app.dialect.block_scales import UnetShape, mistakes_in
from app.dialect.document import LoraBlock
from app.dialect.files import (
    FORMATS,
    PICKLE_SUFFIXES,
    beginning_of,
    can_be_path,
    config_of,
    format_of,
    is_plain,
    path_from,
)
from app.dialect.fingerprint import WEIGHTS, missing_end, tensor_shapes
from app.dialect.installed.lora_components import lora_components
from app.dialect.installed.signatures import base_names
from app.dialect.model_kinds import Kind
from app.dialect.plan_sources import ComponentBlock, LoraSource, ModelSource, parameter_of
from app.dialect.references import Path as Place
from app.errors import nearest
from app.models.adapters import USUAL_LORA, lora_file
from app.models.hub import find_in_folders, folder_of, is_repository
from app.models.kind_folders import NotOne, find_known, known_instead_of_hub
from app.models.lora_family import OF_TRANSFORMERS, family_of
from app.models.lycoris import UnfitLora, check_fits
from app.models.made_for import MadeFor, Unfit, check_made_for, of_file, of_folder, of_shapes
from app.planning.single_files import is_outside
from app.planning.values import ValueReader
from app.settings import PathSettings
from app.stamps import FileStamp, stamp_of

UNET_MIXINS = {"StableDiffusionLoraLoaderMixin", "StableDiffusionXLLoraLoaderMixin"}
"""Base classes of the pipelines that have a UNet and take LoRAs."""
MAX_LISTED = 12


class SourceOf(Protocol):
    """Resolves a block's model; None where it has noted a problem."""

    def __call__(self, loading: dict[str, Any], at: Place) -> ModelSource | None: ...


def read_loras(
    blocks: Sequence[LoraBlock],
    pipeline_class: str,
    unet: UnetShape | None,
    denoiser: MadeFor | None,
    offload: str | None,
    at: Place,
    source_of: SourceOf,
    reader: ValueReader,
    paths: PathSettings,
) -> tuple[LoraSource, ...]:
    """Returns the valid LoRAs; problems of the others are noted. `unet` and `denoiser` are the
    model's, None where they are not known; `offload` is the document's."""
    _check_names(blocks, at, reader)
    built = [
        _lora(block, index, (*at, index), source_of, reader, paths)
        for index, block in enumerate(blocks)
    ]
    short = pipeline_class.rpartition(".")[2]
    for index, block in enumerate(blocks):
        for wrong in mistakes_in(block.scale, lora_components(short), unet):
            reader.note((*at, index, "scale", *wrong.path), wrong.message, wrong.hint)
    bases = base_names(short)
    has_unet = bool(UNET_MIXINS & bases)
    for index, lora in enumerate(built):
        file = None if lora is None else _file_of(lora)
        where = (*at, index, "model_name")
        if file is None or not _is_whole(file, where, reader):
            continue
        if "DiffusionPipeline" not in bases:
            continue
        misfit = _misfit(file, stamp_of(file), short, denoiser, has_unet=has_unet, offload=offload)
        if misfit is not None:
            reader.note(where, misfit.message, misfit.hint)
    return tuple(lora for lora in built if lora is not None)


def _check_names(blocks: Sequence[LoraBlock], at: Place, reader: ValueReader) -> None:
    """Notes names that clash or hold a dot: adapters become modules of these names."""
    seen: set[str] = set()
    for index, name in enumerate(block.adapter_name for block in blocks):
        where = (*at, index, "adapter_name")
        if name and "." in name:
            reader.note(where, f"'{name}' has a dot, which an adapter's name cannot have.")
        if name in seen:
            reader.note(where, f"Two adapters are called '{name}'.", "Each has its own name.")
        if name:
            seen.add(name)


def _lora(
    lora: LoraBlock,
    index: int,
    at: Place,
    source_of: SourceOf,
    reader: ValueReader,
    paths: PathSettings,
) -> LoraSource | None:
    if not lora.model_name:
        return None
    is_one_name = lora.weight_name is None and not lora.subfolder and lora.revision is None
    noted = len(reader.problems)
    found: tuple[ModelSource, str | None] | None = None
    if is_one_name:
        found = by_bare_name(lora.model_name, "loras", at, reader, paths)
    if found is None and len(reader.problems) == noted:
        found = _in_folder(lora, at, source_of, reader)
    if found is None:
        return None
    source, weight_name = found
    return LoraSource(
        source=source,
        weight_name=weight_name,
        adapter_name=lora.adapter_name or f"lora_{index}",
        scale=lora.scale,
    )


def by_bare_name(
    named: str, kind: Kind, at: Place, reader: ValueReader, paths: PathSettings
) -> tuple[ModelSource, str] | None:
    """Returns the folder and the file of the adapter of this bare name; None for a path and for a
    model of the hub, and, with the problem noted, where there is none or several."""
    if not can_be_path(reader.folder / named) or path_from(reader.folder, named).exists():
        return None
    folder, _ = folder_and_file(named)
    repositories = [each for each in (named, folder) if is_repository(each)]
    if any(find_in_folders(each, paths.models) is not None for each in repositories):
        return None
    find = known_instead_of_hub if repositories else find_known
    where = (*at, "model_name")
    try:
        known = find(named, (kind,), paths)
    except NotOne as error:
        reader.note(where, error.message, error.hint)
        return None
    if known is None:
        return None
    if is_outside(known.path, paths, named, where, reader):
        return None
    if known.path.suffix != WEIGHTS and not (kind == "embeddings" and paths.allow_pickles):
        reader.note(where, f"'{known.name}' is not a safetensors file.", "Take one of that format.")
        return None
    return ModelSource(model=named, folder=str(known.path.parent.resolve())), known.path.name


def _in_folder(
    lora: LoraBlock, at: Place, source_of: SourceOf, reader: ValueReader
) -> tuple[ModelSource, str | None] | None:
    """Returns the LoRA in a folder or a repository; None where a problem is noted."""
    loading, named = lora.model_dump(exclude={"weight_name"}), lora.weight_name
    if named is None:
        loading["model_name"], named = folder_and_file(loading["model_name"])
    weight_name = None
    if named is not None:
        weight_name = safetensors(named, at, reader)
        if weight_name is None:
            return None
    source = source_of(loading, at)
    if source is None or not is_one_there(source, weight_name, USUAL_LORA, at, reader):
        return None
    return source, weight_name


def component_folder(
    name: str, model: ModelSource | None, block: ComponentBlock | None
) -> Path | None:
    """Returns the local folder of a component, which need not exist; None where unknown. `block` is
    the document's own for it."""
    source = model if block is None else block.source
    if source is None or source.file:
        return None
    folder = folder_of(source)
    if folder is None:
        return None
    return folder / (name if block is None else source.subfolder)


def unet_shape(model: ModelSource | None, block: ComponentBlock | None) -> UnetShape | None:
    """Returns the shape of the step's UNet; None where it is not known here."""
    folder = component_folder("unet", model, block)
    return None if folder is None else UnetShape.of(config_of(folder))


def denoiser_of(model: ModelSource | None, block: ComponentBlock | None) -> MadeFor | None:
    """Returns what the model's UNet, or the component of a block of the document, attends to; None
    where it is not known here."""
    source = model if block is None else block.source
    if source is not None and source.file and source.folder is not None:
        return of_file(Path(source.folder) / source.file)
    folder = component_folder("unet", model, block)
    return None if source is None or folder is None else of_folder(source.short_name, folder)


def check_controlnet(
    name: str,
    block: ComponentBlock | None,
    denoiser: MadeFor | None,
    at: Place,
    reader: ValueReader,
) -> None:
    """Notes a ControlNet (`name` is the component's) that was made for another family than the
    step's model."""
    if denoiser is None or block is None or parameter_of(name) != "controlnet":
        return
    made_for = denoiser_of(None, block)
    if made_for is None:
        return
    try:
        check_made_for("ControlNet", made_for, denoiser)
    except Unfit as error:
        reader.note(at, error.message, error.hint)


def _file_of(lora: LoraSource) -> Path | None:
    """Returns the local file of a LoRA; None where it is not there or not the only one."""
    if lora.source.folder is None:
        return None
    return lora_file(Path(lora.source.folder) / lora.source.subfolder, lora.weight_name)


def _is_whole(file: Path, at: Place, reader: ValueReader) -> bool:
    """Returns False, and notes it, for a file that is no safetensors file, or lacks its end."""
    message = ""
    try:
        if format_of(file) != "safetensors":
            message = f"'{file.name}' is not a safetensors file: it {beginning_of(file)}."
        else:
            message = f"'{file.name}' {missing}." if (missing := missing_end(file)) else ""
    except OSError as error:
        message = f"'{file.name}' cannot be read: {error.strerror}."
    except ValueError as error:
        # It names the file.
        message = f"A LoRA cannot be read: {error}."
    if message:
        reader.note(at, message, "Download it again, or take another file.")
    return not message


# A file has thousands of names, and each request plans anew.
@functools.lru_cache(maxsize=64)
def _misfit(
    file: Path,
    _stamp: FileStamp,
    pipeline_class: str,
    denoiser: MadeFor | None,
    *,
    has_unet: bool,
    offload: str | None,
) -> UnfitLora | Unfit | None:
    """Returns the error of a file that cannot be applied as a whole, or was made for another
    family; None for one that fits."""
    try:
        shapes = {name: shape for name, (_, shape) in tensor_shapes(file).items()}
        check_fits(file.name, shapes, has_unet=has_unet, offload=offload)
        if has_unet and (family := family_of(shapes)) in OF_TRANSFORMERS:
            raise Unfit(
                f"The LoRA '{file.name}' was made for {family} by its tensors; the"
                f" {pipeline_class} has a UNet, which takes none of them.",
                hint="Take a LoRA that was made for this pipeline's models.",
            )
        if has_unet and denoiser is not None:
            check_made_for("LoRA", of_shapes(file.name, shapes, is_lora=True), denoiser)
    except (UnfitLora, Unfit) as error:
        # Without the frames, which hold the names.
        return error.with_traceback(None)
    return None


def folder_and_file(model: Any) -> tuple[Any, str | None]:
    """Returns folder and file of an adapter whose model is named by its file."""
    if not isinstance(model, str) or Path(model).suffix.lower() not in FORMATS:
        return model, None
    path = PurePosixPath(model.replace("\\", "/"))
    folder = str(path.parent)
    return "./" if folder == "." else folder, path.name


def is_one_there(
    source: ModelSource, weight_name: str | None, usual: str, at: Place, reader: ValueReader
) -> bool:
    """Returns False, and notes it, if the file is not in the local folder, or none is named and
    there are several: diffusers would take any."""
    if weight_name is not None:
        return is_there(source, weight_name, at, reader)
    if source.folder is None:
        return True
    there = sorted(
        each.name for each in (Path(source.folder) / source.subfolder).glob("*.safetensors")
    )
    if len(there) <= 1 or usual in there:
        return True
    named = ", ".join(there[:MAX_LISTED]) + (", …" if len(there) > MAX_LISTED else "")
    message = f"'{source.model}' has {len(there)} files, and none of them is named."
    reader.note((*at, "model_name"), message, f"Name one as 'weight_name': {named}.")
    return False


def safetensors(named: str, at: Place, reader: ValueReader) -> str | None:
    """Returns the safetensors file to read: for a pickle's name the one beside it."""
    stem, dot, kind = named.replace("\\", "/").rpartition(".")
    name = f"{stem}.safetensors"
    if f"{dot}{kind}" not in {*PICKLE_SUFFIXES, WEIGHTS} or not is_plain(name):
        reader.note((*at, "weight_name"), "A plain name ending in .safetensors is needed.")
        return None
    return name


def is_there(source: ModelSource, weight_name: str, at: Place, reader: ValueReader) -> bool:
    """Returns False, and notes it, if the model's local folder lacks the file. The hub is not
    asked."""
    if source.folder is None:
        return True
    folder = Path(source.folder) / source.subfolder
    if (folder / weight_name).is_file():
        return True
    there = [path.name for path in folder.glob("*.safetensors")]
    message = f"'{source.model}' has no {weight_name}."
    reader.note((*at, "weight_name"), message, nearest(weight_name, there))
    return False
