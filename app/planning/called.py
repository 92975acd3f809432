"""What a pipeline step calls: its class, and the arguments the call takes where they are known."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

from app.dialect.installed.constructors import AUTOMATIC, automatic_class
from app.dialect.installed.signatures import (
    CallSignature,
    call_signature,
    public_classes,
    read_signature,
)
from app.dialect.plan_sources import ModelSource, ModularSettings
from app.dialect.references import Path as Place
from app.models.hub import folder_of
from app.models.model_index import INDEX, read_index
from app.models.pipeline_shapes import OWN_MODULE
from app.planning.modular import modular_signature
from app.planning.values import ValueReader


class Called(NamedTuple):
    """The call of one pipeline step."""

    name: str = ""
    """The class, unqualified; "" where unknown."""
    signature: CallSignature | None = None
    """None where the arguments are unknown."""
    folder: Path | None = None
    """The model's folder; None where it is not on this machine."""
    checkpoint: Path | None = None
    """The single file of the whole pipeline, if it is one that is on this machine."""


def called_pipeline(
    pipeline_class: str,
    source: ModelSource | None,
    modular: ModularSettings | None,
    code: ModelSource | None,
    at: Place,
    reader: ValueReader,
) -> Called:
    """Returns what the pipeline of this class calls with this model.

    For DiffusionPipeline and the Auto classes the model's index tells the class; a modular pipeline
    calls its blocks, and with `code` the repository's own class is called. Notes an index that
    cannot be read.
    """
    folder = folder_of(source) if source is not None else None
    short = pipeline_class.rpartition(".")[2]
    if modular is not None:
        return Called(short, modular_signature(pipeline_class, source, modular, code), folder)
    if code is not None:
        own = _own_call(folder_of(code), folder)
        if own is not None:
            return own._replace(folder=folder)
    name = _class_of_model(short, source, folder, at, reader)
    if source is not None and source.file and source.folder is not None:
        checkpoint = Path(source.folder) / source.file
        return Called(name, call_signature(name) if name else None, folder, checkpoint)
    return Called(name, call_signature(name) if name else None, folder)


def _class_of_model(
    name: str, source: ModelSource | None, folder: Path | None, at: Place, reader: ValueReader
) -> str:
    """Returns the class that is called: for DiffusionPipeline the one the model names, for an Auto
    class the one of the model's family; "" where it is not known."""
    if name in AUTOMATIC:
        return _automatic_class(name, folder)
    if name != "DiffusionPipeline":
        return name
    if source is not None and source.file:
        reader.note(at, f"'{source.short_name}' does not say which pipeline it is for.",
                    "Name its class as 'component_type'.")  # fmt: skip
    if source is None or source.folder is None or source.file:
        return ""
    try:
        return read_index(Path(source.folder)).class_name
    except (OSError, ValueError):
        reader.note(at, f"The {INDEX} of '{source.model}' is not one.")
        return ""


def _automatic_class(name: str, folder: Path | None) -> str:
    if folder is None:
        return ""
    try:
        return automatic_class(name, read_index(folder).class_name)
    except (OSError, ValueError):
        # The reason is told where the model is read.
        return ""


# --- a repository's own code ----------------------------------------------------------------------


def _own_call(code: Path | None, model: Path | None) -> Called | None:
    """Returns the call of the class in this repository's code; None where it defines no pipeline.

    Chooses as the worker does, but reads the source: planning runs no code. What cannot be read is
    unknown; the worker tells.
    """
    if code is None:
        return Called()
    module, name = OWN_MODULE, ""
    if model is not None:
        try:
            index = read_index(model)
        except (OSError, ValueError):
            return Called()
        if index.module:
            module, name = index.module, index.class_name
    file = code / f"{module}.py"
    if not file.is_file():
        return None
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return Called()
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    named = [name] if name else [each for each in classes if _is_pipeline(each, classes)]
    if len(named) != 1 or named[0] not in classes:
        return Called()
    return Called(named[0], _own_signature(named[0], classes))


def _bases(name: str, classes: dict[str, ast.ClassDef], seen: tuple[str, ...] = ()) -> list[str]:
    """Returns the class and its bases, each before its own; those of other modules are last."""
    found = [name]
    if name in classes and name not in seen:
        for base in classes[name].bases:
            found += _bases(ast.unparse(base).rpartition(".")[2], classes, (*seen, name))
    return found


def _is_pipeline(name: str, classes: dict[str, ast.ClassDef]) -> bool:
    known = public_classes("diffusers")
    return any(
        base == "DiffusionPipeline" or (base in known and known[base].kind == "pipeline")
        for base in _bases(name, classes)
        if base not in classes
    )


def _own_signature(name: str, classes: dict[str, ast.ClassDef]) -> CallSignature | None:
    for base in _bases(name, classes):
        if base not in classes:
            if (inherited := call_signature(base)) is not None:
                return inherited
            continue
        for node in classes[base].body:
            if isinstance(node, ast.FunctionDef) and node.name == "__call__":
                found = read_signature(node)
                # More arguments than it names may be its base's.
                return None if node.args.kwarg is not None else found
    return None
