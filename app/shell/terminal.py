"""Runs and memory as text, for the command line and the dw> prompt."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from app.engine import Engine
from app.engine.status import EngineStatus, SlotStatus
from app.run_view import RunView, advance
from app.signals import first_ctrl_c
from app.units import duration, size


@contextlib.contextmanager
def progress(console: Console, title: str = "") -> Iterator[Callable[[str, float], None]]:
    """Yields a function that shows a status and a fraction (0 to 1), on a terminal with a bar."""
    columns = (BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as shown:
        bar = shown.add_task(f"{title}Waiting", total=1.0)
        yield lambda status, fraction: shown.update(
            bar, completed=fraction, description=f"{title}{status}"
        )


def run_to_end(
    engine: Engine, submit: Callable[[], str], console: Console, title: str = ""
) -> RunView:
    """Submits a run and shows it until it has ended, behind this title.

    Ctrl-C cancels it, even before `submit` has returned the run's id. A second Ctrl-C raises
    KeyboardInterrupt.
    """
    with first_ctrl_c() as ctrl_c, progress(console, title) as show:
        run_id = submit()
        ctrl_c.calls(lambda: engine.cancel(run_id))
        view = RunView(run_id=run_id)
        for event in engine.events(run_id):
            view = advance(view, event)
            show(view.status, view.fraction or 0.0)
    return view


def outcome(view: RunView) -> str:
    """Returns how a run ended, as a sentence."""
    if view.error is not None:
        return view.error.sentence()
    if view.outcome == "cancelled":
        return f"{view.status}. {view.notice}".strip()
    done = f"{view.status}, seed {view.seed}" if view.seed is not None else view.status
    if view.unchanged:
        done = unchanged(view.status)
    return f"{done}. {view.notice}" if view.notice else done


def unchanged(status: str) -> str:
    """Returns the reuse of an earlier result as a sentence, with how to run it again."""
    return f"{status}. `--seed N` makes another, `--fresh` the same again."


def status(found: EngineStatus) -> str:
    """Returns what the engine is doing, one fact a line."""
    lines = [line for slot in found.slots or (found,) for line in _slot(slot)]
    preparing = sum(run.state == "preparing" for run in found.queue)
    how = f" ({preparing} preparing)" if preparing else ""
    return "\n".join([*lines, f"waiting  {len(found.queue)}{how}"])


def _slot(found: SlotStatus) -> list[str]:
    running = found.running
    return [
        f"worker   {found.worker}" + (f" (pid {found.pid})" if found.pid else ""),
        f"device   {found.device or 'not known yet'} {found.device_name}".rstrip(),
        f"running  {f'{running.title}: {running.phase}' if running else 'nothing'}",
        f"held     {len(found.held)} components",
    ]


def memory(found: EngineStatus) -> str:
    """Returns what each worker holds, largest first, and the memory in use."""
    slots = found.slots or (found,)
    if len(slots) == 1:
        return _memory(slots[0])
    return "\n\n".join(
        f"worker {number} on {slot.device or 'a device not known yet'}\n{_memory(slot)}"
        for number, slot in enumerate(slots, start=1)
    )


def _memory(found: SlotStatus) -> str:
    used = found.memory
    if used is None:
        return "The worker has not started yet."
    now = time.time()
    lines = [
        f"{size(item.weight_bytes):>8}  {item.title}, used {duration(now - item.last_used)} ago"
        + (", pinned" if item.pinned else "")
        + (", in RAM" if item.place == "ram" else "")
        for item in sorted(found.held, key=lambda item: -item.weight_bytes)
    ]
    if found.device != "cpu":
        lines.append(
            f"{size(used.device_bytes):>8}  allocated on {found.device},"
            f" {size(used.device_reserved_bytes)} reserved"
        )
    lines.append(
        f"{size(used.anonymous_bytes):>8}  used by the worker process, plus"
        f" {size(used.resident_bytes - used.anonymous_bytes)} of file cache"
    )
    if found.budgets is not None:
        weights = sum(item.weight_bytes for item in found.held if item.place == "device")
        budget = size(found.budgets.device_bytes)
        lines.append(f"{size(weights):>8}  of weights loaded, of a budget of {budget}")
    lines.append(
        f"{size(used.device_free_bytes):>8}  free of {size(used.device_total_bytes)}"
        f" ({found.device})"
    )
    return "\n".join(lines)
