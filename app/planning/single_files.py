"""Weights in one file, named by `from_single_file`: local, or on the hub.

A file is safetensors or GGUF: neither holds code. The name of one that may hold code (`.ckpt`,
`.bin`) stands for the safetensors file of that name beside it; the file itself is read only where
the operator allows it, and then without running its code.
"""

from __future__ import annotations

import re
from glob import escape
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import JsonValue

from app.dialect.files import (
    FORMATS,
    GGUF_SUFFIX,
    PICKLE_SUFFIXES,
    SAFE_SUFFIXES,
    beginning_of,
    can_be_path,
    format_of,
    path_from,
    safe_name,
)
from app.dialect.fingerprint import missing_end
from app.dialect.installed.signatures import public_classes, single_file_classes
from app.dialect.model_kinds import Kind
from app.dialect.plan_settings import DType
from app.dialect.plan_sources import ModelSource
from app.dialect.quantisation import GGUF, Quantisation
from app.dialect.references import Path as Place
from app.errors import nearest, shortened
from app.mistakes import shown
from app.models.hub import is_repository
from app.models.kind_folders import NotOne, find_known, is_bare, roots
from app.models.single_files import HOW_TO_ALLOW, family_of_checkpoint, family_of_pipeline
from app.planning.values import ValueReader
from app.settings import PathSettings

HOSTS = ("huggingface.co", "hf.co", "www.huggingface.co")
"""Hosts of the hub, whose library fetches the file from its configured endpoint."""
ON_THE_HUB = re.compile(
    r"/(?P<model>[^/]+/[^/]+)/(?:blob|resolve|raw)/(?P<revision>[^/]+)/(?P<file>.+)"
)
OF_ANY_MODEL = {
    "DiffusionPipeline": "Pipeline",
    "AutoPipelineForText2Image": "Pipeline",
    "AutoPipelineForImage2Image": "Img2ImgPipeline",
    "AutoPipelineForInpainting": "InpaintPipeline",
}
"""Classes for any model, and how the names of those for one family end."""
PAGE_OF_MODEL = re.compile(rf"https?://(?:{'|'.join(map(re.escape, HOSTS))})/([^/\s]+/[^/\s?#]+)")


def single_file_quantisation(
    source: ModelSource,
    dtype: DType,
    quantisation: Quantisation | None,
    at: Place,
    reader: ValueReader,
) -> Quantisation | None:
    """Returns the quantisation, which must be GGUF's for a GGUF file and for no other.

    Without one a GGUF file computes in the component's dtype. `at` is the quantisation's place.
    """
    is_gguf = source.file.lower().endswith(GGUF_SUFFIX)
    asked = quantisation is not None and quantisation.kind == "gguf"
    if is_gguf and quantisation is None:
        reader.needs(GGUF, f"'{source.short_name}'", at)
        given: dict[str, JsonValue] = {"compute_dtype": dtype} if dtype != "float32" else {}
        return Quantisation(kind="gguf", arguments=given)
    if is_gguf != asked and quantisation is not None:
        reader.note(
            at,
            f"'{source.short_name}' is quantised as a GGUF file is, and stays so."
            if is_gguf
            else "GGUFQuantizationConfig is for weights in a .gguf file.",
            "Use GGUFQuantizationConfig, or leave it out."
            if is_gguf
            else "Name one as 'from_single_file', or take another quantiser.",
        )
    return quantisation


def check_single_file_class(name: str, at: Place, reader: ValueReader) -> None:
    """Notes a class whose weights diffusers does not load from a single file."""
    bare = name.rpartition(".")[2]
    known = single_file_classes()
    if bare not in known:
        hint = nearest(bare, known) or f"It does so for {', '.join(sorted(known)[:4])} and others."
        reader.note(at, f"diffusers loads no {bare} from a single file.", hint)


def class_of_checkpoint(pipeline_class: str, source: ModelSource, *, controlnet: bool) -> str:
    """Returns the class for a whole pipeline's file, where the document leaves it to the model, as
    diffusers' classes for any model do; else the document's.

    Those of a ControlNet are chosen where the document has one.
    """
    ending = OF_ANY_MODEL.get(pipeline_class.rpartition(".")[2])
    if ending is None or source.folder is None:
        return pipeline_class
    try:
        family = family_of_checkpoint(Path(source.folder) / source.file)
    except (ValueError, OSError):
        # The reason is told where the file is read.
        return pipeline_class
    if family is None:
        return pipeline_class
    found = f"{family.pipelines}{'ControlNet' * controlnet}{ending}"
    return f"diffusers.{found}" if found in public_classes("diffusers") else pipeline_class


def check_checkpoint_family(
    pipeline_class: str, source: ModelSource, at: Place, reader: ValueReader
) -> None:
    """Notes a whole pipeline's file that is of another family than the pipeline's models."""
    bare = pipeline_class.rpartition(".")[2]
    needed = family_of_pipeline(bare)
    if needed is None or source.folder is None:
        return
    try:
        found = family_of_checkpoint(Path(source.folder) / source.file)
    except (ValueError, OSError):
        # The reason is told where the file is read.
        return
    if found is None or found == needed:
        return
    alike = found.pipelines + bare.removeprefix(needed.pipelines)
    fitting = alike if alike in public_classes("diffusers") else f"{found.pipelines}Pipeline"
    reader.note(
        at,
        f"'{source.short_name}' is a {found.name} model by its tensors; {bare} takes a"
        f" {needed.name} model.",
        f"Name {fitting} as 'component_type', or take another file.",
    )


def is_outside(
    path: Path, paths: PathSettings, named: str, at: Place, reader: ValueReader, *further: Path
) -> bool:
    """Returns True, and notes it, if a person's input names a model outside the folders of models
    and these further ones once links are followed; a document may name any."""
    if not reader.is_typed(at):
        return False
    real, allowed = path.resolve(), (*roots(paths), *(each.resolve() for each in further))
    outside = not any(real.is_relative_to(root) for root in allowed)
    if outside:
        reader.note(at, f"'{named}' lies outside the folders of models.")
    return outside


class SingleFiles:
    """Reads the single-file names of one document."""

    def __init__(self, paths: PathSettings, reader: ValueReader) -> None:
        self._paths = paths
        self._allow_pickles = paths.allow_pickles
        self._reader = reader

    def read(self, named: Any, at: Place, kinds: tuple[Kind, ...]) -> ModelSource | None:
        """Returns the file, or None with the problem of its name noted. A bare name is looked for
        in the folders of these kinds."""
        if not isinstance(named, str) or not named:
            self._reader.note(at, f"The name of a file is needed, not {shown(named)}.")
            return None
        if "://" in named:
            return self._on_the_hub(named, at)
        if not can_be_path(self._reader.folder / named):
            self._reader.note(at, "No file can have this name.")
            return None
        return self._local(named, at, kinds)

    def _on_the_hub(self, url: str, at: Place) -> ModelSource | None:
        parts = urlsplit(url)
        found = ON_THE_HUB.fullmatch(unquote(parts.path))
        if parts.scheme != "https" or parts.hostname not in HOSTS or found is None:
            self._reader.note(
                at,
                f"'{shortened(url)}' is not a file of the model hub, the only source of downloads.",
                "Name it as https://huggingface.co/OWNER/NAME/blob/main/FILE, or download it.",
            )
            return None
        model, file = found["model"], found["file"]
        if not is_repository(model) or ".." in PurePosixPath(file).parts:
            self._reader.note(at, f"'{shortened(url)}' names no file of a model.")
            return None
        for root in self._paths.models:
            if (root / model).is_dir() and self._chosen(root / model / file) is not None:
                return self._source(url, root / model / file)
        if not self._has_known_kind(file, at):
            return None
        revision = None if found["revision"] == "main" else found["revision"]
        beside = str(PurePosixPath(file).with_suffix(".safetensors"))
        is_pickle = PurePosixPath(file).suffix.lower() in PICKLE_SUFFIXES
        # The hub tells later whether the repository has the safetensors file.
        wanted = beside if is_pickle and not self._allow_pickles else file
        return ModelSource(model=model, revision=revision, file=wanted)

    def _local(self, named: str, at: Place, kinds: tuple[Kind, ...]) -> ModelSource | None:
        below = [] if named.startswith((".", "/", "~")) else self._paths.models
        candidates = [path_from(root, named).resolve() for root in (*below, self._reader.folder)]
        path = next((path for path in candidates if self._is_there(path)), None)
        if path is None:
            try:
                known = find_known(named, kinds, self._paths)
            except NotOne as error:
                self._reader.note(at, error.message, error.hint)
                return None
            path = candidates[-1] if known is None else known.path
        if is_outside(path, self._paths, named, at, self._reader, self._reader.folder):
            return None
        if is_bare(named) and not path.suffix and not path.exists():
            where = ", ".join(f"'{root.resolve().name}'" for root in self._paths.models)
            self._reader.note(
                at, f"There is no file '{named}', and no folder {kinds[0]}/ in {where}."
            )
            return None
        if not self._has_known_kind(path.name, at):
            return None
        if not self._is_there(path):
            self._reader.note(at, f"There is no file '{named}'.", self._reader.near(path))
            return None
        if self._chosen(path) is None:
            self._note_code(path.name, at)
            return None
        found = self._source(named, path)
        return found if self._has_its_format(Path(found.folder or "") / found.file, at) else None

    def _has_its_format(self, file: Path, at: Place) -> bool:
        """Notes a file whose content is not what its name says."""
        try:
            found = format_of(file)
            beginning = beginning_of(file) if found is None else ""
            missing = missing_end(file) if found == "safetensors" else ""
        except OSError as error:
            self._reader.note(at, f"'{file.name}' cannot be read: {error.strerror}.")
            return False
        except ValueError:
            # Its load says what is wrong with the header.
            missing = ""
        named = FORMATS[file.suffix.lower()]
        if found == named and missing:
            self._reader.note(at, f"'{file.name}' {missing}.", "Download it again.")
            return False
        if found == named:
            return True
        if found == "pickle" and not self._allow_pickles:
            self._note_code(file.name, at)
        elif found is None:
            message = f"'{file.name}' is not a {named} file: it {beginning}."
            self._reader.note(at, message, "Download it again, or take another file.")
        else:
            suffixes = " or ".join(each for each, kind in FORMATS.items() if kind == found)
            message = f"'{file.name}' is a {found} file, not a {named} file."
            self._reader.note(at, message, f"Give its name the suffix {suffixes}.")
        return False

    def _note_code(self, name: str, at: Place) -> None:
        self._reader.note(at, f"'{name}' may hold code and is not read.", HOW_TO_ALLOW)

    def _has_known_kind(self, name: str, at: Place) -> bool:
        if Path(name).suffix.lower() in SAFE_SUFFIXES | PICKLE_SUFFIXES:
            return True
        self._reader.note(at, f"'{Path(name).name}' is neither a .safetensors nor a .gguf file.")
        return False

    @staticmethod
    def _is_there(path: Path) -> bool:
        is_pickle = path.suffix.lower() in PICKLE_SUFFIXES
        return path.is_file() or (is_pickle and path.with_suffix(".safetensors").is_file())

    def _chosen(self, path: Path) -> Path | None:
        """Returns the file to read for this one; None where it does not exist or may not be
        read."""
        there = [p.name for p in path.parent.glob(f"{escape(path.stem)}.*") if p.is_file()]
        name = safe_name(path.name, there, allow_pickles=self._allow_pickles)
        return path.parent / name if name in there else None

    def _source(self, named: str, path: Path) -> ModelSource:
        chosen = self._chosen(path)
        assert chosen is not None
        return ModelSource(model=named, folder=str(chosen.parent.resolve()), file=chosen.name)
