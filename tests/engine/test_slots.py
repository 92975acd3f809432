"""Several workers: assignment, and isolation of failures."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from app.engine.status import EngineStatus
from app.errors import WorkerDied
from app.models.plan_specs import plan_specs
from app.planning.planner import make_plan
from app.protocol import RunCancelled, RunFailed, RunSucceeded
from app.settings import PathSettings
from tests.engine.bench import PATIENCE_S, Bench

TWO = ("cpu", "cpu")
DIFFERENT = ("cpu", "cuda:1")
"""Two slots whose workers a script can distinguish."""


@pytest.fixture
def two(unstarted: Bench) -> Bench:
    """An engine with two slots, both ready."""
    bench = unstarted.start(devices=DIFFERENT)
    bench.status_when(all_are("ready"))
    return bench


@pytest.fixture
def drawing(shipped_workflows: Path) -> Path:
    """A workflow whose model is here, so that its components are known."""
    return shipped_workflows / "text-to-image.json"


@pytest.fixture
def unet(drawing: Path) -> str:
    """Key of the largest component of its runs."""
    plan = make_plan(drawing, {"prompt": "nothing"}, paths=PathSettings())
    loads = plan_specs(plan.steps).weight_bytes
    assert loads is not None
    return max(loads, key=loads.__getitem__)


@pytest.fixture
def other(drawing: Path, shapes_model: Path, tmp_path: Path) -> Path:
    """Another workflow, with other components."""
    document = json.loads(drawing.read_text())
    arguments = {"model_name": str(shapes_model), "torch_dtype": "torch.float16"}
    document["steps"][0]["pipeline"]["from_pretrained_arguments"] = arguments
    path = tmp_path / "other.json"
    path.write_text(json.dumps(document))
    return path


def all_are(state: str) -> Callable[[EngineStatus], bool]:
    """Returns whether all slots' workers are in this state."""
    return lambda status: {slot.worker for slot in status.slots} == {state}


def running(status: EngineStatus) -> list[str | None]:
    """Returns the run in each slot."""
    return [slot.running.run_id if slot.running else None for slot in status.slots]


def held(status: EngineStatus) -> list[dict[str, bool]]:
    """Returns which held components are pinned, by slot."""
    return [{item.key: item.pinned for item in slot.held} for slot in status.slots]


def in_both(bench: Bench, *script: str) -> list[str]:
    """Starts two runs that are in the workers at the same time; they end when the gate opens."""
    return [bench.underway(*script, f"wait for {bench.gate()}") for _ in range(2)]


# --- who runs where ------------------------------------------------------------------------------


def test_slots_run_one_run_each_at_the_same_time(two: Bench):
    runs = in_both(two)
    waiting = [two.submit() for _ in range(3)]
    status = two.engine.status()
    assert Counter(running(status)) == Counter(runs)
    assert [slot.worker for slot in status.slots] == ["busy", "busy"]
    assert [run.run_id for run in status.queue] == waiting
    two.gate().touch()
    assert all(two.finish(run_id).success for run_id in (*runs, *waiting))


def test_status_of_one_slot_is_that_of_the_engine(bench: Bench):
    bench.run("hold unet")
    status = bench.engine.status()
    (slot,) = status.slots
    assert slot.model_dump() == status.model_dump(exclude={"queue", "slots", "runs"})


def test_status_of_several_slots_shows_the_first_that_has_a_run(two: Bench):
    run_id = two.underway(f"wait for {two.gate()}")
    status = two.engine.status()
    number = running(status).index(run_id)
    assert (status.worker, status.device) == ("busy", DIFFERENT[number])
    assert status.running is not None
    assert (status.pid, status.running.run_id) == (status.slots[number].pid, run_id)


def test_run_goes_to_the_slot_that_holds_its_model(
    two: Bench, drawing: Path, other: Path, unet: str
):
    two.run(f"hold {unet}")
    holding = {unet: False}

    def went_to_the_holding_slot(workflow: Path) -> bool:
        run_id = two.underway(f"wait for {two.gate()}", workflow=workflow)
        status = two.engine.status()
        two.gate().touch()
        assert two.finish(run_id).success
        two.gate().unlink()
        return running(status).index(run_id) == held(status).index(holding)

    assert all(went_to_the_holding_slot(drawing) for _ in range(3))
    assert not went_to_the_holding_slot(other)


def order_of(bench: Bench, drawing: Path, other: Path, unet: str) -> list[str]:
    """Returns the order in which a worker began three runs: one that loads a model, then one of
    another model and one of the same that were submitted meanwhile."""
    first = bench.underway(f"hold {unet}", f"wait for {bench.gate()}")
    names = {first: "first"}
    names |= {bench.submit(workflow=other): "cold", bench.submit(workflow=drawing): "warm"}
    bench.gate().touch()
    for run_id in names:
        assert bench.finish(run_id).success
    return [names[run_id] for run_id in bench.sent]


def test_run_whose_model_is_loaded_goes_first(own: Bench, drawing: Path, other: Path, unet: str):
    assert order_of(own, drawing, other, unet) == ["first", "warm", "cold"]


def test_limit_of_zero_keeps_the_order(unstarted: Bench, drawing: Path, other: Path, unet: str):
    bench = unstarted.start(passed_over_limit_s=0.0)
    assert order_of(bench, drawing, other, unet) == ["first", "cold", "warm"]


# --- cancelling, freeing, pinning ----------------------------------------------------------------


def test_cancel_ends_the_run_of_one_slot_only(two: Bench):
    first, second = in_both(two)
    two.engine.cancel(first)
    assert isinstance(two.finish(first).terminal, RunCancelled)
    assert second in running(two.engine.status())
    two.gate().touch()
    assert two.finish(second).success


def test_previews_are_made_for_the_run_that_is_watched(two: Bench):
    two.underway(f"wait for {two.gate()}")
    *_, ended = two.engine.events(two.submit("watch"), previews=True)
    assert isinstance(ended, RunSucceeded)


def test_free_waits_for_the_run_of_each_slot_and_frees_both(two: Bench):
    in_both(two, "hold unet")
    with ThreadPoolExecutor() as pool:
        freed = pool.submit(two.engine.free)
        two.gate().touch()
        report = freed.result(PATIENCE_S)
    assert [part.title for part in report.dropped] == ["unet", "unet"]
    assert report.before.device_bytes == 2 * report.dropped[0].weight_bytes
    assert report.after.device_bytes == 0
    two.status_when(lambda status: held(status) == [{}, {}])


def test_cancel_and_free_cancels_the_runs_of_both_slots(two: Bench):
    runs = in_both(two, "hold unet")
    assert len(two.engine.free("cancel_and_free").dropped) == 2
    assert all(isinstance(two.finish(run_id).terminal, RunCancelled) for run_id in runs)


def test_free_answers_with_what_one_slot_freed_when_the_worker_of_the_other_ends(two: Bench):
    runs = in_both(two, "hold unet", "on cpu when freed exit 4")
    two.gate().touch()
    assert all(two.finish(run_id).success for run_id in runs)
    assert [part.title for part in two.engine.free().dropped] == ["unet"]


def test_free_fails_where_the_workers_of_all_slots_end(two: Bench):
    runs = in_both(two, "when freed exit 4")
    two.gate().touch()
    assert all(two.finish(run_id).success for run_id in runs)
    with pytest.raises(WorkerDied, match="Its memory came back with it"):
        two.engine.free()


def test_pin_and_drop_act_on_one_slot_or_on_all_that_hold_it(two: Bench):
    runs = in_both(two, "hold unet", "hold vae")
    two.gate().touch()
    assert all(two.finish(run_id).success for run_id in runs)
    unpinned = {"unet": False, "vae": False}
    pinned = two.engine.pin("unet", slot=1).result(PATIENCE_S)
    assert held(pinned) == [unpinned, {**unpinned, "unet": True}]
    assert held(two.engine.drop("unet", slot=1).result(PATIENCE_S)) == [unpinned, {"vae": False}]
    assert held(two.engine.drop("vae").result(PATIENCE_S)) == [{"unet": False}, {}]


# --- the end of a worker -------------------------------------------------------------------------


def test_killed_worker_fails_its_own_run_only(two: Bench):
    runs = in_both(two)
    status = two.engine.status()
    lost, kept = running(status)
    assert {lost, kept} == set(runs)
    pid = status.slots[0].pid
    assert pid is not None
    assert lost is not None
    assert kept is not None
    os.kill(pid, signal.SIGKILL)
    assert isinstance(two.finish(lost).terminal, RunFailed)
    assert running(two.engine.status())[1] == kept
    two.gate().touch()
    assert two.finish(kept).success
    after = two.status_when(all_are("ready"))
    assert after.slots[0].pid != pid
    assert after.slots[1].pid == status.slots[1].pid


def test_slot_that_does_not_start_is_left_out(unstarted: Bench):
    bench = unstarted.start("on cuda:1 exit 5", devices=DIFFERENT)
    status = bench.status_when(lambda status: status.slots[1].worker == "dead")
    assert all(bench.run().success for _ in range(3))
    assert bench.starts == 1 + 3
    assert (status.slots[1].pid, bench.engine.status().worker) == (None, "ready")
    # Free allows another start.
    bench.at_start("nothing")
    bench.engine.free()
    bench.status_when(all_are("ready"))


def test_runs_fail_when_no_slot_starts(unstarted: Bench):
    bench = unstarted.start("exit 5", devices=TWO)
    ended = bench.run().terminal
    assert isinstance(ended, RunFailed)
    assert "does not start" in ended.error.message
    assert (bench.engine.status().worker, bench.starts) == ("dead", 6)
    bench.at_start("nothing")
    assert bench.run().success


def test_run_that_was_not_begun_goes_to_another_slot(unstarted: Bench):
    bench = unstarted.start("on cuda:1 when ready stop", devices=DIFFERENT, command_limit_s=0.5)
    first = bench.underway(f"wait for {bench.gate()}")
    second = bench.submit()
    bench.gate().touch()
    assert bench.finish(first).success
    assert bench.finish(second).success


def test_lines_of_the_log_say_which_of_several_workers_they_are_about(
    two: Bench, caplog: pytest.LogCaptureFixture
):
    runs = in_both(two, "log WARNING tests.slots a line")
    two.gate().touch()
    assert all(two.finish(run_id).success for run_id in runs)
    lines = sorted(line.getMessage() for line in caplog.records if line.name == "tests.slots")
    assert lines == ["Worker 1: a line", "Worker 2: a line"]


def test_close_ends_all_workers(two: Bench):
    runs = in_both(two)
    pids = [slot.pid or 0 for slot in two.engine.status().slots]
    assert all(pids)
    events = [two.engine.events(run_id) for run_id in runs]
    for each in events:
        next(each)
    two.engine.close(20.0)
    assert not any(map(psutil.pid_exists, pids))
    assert all(isinstance([*each][-1], RunCancelled) for each in events)
