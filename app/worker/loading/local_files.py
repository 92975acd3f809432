"""Where the files of a model lie on this machine; nothing is fetched here."""

from __future__ import annotations

from pathlib import Path

from app.errors import LoadError
from app.workflow.models.hub import Choose, held, this_machine
from app.workflow.models.wanted import nothing
from app.workflow.plan_sources import ModelSource


class NotHere(LoadError):
    """Files of a model are not on this machine."""

    def __init__(self, source: ModelSource, names: tuple[str, ...], missing: tuple[str, ...]):
        what = f"'{missing[0]}' of '{source.model}'" if missing else f"'{source.model}'"
        super().__init__(
            f"{what} is not on this machine any more.", hint="Run it again: it is then fetched."
        )
        self.source = source
        self.names = names
        """All that is wanted of the model beside its text files."""


def local_folder(source: ModelSource, choose: Choose = nothing) -> Path:
    """The folder of a model that has its text files and the chosen ones; raises NotHere."""
    if source.folder is not None:
        return Path(source.folder)
    found = held(this_machine(), source.model, source.revision, choose)
    if found.folder is None or found.missing:
        raise NotHere(source, found.wanted, found.missing)
    return found.folder
