"""The table of held components, and evictions from it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.protocol import Place
from app.worker.residency import (
    MAX_WORKFLOWS,
    Entry,
    Residency,
    WorkflowUses,
    choose_evictions,
)

NOW = 100.0


def entry(
    key: str,
    weight_bytes: int = 10,
    *,
    last_used: float = 0.0,
    leases: int = 0,
    **more: Any,
) -> Entry:
    more = {"load_s": 1.0, **more}
    return Entry(
        key, f"{key} of test", object(), weight_bytes, last_used=last_used, leases=leases, **more
    )


def evicted(
    entries: list[Entry], missing: int, later: Sequence[str] = (), place: Place = "device"
) -> list[str]:
    return choose_evictions(entries, missing, place, NOW, later)


# --- who has to leave ----------------------------------------------------------------------------


def test_eviction_is_empty_while_there_is_room():
    assert evicted([entry("unet")], missing=0) == []


def test_eviction_takes_least_recently_used_first_and_no_more_than_needed():
    held = [entry("new", last_used=3), entry("old", last_used=1), entry("mid", last_used=2)]
    assert evicted(held, missing=15) == ["old", "mid"]


def test_eviction_prefers_more_bytes_per_reload_second():
    assert evicted([entry("small", 10), entry("big", 20)], missing=5) == ["big"]
    dear, cheap = entry("converted", load_s=9.0), entry("mapped", load_s=0.1)
    assert evicted([dear, cheap], missing=5) == ["mapped"]


def test_eviction_skips_leased_and_pinned():
    held = [entry("busy", leases=1), entry("pinned", pinned=True), entry("idle", last_used=9)]
    assert evicted(held, missing=50) == ["idle"]


def test_eviction_takes_components_needed_later_last():
    held = [entry("next"), entry("last"), entry("idle", last_used=90)]
    assert evicted(held, missing=30, later=["next", "last"]) == ["idle", "last", "next"]


def test_eviction_skips_components_without_weights():
    assert evicted([entry("tokenizer", 0), entry("unet", last_used=9)], missing=5) == ["unet"]


def test_eviction_skips_other_places():
    held = [entry("in ram", place="ram"), entry("on device")]
    assert evicted(held, missing=50) == ["on device"]
    assert evicted(held, missing=50, place="ram") == ["in ram"]


def test_eviction_from_ram_skips_file_pages():
    held = [entry("mapped", place="ram", file_backed_bytes=10), entry("own", place="ram")]
    assert evicted(held, missing=50, place="ram") == ["own"]
    assert [each.bytes_in("ram") for each in held] == [0, 10]


entries_strategy = st.lists(
    st.builds(
        entry,
        key=st.uuids().map(str),
        weight_bytes=st.integers(0, 50),
        last_used=st.floats(0, NOW),
        leases=st.integers(0, 2),
        pinned=st.booleans(),
        load_s=st.floats(0, 10),
    ),
    max_size=12,
)


@given(held=entries_strategy, missing=st.integers(0, 200), data=st.data())
def test_eviction_is_idle_and_just_enough(held: list[Entry], missing: int, data: st.DataObject):
    later = data.draw(st.permutations([each.key for each in held[::2]]))
    chosen = evicted(held, missing, later)
    by_key = {each.key: each for each in held}
    idle = {e.key for e in held if not e.leases and not e.pinned and e.weight_bytes}
    assert set(chosen) <= idle
    assert len(set(chosen)) == len(chosen)
    given_back = [by_key[key].weight_bytes for key in chosen]
    if chosen:
        assert sum(given_back[:-1]) < missing, "the last one left for nothing"
    if set(chosen) != idle:
        assert sum(given_back) >= missing, "room was to be had and was not made"
    needed = [key in later for key in chosen]
    assert needed == sorted(needed), "what the run needs left before what nobody needs"


# --- the table -----------------------------------------------------------------------------------


@pytest.fixture
def residency() -> Residency:
    table = Residency()
    for key in ("unet", "vae"):
        table.hold(Entry(key, f"{key} of test", f"the {key}", 10))
    return table


def test_lease_yields_components_by_key(residency: Residency):
    with residency.lease(["vae", "unet"], "flow") as components:
        assert components == {"unet": "the unet", "vae": "the vae"}


def test_leased_component_cannot_be_dropped(
    residency: Residency,
):
    with (
        residency.lease(["unet"], "flow"),
        pytest.raises(RuntimeError, match="unet of test"),
    ):
        residency.drop(["vae", "unet"], reason="memory was freed")
    assert "vae" in residency
    assert "unet" in residency


def test_lease_ends_after_an_error(residency: Residency):
    with pytest.raises(ZeroDivisionError), residency.lease(["unet"], "flow"):
        raise ZeroDivisionError
    residency.drop(["unet"], reason="memory was freed")
    assert "unet" not in residency


def test_lease_counts_users(residency: Residency):
    with residency.lease(["unet"], "one"):
        with residency.lease(["unet"], "two"):
            pass
        assert [entry.leases for entry in residency.entries] == [1, 0]
        with pytest.raises(RuntimeError):
            residency.drop(["unet"], reason="memory was freed")
    assert [entry.leases for entry in residency.entries] == [0, 0]


def test_lease_of_unknown_key_leaves_no_lease(residency: Residency):
    with pytest.raises(KeyError), residency.lease(["unet", "gone"], "flow"):
        pytest.fail("there was nothing to lease")
    residency.drop(["unet"], reason="memory was freed")


def test_held_component_has_users_and_last_use(
    residency: Residency,
):
    before = residency.described()[0].last_used
    for workflow in ("two", "one", "two"):
        with residency.lease(["unet"], workflow):
            pass
    unet, vae = residency.described()
    assert (unet.key, unet.title, unet.weight_bytes) == ("unet", "unet of test", 10)
    assert (unet.used_by, vae.used_by) == (("one", "two"), ())
    assert unet.last_used >= before


def test_drop_is_returned_and_logged_with_reason(
    residency: Residency, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.INFO, logger="app"):
        dropped = residency.drop(["unet", "never held"], reason="memory was freed")
    assert [component.title for component in dropped] == ["unet of test"]
    assert caplog.messages == ["Dropping unet of test: memory was freed"]
    assert [entry.key for entry in residency.entries] == ["vae"]


def test_last_eviction_has_titles_and_reason(residency: Residency):
    assert residency.last_eviction is None
    residency.move(["unet"], "ram", reason="room for another")
    eviction = residency.last_eviction
    assert eviction is not None
    assert (eviction.titles, eviction.what) == (("unet of test",), "moved to RAM")
    residency.drop(["vae"], reason="memory was freed")
    eviction = residency.last_eviction
    assert eviction is not None
    assert (eviction.titles, eviction.reason) == (("vae of test",), "memory was freed")


def test_bytes_are_counted_by_place(residency: Residency):
    assert (residency.bytes_in("device"), residency.bytes_in("ram")) == (20, 0)
    residency.move(["unet"], "ram", reason="room for another")
    assert (residency.bytes_in("device"), residency.bytes_in("ram")) == (10, 10)


# --- what a changed workflow leaves behind -------------------------------------------------------


def test_unchanged_workflow_has_no_stale_keys():
    uses = WorkflowUses()
    assert uses.begin("a.json", "1", {"unet"}) is None
    assert uses.begin("a.json", "1", {"unet"}) is None


def test_changed_workflow_has_stale_keys():
    uses = WorkflowUses()
    uses.begin("a.json", "1", {"unet", "vae"})
    assert uses.begin("a.json", "2", {"vae", "transformer"}) == {"unet"}
    assert uses.begin("a.json", "3", {"vae", "transformer"}) == set()


def test_keys_of_other_workflows_are_not_stale():
    uses = WorkflowUses()
    uses.begin("a.json", "1", {"unet", "vae"})
    uses.begin("b.json", "1", {"unet"})
    assert uses.begin("a.json", "2", set()) == {"vae"}
    assert uses.begin("b.json", "2", set()) == {"unet"}


def test_unchanged_workflow_uses_all_chosen_models():
    uses = WorkflowUses()
    uses.begin("choose.json", "1", {"model a"})
    assert uses.begin("choose.json", "1", {"model b"}) is None
    assert uses.begin("choose.json", "2", {"model b"}) == {"model a"}


def test_least_recent_workflow_is_forgotten():
    uses = WorkflowUses()
    for number in range(MAX_WORKFLOWS + 1):
        uses.begin(f"{number}.json", "first", [f"a{number}"])
        uses.begin("kept.json", "first", ["b"])
    assert uses.begin("kept.json", "second", []) == {"b"}
    assert uses.begin("0.json", "second", []) is None
    last = f"{MAX_WORKFLOWS}"
    assert uses.begin(f"{last}.json", "second", []) == {f"a{last}"}
