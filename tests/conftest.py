"""Fixtures of all tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.site import Site
    from tests.standins import StandIns
    from tests.worker.bench import Bench

PROJECT = Path(__file__).resolve().parent.parent

# A busy machine is no failure, and one run draws the same examples as the next.
settings.register_profile(
    "project", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("project")

# The models here are tiny: more threads only wait for each other. Read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# As in the worker, without which many tests run: results do not depend on the alignment of weights.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
# Tests never reach a model hub; a test that wants one starts its own on loopback.
os.environ["HF_HUB_OFFLINE"] = "1"
# It would compile a C++ kernel for every shape of a weight; read on its import.
os.environ["SDNQ_USE_TORCH_COMPILE"] = "0"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
# Third-party documents are outside this repository.
DOCUMENTS = "DW_REAL_WORKFLOWS"
REAL_WORKFLOWS = os.environ.get(DOCUMENTS, "")
# Settings of the person who runs the tests do not apply. Processes that share the tests read these
# again.
for name in [name for name in os.environ if name.startswith("DW_") and name != DOCUMENTS]:
    del os.environ[name]


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Puts temporary files into pytest's own folder, which it removes if nothing has failed: those
    of gradio_client, which never removes any, and of servers that a test kills."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("temporary")
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        yield


@pytest.fixture(scope="session")
def shapes_model() -> Path:
    """The folder of the bundled model."""
    return PROJECT / "models" / "shapes"


@pytest.fixture(scope="session")
def shipped_workflows() -> Path:
    """The folder of the shipped workflows."""
    return PROJECT / "workflows"


@pytest.fixture
def site() -> Iterator[Site]:
    """A web site on loopback."""
    from tests.site import Site

    site = Site()
    try:
        yield site
    finally:
        site.close()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A runner in this process, with its own folder."""
    from tests.worker.bench import Bench

    return Bench(tmp_path)


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> StandIns:
    """A models folder of stand-ins, made on first use. Read-only."""
    from tests.standins import StandIns

    return StandIns(tmp_path_factory.mktemp("stand-ins"))


@pytest.fixture(scope="session")
def real_workflows() -> Path:
    """The folder of third-party workflows."""
    if not REAL_WORKFLOWS:
        pytest.skip("DW_REAL_WORKFLOWS names no folder of real workflows")
    return Path(REAL_WORKFLOWS)
