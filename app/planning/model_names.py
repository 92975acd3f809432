"""Models that a document names: a folder, a repository of the hub, a file, or a bare name."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from app.dialect.files import can_be_path, is_plain, path_from
from app.dialect.model_kinds import Kind
from app.dialect.plan_sources import ModelSource
from app.dialect.references import Path as Place
from app.media.urls import is_url
from app.models.hub import find_in_folders, is_repository
from app.models.kind_folders import NotOne, find_known, known_instead_of_hub
from app.planning.loading_arguments import is_mistyped
from app.planning.single_files import PAGE_OF_MODEL, SingleFiles, is_outside
from app.planning.values import ValueReader
from app.settings import PathSettings

NO_FOLDER, NOT_A_MODEL = "There is no model folder", "is not a diffusers model: it has no"
NAME_NEEDED = "The name of a model is needed: a folder or 'owner/name'."


class ModelNames:
    """Reads the names of models in one document."""

    def __init__(self, paths: PathSettings, reader: ValueReader) -> None:
        self._paths = paths
        self._reader = reader

    def named(self, model: Any, at: Place, key: str) -> ModelSource | None:
        """Returns the model named under this key; None where the name is not valid."""
        return self.source({key: model}, at, key=key)

    def source(
        self,
        loading: dict[str, Any],
        at: Place,
        *,
        needs: tuple[str, ...] = (),
        key: str = "model_name",
        kinds: tuple[Kind, ...] = ("checkpoints",),
    ) -> ModelSource | None:
        """Returns the model that these loading arguments name, by bare name too: a file or folder
        of these kinds, or a folder of a whole model."""
        if "from_single_file" in loading:
            files = SingleFiles(self._paths, self._reader)
            return files.read(loading["from_single_file"], (*at, "from_single_file"), kinds)
        model = loading.get(key)
        where = (*at, key)
        if not isinstance(model, str) or not model:
            if not is_mistyped(key, loading):
                self._reader.note(where, NAME_NEEDED)
            return None
        if is_url(model):
            page = PAGE_OF_MODEL.match(model)
            hint = f"Write '{page[1]}'." if page else ""
            self._reader.note(where, f"{NAME_NEEDED[:-1]}, not an address.", hint)
            return None
        if not can_be_path(self._reader.folder / model):
            self._reader.note(where, "No model can have this name.")
            return None
        texts: dict[str, str] = {}
        for name in ("subfolder", "revision", "variant"):
            value = loading.get(name)
            if value is None or value == "":
                continue
            if not isinstance(value, str) or not is_plain(value):
                self._reader.note((*at, name), f"{value!r} is not a plain name.")
                return None
            texts[name] = value
        folder = self._local_folder(model, where, kinds, is_of_hub="revision" in texts)
        if folder is None and not _is_local(model, self._reader.folder):
            if is_repository(model):
                return ModelSource(model=model, **texts)
            self._reader.note(
                where, f"'{model}' is neither a model folder nor 'owner/name' of the hub."
            )
            return None
        if folder is None:
            return None
        inside = folder / texts.get("subfolder", "")
        if needs and not any((inside / each).is_file() for each in needs):
            message = f"'{model}' {NOT_A_MODEL} {needs[0]}."
            self._reader.note(where, message)
            return None
        return ModelSource(model=model, folder=str(folder), **texts)

    def config(self, loading: dict[str, Any], at: Place) -> ModelSource | None:
        """Returns the config repository of a single file, where the document names one."""
        if loading.get("config") is None:
            return None
        if "from_single_file" not in loading:
            self._reader.note((*at, "config"), "'config' is for 'from_single_file' alone.")
            return None
        named = {"config": loading["config"], "subfolder": loading.get("subfolder")}
        return self.source(named, at, key="config")

    def _local_folder(
        self, model: str, where: Place, kinds: tuple[Kind, ...], *, is_of_hub: bool
    ) -> Path | None:
        if (found := find_in_folders(model, self._paths.models)) is not None:
            return found.resolve()
        is_local = _is_local(model, self._reader.folder)
        folder = path_from(self._reader.folder, model).resolve()
        if not is_local and is_of_hub:
            return None
        if not folder.is_dir():
            find = find_known if is_local else known_instead_of_hub
            try:
                known = find(model, ("diffusers", *kinds), self._paths, folders=True)
            except NotOne as error:
                self._reader.note(where, error.message, self._hint_of_file(model, kinds, error))
                return None
            if known is None and not is_local:
                return None
            folder = folder if known is None else known.path.resolve()
        if is_outside(folder, self._paths, model, where, self._reader, self._reader.folder):
            return None
        if not folder.is_dir():
            hint = self._reader.near(folder)
            self._reader.note(where, f"{NO_FOLDER} '{model}'.", hint)
            return None
        return folder

    def _hint_of_file(self, model: str, kinds: tuple[Kind, ...], error: NotOne) -> str:
        """Returns the error's hint; for the name of a file the key under which it is named."""
        with contextlib.suppress(NotOne):
            if find_known(model, kinds, self._paths) is not None:
                return "It is a file: name it as 'from_single_file' instead."
        return error.hint


def _is_local(model: str, folder: Path) -> bool:
    return (
        model.startswith((".", "/", "~")) or (folder / model).is_dir() or not is_repository(model)
    )
