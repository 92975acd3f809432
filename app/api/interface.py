"""What every interface for programs is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.api.callers import Callers, NameOf
from app.api.people import People
from app.api.runs import ApiRuns
from app.api.state import State
from app.api.upload_folder import UploadFolder
from app.catalog.catalog import Catalog
from app.settings import Settings

if TYPE_CHECKING:
    from app.engine import Engine


@dataclass(frozen=True)
class Api:
    """The parts that the interfaces share."""

    engine: Engine
    settings: Settings
    catalog: Catalog
    people: People
    callers: Callers
    runs: ApiRuns
    state: State


def make_api(
    engine: Engine,
    settings: Settings,
    catalog: Catalog,
    people: People,
    uploads: UploadFolder,
    name_of: NameOf,
) -> Api:
    """Returns the parts for this engine and catalog."""
    runs = ApiRuns(engine, catalog, people, uploads, settings)
    return Api(
        engine, settings, catalog, people, Callers(people, name_of), runs, State(engine, people)
    )
