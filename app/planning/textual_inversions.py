"""Plans a step's textual inversions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from app.dialect.document import PipelineBlock, TextualInversionBlock
from app.dialect.files import PICKLE_SUFFIXES, config_of, is_plain, read_object, safe_name
from app.dialect.fingerprint import WEIGHTS, tensor_shapes
from app.dialect.installed.signatures import base_names
from app.dialect.plan_sources import ComponentBlock, ModelSource, TextualInversionSource
from app.dialect.references import Path as Place
from app.models.family_configs import encoder_configs
from app.models.single_files import HOW_TO_ALLOW
from app.models.textual_inversions import (
    OF_ENCODERS,
    USUAL,
    Inversion,
    UnfitInversion,
    inversion_of,
    tensors_by_encoder,
)
from app.planning.adapters import (
    SourceOf,
    by_bare_name,
    component_folder,
    folder_and_file,
    is_one_there,
    is_there,
)
from app.planning.modular import is_modular
from app.planning.values import ValueReader
from app.settings import PathSettings

MIXIN = "TextualInversionLoaderMixin"
"""Base class of the pipelines that take one."""
CLIP = ("clip_text_model", "clip")
"""Types of the text encoders that take one, in their configurations."""


def read_inversions(
    block: PipelineBlock,
    pipeline_class: str,
    model: ModelSource | None,
    components: Mapping[str, ComponentBlock | None],
    at: Place,
    source_of: SourceOf,
    reader: ValueReader,
    *,
    paths: PathSettings,
) -> tuple[TextualInversionSource, ...]:
    """Returns the valid textual inversions; problems of the others are noted.

    Local files are read, and compared with the model's text encoders where those are local.
    """
    blocks = block.textual_inversions
    if not blocks or not _takes_them(pipeline_class, at, reader):
        return ()
    encoders = _encoders(block, model, components)
    found = []
    for index, inversion in enumerate(blocks):
        where = (*at, index)
        source = _source(inversion, where, source_of, reader, paths)
        if source is not None:
            found.append((where, TextualInversionSource(source=source, token=inversion.token)))
    _check(found, encoders, reader)
    return tuple(source for _, source in found)


def _takes_them(pipeline_class: str, at: Place, reader: ValueReader) -> bool:
    """Returns False, and notes it, if pipelines of this class take no textual inversion."""
    short = pipeline_class.rpartition(".")[2]
    bases = base_names(short)
    if is_modular(pipeline_class) or ("DiffusionPipeline" in bases and MIXIN not in bases):
        hint = "Leave 'textual_inversions' out."
        reader.note(at, f"{short} takes no textual inversion.", hint)
        return False
    return True


def _source(
    block: TextualInversionBlock,
    at: Place,
    source_of: SourceOf,
    reader: ValueReader,
    paths: PathSettings,
) -> ModelSource | None:
    """Returns the file of an inversion; None for none, and where it has noted a problem."""
    allow_pickles, named = paths.allow_pickles, block.weight_name
    if not block.model_name:
        return None
    if named is None and not block.subfolder and block.revision is None:
        noted = len(reader.problems)
        known = by_bare_name(block.model_name, "embeddings", at, reader, paths)
        if known is not None:
            return known[0].model_copy(update={"file": known[1]})
        if len(reader.problems) > noted:
            return None
    loading = block.model_dump(exclude={"weight_name", "token"})
    if named is None:
        loading["model_name"], named = folder_and_file(loading["model_name"])
    if named is not None:
        named = named.replace("\\", "/")
        if Path(named).suffix.lower() not in {*PICKLE_SUFFIXES, WEIGHTS} or not is_plain(named):
            reader.note((*at, "weight_name"), f"A plain name ending in {WEIGHTS} is needed.")
            return None
    source = source_of(loading, at)
    if source is None:
        return None
    if named is None:
        if not is_one_there(source, None, USUAL, at, reader):
            return None
        named = _unnamed(source)
    elif not _may_be_read(source, named, at, reader, allow_pickles=allow_pickles):
        return None
    if not allow_pickles:
        named = str(PurePosixPath(named).with_suffix(WEIGHTS))
    elif source.folder is not None:
        named = safe_name(named, _beside(source, named), allow_pickles=True) or named
    if not is_there(source, named, at, reader):
        return None
    file = str(PurePosixPath(source.subfolder, named))
    return source.model_copy(update={"file": file, "subfolder": ""})


def _unnamed(source: ModelSource) -> str:
    """Returns the only file of a local folder, else the usual one."""
    if source.folder is None:
        return USUAL
    there = [path.name for path in (Path(source.folder) / source.subfolder).glob(f"*{WEIGHTS}")]
    return there[0] if len(there) == 1 else USUAL


def _beside(source: ModelSource, named: str) -> list[str]:
    """Returns which of this file and the safetensors file beside it exist."""
    folder = Path(source.folder or "", source.subfolder)
    names = (named, str(PurePosixPath(named).with_suffix(WEIGHTS)))
    return [name for name in names if (folder / name).is_file()]


def _may_be_read(
    source: ModelSource, named: str, at: Place, reader: ValueReader, *, allow_pickles: bool
) -> bool:
    """Returns False, and notes it, for a local file that may hold code."""
    if allow_pickles or source.folder is None or named.endswith(WEIGHTS):
        return True
    if _beside(source, named) != [named]:
        return True
    at_name = (*at, "weight_name")
    reader.note(at_name, f"'{named}' may hold code and is not read.", HOW_TO_ALLOW)
    return False


# --- what is in the files ------------------------------------------------------------------------


class _Encoder(NamedTuple):
    """A text encoder of the step's model."""

    config: Mapping[str, Any]
    words: frozenset[str]
    """Those of its tokenizer, as far as they are known."""


def _encoders(
    block: PipelineBlock, model: ModelSource | None, components: Mapping[str, ComponentBlock | None]
) -> dict[str, _Encoder]:
    """Returns the local text encoders by name; empty where one is not known."""
    reused = {*block.reused_components, *block.configuration.reused_components}
    if reused & {*OF_ENCODERS}:
        return {}
    if model is not None and model.file and not {*OF_ENCODERS} & {*components}:
        return _in_checkpoint(model)
    found = {}
    for encoder in OF_ENCODERS:
        folder, tokenizer = (
            component_folder(name, model, components.get(name))
            for name in (encoder, encoder.replace("text_encoder", "tokenizer"))
        )
        if folder is None or tokenizer is None:
            return {}
        if block.from_pretrained_arguments.get(encoder, model) is not None:
            found[encoder] = _Encoder(config_of(folder), frozenset(_words_of(tokenizer)))
    return found


def _in_checkpoint(model: ModelSource) -> dict[str, _Encoder]:
    """Returns the text encoders of a local checkpoint in one file, as far as it tells."""
    if model.folder is None:
        return {}
    try:
        configs = encoder_configs(Path(model.folder) / model.file)
    except (OSError, ValueError):
        # The reason is told where the file is read.
        return {}
    return {name: _Encoder(config, frozenset()) for name, config in configs.items()}


def _check(
    found: Sequence[tuple[Place, TextualInversionSource]],
    encoders: Mapping[str, _Encoder],
    reader: ValueReader,
) -> None:
    """Notes files that are not for this model, and words that exist already."""
    widths: dict[str, int] = {}
    known: set[str] = set()
    for name, encoder in encoders.items():
        width = encoder.config.get("hidden_size")
        if encoder.config.get("model_type") in CLIP and isinstance(width, int):
            widths[name] = width
            known |= encoder.words
    seen: set[str] = set()
    for at, source in found:
        inversion = _read(source, at, reader)
        token = source.token if inversion is None else inversion.token
        if inversion is not None and widths:
            try:
                tensors_by_encoder(inversion, widths)
            except UnfitInversion as error:
                reader.note((*at, "model_name"), error.message, error.hint)
        if token is None:
            continue
        where, rename = (*at, "token"), "Give it another name with 'token'."
        if token in known:
            reader.note(where, f"'{token}' is a word that the model already knows.", rename)
        if token in seen:
            reader.note(where, f"Two textual inversions are called '{token}'.", rename)
        seen.add(token)


def _read(source: TextualInversionSource, at: Place, reader: ValueReader) -> Inversion | None:
    """Returns what is in a local safetensors file; None, with the problem noted, where it cannot
    be read, and None for other files."""
    folder, file = source.source.folder, source.source.file
    if folder is None or not file.endswith(WEIGHTS):
        return None
    at_model = (*at, "model_name")
    try:
        tensors = {name: shape for name, (_, shape) in tensor_shapes(Path(folder) / file).items()}
        return inversion_of(file, tensors, source.token)
    except UnfitInversion as error:
        reader.note(at_model, error.message, error.hint)
    except (OSError, ValueError) as error:
        reader.note(at_model, f"'{file}' cannot be read: {error}.")
    return None


def _words_of(tokenizer: Path) -> set[str]:
    """Returns the words of a CLIP tokenizer; empty where its files do not tell."""
    try:
        if (tokenizer / "vocab.json").is_file():
            return set(read_object(tokenizer / "vocab.json"))
        return set(read_object(tokenizer / "tokenizer.json")["model"]["vocab"])
    except (OSError, ValueError, KeyError, TypeError):
        return set()
