"""Lists the models in the folders of their kinds, from the headers of their files alone."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from app.dialect.files import FORMATS, beginning_of, format_of
from app.dialect.fingerprint import Header, read_header
from app.dialect.model_kinds import NAMES, Kind
from app.dialect.naming import one_line
from app.frozen import Frozen
from app.models.base_family import base_family
from app.models.hub import is_repository
from app.models.kind_folders import Known, contents, kind_folders
from app.models.model_index import INDEXES, read_index
from app.settings import PathSettings

TYPES = {
    "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "F64": "float64", "I8": "int8", "U8": "uint8",
}  # fmt: skip
"""The types of safetensors in torch's words."""
MAX_WORDS = 8
MAX_WORD_LENGTH = 40
TRIGGER, TAGS, OUTPUT_NAME = "modelspec.trigger_phrase", "ss_tag_frequency", "ss_output_name"
"""Keys of a LoRA's metadata: of the modelspec standard, and of kohya-ss/sd-scripts."""


class ListedModel(Frozen):
    """One model in a kind's folder."""

    kind: Kind
    name: str
    """As a document names it."""
    family: str = ""
    """Of the model, or of those that it was made for; "" if unknown."""
    dtype: str = ""
    """That of most of its bytes; "" if unknown."""
    size_bytes: int = 0
    trigger_words: tuple[str, ...] = ()
    """Of a LoRA, as its author or its trainer wrote them down."""
    path: str
    problem: str = ""
    """Why it cannot be used."""


def list_models(paths: PathSettings, kind: Kind | None = None) -> Iterator[ListedModel]:
    """Yields the models of this kind, or of all, in the order of the folders. A file that cannot be
    read is listed with its problem."""
    for place in kind_folders(paths):
        if kind in (None, place.kind):
            for known in contents(place):
                yield _folder(known) if known.is_folder else _file(known, paths)
    if kind in (None, "diffusers"):
        for root in paths.models:
            yield from _owned(root)


def _owned(root: Path) -> Iterator[ListedModel]:
    """Yields the models that lie as `OWNER/NAME` in a models folder."""
    folders = {index.parent for each in INDEXES for index in root.glob(f"*/*/{each}")}
    for folder in sorted(folders):
        name = folder.relative_to(root).as_posix()
        if name.partition("/")[0].lower() not in NAMES and is_repository(name):
            yield _described("diffusers", name, folder)


def _folder(known: Known) -> ListedModel:
    return _described(known.place.kind, known.name, known.path)


def _described(kind: Kind, name: str, folder: Path) -> ListedModel:
    """Returns the model in this folder: its pipeline's class stands for its family."""
    family, problem = "", ""
    if any((folder / each).is_file() for each in INDEXES):
        try:
            family = read_index(folder, modular=True).class_name
        except (OSError, ValueError) as error:
            problem = f"Its index cannot be read: {error}."
    weights = sorted(folder.rglob("*.safetensors"))
    dtypes = Counter[str]()
    try:
        for file in weights:
            dtypes.update(_bytes_by_type(read_header(file)))
        size_bytes = sum(file.stat().st_size for file in weights)
    except (OSError, ValueError) as error:
        problem, size_bytes = _sentence(error), 0
    return ListedModel(
        kind=kind,
        name=name,
        family=one_line(family),
        dtype=_dtype(dtypes),
        size_bytes=size_bytes,
        path=str(folder.resolve()),
        problem=problem,
    )


def _file(known: Known, paths: PathSettings) -> ListedModel:
    """Returns what the header of this file says."""
    file = known.path
    listed = ListedModel(kind=known.place.kind, name=known.stem, path=os.path.abspath(file))  # noqa: PTH100
    try:
        listed = listed.model_copy(update={"size_bytes": file.stat().st_size})
        found, named = format_of(file), FORMATS[file.suffix.lower()]
        if found is None:
            raise ValueError(f"it is not a {named} file: it {beginning_of(file)}")
        if found != named:
            raise ValueError(f"it is a {found} file, not a {named} file")
        if found == "pickle":
            problem = "" if paths.allow_pickles else "It may hold code and is not read."
            return listed.model_copy(update={"dtype": found, "problem": problem})
        if found == "GGUF":
            return listed.model_copy(update={"dtype": found})
        return listed.model_copy(update=_facts(known, listed.size_bytes))
    except (OSError, ValueError) as error:
        return listed.model_copy(update={"problem": _sentence(error)})


def _facts(known: Known, size_bytes: int) -> dict[str, object]:
    header = read_header(known.path)
    end = header.start + max(
        (each["data_offsets"][1] for each in header.tensors.values()), default=0
    )
    if end > size_bytes:
        raise ValueError(f"it is cut off: {size_bytes} of {end} bytes are there")
    shapes = {name: tuple(entry["shape"]) for name, entry in header.tensors.items()}
    is_lora = known.place.kind == "loras"
    return {
        "family": base_family(shapes, is_lora=is_lora),
        "dtype": _dtype(_bytes_by_type(header)),
        "trigger_words": trigger_words(header.metadata) if is_lora else (),
    }


def _bytes_by_type(header: Header) -> Counter[str]:
    found = Counter[str]()
    for entry in header.tensors.values():
        begin, end = entry["data_offsets"]
        found[entry["dtype"]] += end - begin
    return found


def _dtype(bytes_by_type: Counter[str]) -> str:
    [(name, _)] = bytes_by_type.most_common(1) or [("", 0)]
    return TYPES.get(name, one_line(name.lower()))


def _sentence(error: Exception) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


# --- trigger words -------------------------------------------------------------------------------


def trigger_words(metadata: dict[str, str]) -> tuple[str, ...]:
    """Returns the words that a LoRA was trained with: its author's, else the most frequent tags of
    its pictures, else the name it was trained under."""
    if phrase := metadata.get(TRIGGER):
        return _words(re.split(r"[,;\n]", phrase))
    if tags := _tags(metadata.get(TAGS, "")):
        return _words([tag for tag, _ in tags.most_common(MAX_WORDS)])
    return _words([metadata.get(OUTPUT_NAME, "")])


def _tags(text: str) -> Counter[str]:
    """Returns how often each tag occurs: sd-scripts writes a count for each tag of each folder."""
    found = Counter[str]()
    try:
        folders = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return found
    for tags in folders.values() if isinstance(folders, dict) else ():
        for tag, count in tags.items() if isinstance(tags, dict) else ():
            if isinstance(count, int):
                found[tag.strip()] += count
    return found


def _words(words: Sequence[str]) -> tuple[str, ...]:
    told = (one_line(word, MAX_WORD_LENGTH) for word in words)
    return tuple(dict.fromkeys(word for word in told if word))[:MAX_WORDS]
