"""Held components: pinned, dropped, and evicted after idle time."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from app.engine.status import EngineStatus
from app.protocol import DropComponents, MoveToRam
from tests.engine.bench import PATIENCE_S, Bench


def held(status: EngineStatus) -> dict[str, bool]:
    """Returns which held components are pinned."""
    return {item.key: item.pinned for item in status.held}


def answered(asked: Future[EngineStatus]) -> EngineStatus:
    return asked.result(PATIENCE_S)


def test_pinned_component_is_shown_until_unpinned(bench: Bench) -> None:
    bench.run("hold unet", "hold vae")
    assert held(answered(bench.engine.pin("unet"))) == {"unet": True, "vae": False}
    assert held(answered(bench.engine.pin("unet", False))) == {"unet": False, "vae": False}


def test_drop_is_shown_in_status_with_reason(bench: Bench) -> None:
    bench.run("hold unet", "hold vae")
    status = answered(bench.engine.drop("unet"))
    assert held(status) == {"vae": False}
    assert status.last_departure is not None
    assert status.last_departure.titles == ("unet",)
    assert status.last_departure.reason == "somebody asked for it"


def test_pin_and_drop_wait_for_active_run(bench: Bench) -> None:
    gate = bench.gate()
    run_id = bench.underway("hold unet", f"wait for {gate}")
    asked = bench.engine.drop("unet")
    assert not asked.done()
    gate.touch()
    assert bench.finish(run_id).success
    assert held(answered(asked)) == {}


def test_pending_pin_is_answered_if_worker_dies(bench: Bench) -> None:
    run_id = bench.underway("hold unet", f"wait for {bench.gate()}", "kill")
    asked = bench.engine.drop("unet")
    bench.gate().touch()
    bench.finish(run_id)
    assert held(answered(asked)) == {}


def test_idle_timeout_drops_unpinned_components(
    unstarted: Bench,
) -> None:
    bench = unstarted.start(idle_drop_s=0.3)
    gate = bench.gate()
    run_id = bench.underway("hold unet", "hold vae", f"wait for {gate}")
    pinned = bench.engine.pin("vae")
    gate.touch()
    bench.finish(run_id)
    answered(pinned)
    bench.heard.wait_until(lambda: "drop_components" in bench.heard.kinds)
    (command,) = [c for c in bench.heard.commands if isinstance(c, DropComponents)]
    assert command.keys == ("unet",)
    assert command.reason == "nothing has happened for 0.3 seconds"


def test_idle_timeout_on_accelerator_moves_to_ram_then_drops(unstarted: Bench) -> None:
    bench = unstarted.start("accelerator", idle_to_ram_s=0.2, idle_drop_s=0.6)
    bench.run("hold unet")
    bench.heard.wait_until(lambda: "drop_components" in bench.heard.kinds)
    assert bench.heard.kinds == ["start_run", "move_to_ram", "drop_components"]
    (command,) = [c for c in bench.heard.commands if isinstance(c, MoveToRam)]
    assert command.keys == ("unet",)
    assert command.reason == "nothing has happened for 0.2 seconds"


def test_idle_timeout_restarts_after_a_run(unstarted: Bench) -> None:
    bench = unstarted.start(idle_drop_s=0.3)
    bench.run("hold unet")
    gate = bench.gate()
    run_id = bench.underway(f"wait for {gate}")
    gate.touch()
    bench.finish(run_id)
    bench.heard.wait_until(lambda: "drop_components" in bench.heard.kinds)
    assert bench.heard.kinds[-3:] == ["start_run", "start_run", "drop_components"]


def test_idle_to_ram_without_accelerator_is_ignored_and_logged(
    unstarted: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench = unstarted.start(idle_to_ram_s=0.1, idle_drop_s=0.3)
    bench.run("hold unet")
    bench.heard.wait_until(lambda: "drop_components" in bench.heard.kinds)
    assert "move_to_ram" not in bench.heard.kinds
    assert caplog.messages.count("DW_IDLE_TO_RAM_S has no effect: there is no accelerator.") == 1


def test_idle_components_stay_without_timeout(bench: Bench) -> None:
    bench.run("hold unet")
    bench.run("nothing")
    assert "drop_components" not in bench.heard.kinds
