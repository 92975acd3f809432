"""HTML of the memory panel: one slot without a heading, several with one each."""

from __future__ import annotations

import re
from typing import Any

from app.engine.status import SlotStatus, status_of
from app.protocol import Budgets, HeldComponent, MemoryUse
from app.ui.memory_markup import panel

MEMORY = MemoryUse(**dict.fromkeys(MemoryUse.model_fields, 1000))
UNET = HeldComponent(
    key="k'1", title="unet of <shapes>", place="device", weight_bytes=10, file_backed_bytes=0,
    load_s=0.0, last_used=0.0, used_by=(), pinned=False,
)  # fmt: skip


def slot(**fields: Any) -> SlotStatus:
    given = {
        "worker": "ready", "pid": 1, "device": "cuda:0", "device_name": "A GPU", "versions": {},
        "running": None, "memory": MEMORY, "budgets": Budgets(device_bytes=100, ram_bytes=0),
        "held": (UNET,), "last_departure": None,
    }  # fmt: skip
    return SlotStatus(**{**given, **fields})


def test_panel_of_one_slot_has_no_heading():
    shown = panel(status_of((slot(),), ()))
    assert "<h4>" not in shown
    assert "unet of &lt;shapes&gt;" in shown
    assert set(re.findall(r"data-slot='(\d)' data-key='([^']*)'", shown)) == {("0", "k&#x27;1")}


def test_panel_of_several_slots_has_one_heading_each_and_buttons_for_each():
    starting = slot(worker="starting", device="", device_name="", memory=None, held=())
    dead = slot(worker="dead", device="", device_name="", memory=None, held=())
    shown = panel(status_of((slot(), slot(device="cuda:1"), starting, dead), ()))
    assert re.findall("<h4>(.*?)</h4>", shown) == [
        "Worker 1 · cuda:0 · A GPU", "Worker 2 · cuda:1 · A GPU", "Worker 3 · starting",
        "Worker 4 · not running",
    ]  # fmt: skip
    assert re.findall(r"data-action='drop' data-slot='(\d)'", shown) == ["0", "1"]
    assert "The worker is starting." in shown
    assert "The worker does not start." in shown
