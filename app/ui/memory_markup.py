"""What the memory panel shows, as HTML: functions of plain data, every text escaped."""

from __future__ import annotations

import time
from collections.abc import Iterable
from html import escape

from app.engine.status import EngineStatus
from app.protocol import HeldComponent, Place
from app.units import size

ACTIONS = ("pin", "unpin", "drop")
TELL_WHAT_IS_PRESSED = """
const what = (event) => {
  const button = event.target.closest("button[data-action]");
  return button && JSON.stringify({ action: button.dataset.action, key: button.dataset.key });
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
"""Gradio writes a refreshed panel over the elements that are there: while a button is pressed it
may become the button of another component, which must not be dropped then."""


def panel(status: EngineStatus) -> str:
    """All of the panel."""
    heavy = [item for item in status.held if item.weight_bytes]
    light = (item for item in status.held if not item.weight_bytes)
    rows = (held(item, status) for item in sorted(heavy, key=lambda item: -item.weight_bytes))
    return f"{bars(status)}{''.join(rows)}{weightless(light)}{departure(status)}"


def bars(status: EngineStatus) -> str:
    """The budgets, how full they are, and what the worker takes of the machine."""
    if status.memory is None or status.budgets is None:
        return "<p class='note'>The worker is starting.</p>"
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


def held(item: HeldComponent, status: EngineStatus) -> str:
    """One held component: what, how large, where, for whom, since when; and what can be done."""
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
        f"<button data-action='{action}' data-key='{escape(item.key, quote=True)}'"
        f" aria-label='{escape(f'{word} {item.title}', quote=True)}'>{word}</button>"
        for action, word in (pin, ("drop", "Drop"))
    )
    return (
        f"<div class='held'><p class='held-line'><strong>{escape(item.title)}</strong>"
        f" <span class='weight'>{size(item.weight_bytes)}</span><br> "
        f"<span class='note'>{escape(' · '.join(facts))}</span></p>{buttons}</div>"
    )


def weightless(items: Iterable[HeldComponent]) -> str:
    """What is held and takes next to nothing, in one line."""
    names = ", ".join(item.title for item in items)
    return f"<p class='note'>{escape(f'Without weights: {names}')}</p>" if names else ""


def departure(status: EngineStatus) -> str:
    """What left last, and why; where nothing is held, that."""
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


def _held_bytes(status: EngineStatus, place: Place) -> int:
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
