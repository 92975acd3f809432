"""What every interface for programs is made of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.api.callers import Caller, Callers, NameOf
from app.api.crowd import Crowd
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
    crowd: Crowd

    @contextlib.contextmanager
    def open(self, caller: Caller) -> Iterator[None]:
        """Counts the sender's request inside. Raises TooManyCalls."""
        person = self.people.person(caller)
        self.crowd.check(person)
        with self.crowd.counted(person):
            yield


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
    callers, state = Callers(people, name_of), State(engine, people)
    crowd = Crowd(settings.ui.guest_calls)
    return Api(engine, settings, catalog, people, callers, runs, state, crowd)
