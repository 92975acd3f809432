"""HTML of the memory panel: functions of plain data, every text escaped."""

from __future__ import annotations

import time
from collections.abc import Iterable
from html import escape

from app.engine.status import EngineStatus, SlotStatus
from app.protocol import HeldComponent, Place
from app.units import size

ACTIONS = ("pin", "unpin", "drop")
REPORT_PRESSED_BUTTON = """
const what = (event) => {
  const button = event.target.closest("button[data-action]");
  if (!button) return null;
  const { action, slot, key } = button.dataset;
  return JSON.stringify({ action, slot: Number(slot), key });
};
let pressed = null;
element.addEventListener("pointerdown", (event) => { pressed = what(event); });
element.addEventListener("click", (event) => {
  const byKeyboard = event.detail === 0;
  if (what(event) && (byKeyboard || what(event) === pressed)) {
    trigger("select", JSON.parse(what(event)));
  }
});
"""
"""Gradio writes a refreshed panel over the existing elements: while a button is pressed it may
become the button of another component, which must not be dropped then."""


WORKER_STATES = {"starting": "The worker is starting.", "dead": "The worker does not start."}


def panel(status: EngineStatus) -> str:
    """Returns the whole panel: the memory of each slot, below its device's name if there are
    several."""
    several = len(status.slots) > 1
    parts = []
    for number, slot in enumerate(status.slots):
        title = f"<h4>{escape(slot_title(number, slot))}</h4>" if several else ""
        parts.append(f"{title}{_slot(number, slot)}")
    return "".join(parts)


def slot_title(number: int, slot: SlotStatus) -> str:
    """Returns a slot's title: its device, and its worker's state or current run."""
    known = [f"Worker {number + 1}", slot.device, slot.device_name]
    words = {"starting": "starting", "restarting": "starting again", "dead": "not running"}
    said = words.get(slot.worker, slot.running.title if slot.running else "")
    return " · ".join(part for part in (*known, said) if part)


def _slot(number: int, slot: SlotStatus) -> str:
    heavy = [item for item in slot.held if item.weight_bytes]
    light = (item for item in slot.held if not item.weight_bytes)
    rows = (held(item, number, slot) for item in sorted(heavy, key=lambda item: -item.weight_bytes))
    return f"{bars(slot)}{''.join(rows)}{weightless(light)}{last_eviction(slot)}"


def bars(status: SlotStatus) -> str:
    """Returns bars of the budgets, their use, and the worker's share of the machine."""
    if status.memory is None or status.budgets is None:
        return f"<p class='note'>{WORKER_STATES.get(status.worker, WORKER_STATES['starting'])}</p>"
    used, budgets = status.memory, status.budgets
    ram = _bar("Machine's RAM", used.ram_total_bytes - used.ram_free_bytes, used.ram_total_bytes)
    if not budgets.ram_bytes:
        rows = [_bar("Models", _held_bytes(status, "device"), budgets.device_bytes), ram]
    else:
        on_device = used.device_total_bytes - used.device_free_bytes
        rows = [
            _bar("Models on the device", _held_bytes(status, "device"), budgets.device_bytes),
            _bar(f"All of {status.device_name}", on_device, used.device_total_bytes),
            _bar("Models in RAM", _held_bytes(status, "ram"), budgets.ram_bytes),
            ram,
        ]
    worker = (
        f"Worker process: {size(used.anonymous_bytes)}, plus"
        f" {size(used.resident_bytes - used.anonymous_bytes)} of file cache, released when needed."
    )
    return f"<div class='budgets'>{''.join(rows)}<p class='note'>{escape(worker)}</p></div>"


def held(item: HeldComponent, number: int, status: SlotStatus) -> str:
    """Returns one component held in the slot of this number: name, size, place, users, last use,
    and its buttons."""
    facts = [f"last used {_clock(item.last_used)}"]
    if item.used_by:
        facts[0] += f" by {', '.join(item.used_by)}"
    if status.budgets is not None and status.budgets.ram_bytes:
        facts.append("on the device" if item.place == "device" else "in RAM")
    if item.file_backed_bytes:
        facts.append("pages of its file")
    if item.pinned:
        facts.append("pinned")
    pin = ("unpin", "Unpin") if item.pinned else ("pin", "Pin")
    buttons = "".join(
        f"<button data-action='{action}' data-slot='{number}'"
        f" data-key='{escape(item.key, quote=True)}'"
        f" aria-label='{escape(f'{word} {item.title}', quote=True)}'>{word}</button>"
        for action, word in (pin, ("drop", "Drop"))
    )
    return (
        f"<div class='held'><p class='held-line'><strong>{escape(item.title)}</strong>"
        f" <span class='weight'>{size(item.weight_bytes)}</span><br> "
        f"<span class='note'>{escape(' · '.join(facts))}</span></p>{buttons}</div>"
    )


def weightless(items: Iterable[HeldComponent]) -> str:
    """Returns the held components of almost no size, in one line."""
    names = ", ".join(item.title for item in items)
    return f"<p class='note'>{escape(f'Without weights: {names}')}</p>" if names else ""


def last_eviction(status: SlotStatus) -> str:
    """Returns the last eviction and its reason, or that nothing is held."""
    empty = "" if status.held else "<p class='note'>Nothing is held.</p>"
    last = status.last_departure
    if last is None:
        return empty
    names = ", ".join(last.titles)
    when = time.strftime("%H:%M:%S", time.localtime(last.time))
    return (
        f"{empty}<p class='note'>{escape(f'{when} {last.what}: {names}. Why: {last.reason}.')}</p>"
    )


def _clock(unix_s: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(unix_s))


def _held_bytes(status: SlotStatus, place: Place) -> int:
    return sum(item.weight_bytes for item in status.held if item.place == place)


def _bar(name: str, used_bytes: int, total_bytes: int) -> str:
    percent = min(100.0, 100 * used_bytes / total_bytes) if total_bytes else 0.0
    words = f"{name}: {size(used_bytes)} of {size(total_bytes)}"
    return (
        f"<div class='budget'><span>{escape(words)}</span>"
        f"<div class='bar' role='meter' aria-label='{escape(name, quote=True)}' aria-valuemin='0'"
        f" aria-valuemax='100' aria-valuenow='{percent:.0f}'>"
        f"<i style='width:{percent:.1f}%'></i></div></div>"
    )
