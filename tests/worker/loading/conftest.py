"""An engine for the hub of a test module, its fixture `hub`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.engine import Engine
from tests.engines import started_engine
from tests.hub import Hub


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder for fetched files."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, hub: Hub, home: Path) -> Iterator[Engine]:
    """An engine whose worker knows only this hub, with an empty cache."""
    with pytest.MonkeyPatch.context() as environment:
        hub.only(environment, home)
        with started_engine(tmp_path_factory.mktemp("outputs")) as started:
            yield started
