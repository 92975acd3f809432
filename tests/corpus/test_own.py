"""Each pipeline class that documents name: cold, warm, cancelled, and correct again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from torch.nn.modules.module import register_module_forward_pre_hook

from app.planning.planner import make_plan
from app.protocol import Phase, PhaseChanged, Preview, RunCancelled, StepProgress
from app.settings import PathSettings
from tests.corpus.bench import make_media, problems, same, write_own
from tests.corpus.own import OWN, Own
from tests.engines import Finished
from tests.standins import StandIns
from tests.worker.bench import Bench

# A worker ignores deprecations inside its libraries; pytest would not.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """One runner for all: every document runs after all the others' settings and cancels."""
    folder = tmp_path_factory.mktemp("own")
    make_media(folder)
    return Bench(folder, preview_interval_s=1e-9)


class Calls:
    """Counts calls of modules, and acts during one."""

    def __init__(self) -> None:
        self.made = 0
        self.at = 0
        """At the call of this number, from 1, `act` is called."""
        self.act: Any = None

    def note(self, _module: Any, _arguments: Any) -> None:
        self.made += 1
        if self.made == self.at:
            self.act()


def phases(finished: Finished) -> set[Phase]:
    """Returns the phases of the run."""
    return {event.phase for event in finished.events if isinstance(event, PhaseChanged)}


@contextmanager
def calls() -> Iterator[Calls]:
    """Counts each call of a module before the run's own hook."""
    noted = Calls()
    handle = register_module_forward_pre_hook(noted.note)
    try:
        yield noted
    finally:
        handle.remove()


@pytest.mark.parametrize("own", [own for own in OWN if not own.is_costly], ids=lambda own: own.name)
def test_document_runs_cold_warm_cancelled_and_again(own: Own, bench: Bench, stand_ins: StandIns):
    stand_ins.add_named(own.document)
    paths = PathSettings(models=(stand_ins.folder,), media=(bench.folder,))
    plan = make_plan(write_own(own, bench.folder), {}, paths=paths, seed=3)
    cold = bench.run(plan)
    assert problems(cold, (own.saved,)) == []
    assert {"loading", "encoding", "denoising", "decoding", "saving"} == phases(cold)

    with calls() as counted:
        warm = bench.run(plan, previews=True)
    assert warm.success.loaded == ()
    assert same(warm, cold)
    told = [event for event in warm.events if isinstance(event, StepProgress)]
    assert told
    assert told[-1].done == told[-1].total
    assert any(isinstance(event, Preview) for event in warm.events) == own.preview
    assert all(event.without_preview != own.preview for event in told)

    # In the denoiser, and in the autoencoder, where some cache their input.
    for at in (counted.made // 2, counted.made - 2):
        with calls() as noted:
            noted.at, noted.act = at, lambda: bench.cancel(bench.run_id)
            cancelled = bench.run(plan)
        assert isinstance(cancelled.terminal, RunCancelled)
        assert noted.made == at, "modules were called after the cancel"

    after = bench.run(plan)
    assert after.success.loaded == ()
    assert same(after, cold)
