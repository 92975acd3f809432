"""What fits on which card: every workflow that ships, in the mode in which it would run.

    python -m benchmarks.fits [--cards 8,12,16,24,32,48,80] [--ram 64] [--models FOLDER]

Prints one table, without running anything and without a GPU: the function that the page, `validate`
and the worker ask is asked, with the memory of each card (in GB of 10^9 bytes) in place of this
machine's. Models that are not on this machine are asked for at the hub: configurations and headers.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path

from app.errors import TooLarge
from app.settings import PROJECT, SHIPPED_WORKFLOWS, PathSettings
from app.units import size
from app.workflow.dtypes import for_device
from app.workflow.models.fit import DEVICE_SHARE, RAM_SHARE, Mode, Need, Room, choose_mode
from app.workflow.models.fit import peak_bytes as peak_bytes_of
from app.workflow.models.hub_headers import HubHeaders
from app.workflow.models.needs import Find, Unknown, asked_mode, step_model, step_need
from app.workflow.plan import PipelineStep
from app.workflow.planning.planner import make_plan

GB = 1_000_000_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Ask and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cards", default="8,12,16,24,32,48,80", help="their memory in GB")
    parser.add_argument("--ram", type=int, default=64, help="of the machine, in GB")
    parser.add_argument("--models", type=Path, help="a further folder of models, as OWNER/NAME")
    options = parser.parse_args(arguments)
    cards = [int(card) * GB for card in options.cards.split(",")]
    further = (options.models,) if options.models else ()
    paths = PathSettings(models=(PROJECT / "models", *further))
    print(f"| workflow | weights | {' | '.join(f'{card // GB} GB' for card in cards)} |")
    print("| --- " * (len(cards) + 2) + "|")
    with contextlib.closing(HubHeaders()) as hub:
        for workflow in sorted(SHIPPED_WORKFLOWS.glob("*.json")):
            for asked, need in needs(workflow, paths, hub.ask):
                rooms = [Room(int(DEVICE_SHARE * card), int(RAM_SHARE * options.ram * GB), card)
                         for card in cards]  # fmt: skip
                modes = " | ".join(in_words(asked, need, room) for room in rooms)
                print(f"| {workflow.stem} | {size(need.total_bytes)} | {modes} |")


def needs(workflow: Path, paths: PathSettings, find: Find) -> list[tuple[Mode, Need]]:
    """What each step with a pipeline asks for, and what it needs; nothing where that is unknown."""
    found = []
    for planned in make_plan(workflow, {}, paths=paths).steps:
        step = for_device(planned, accelerator=True)
        if isinstance(step, PipelineStep):
            try:
                found.append((asked_mode(step), step_need(step, step_model(step, find), {})))
            except Unknown as unknown:
                print(f"{workflow.stem}: {unknown.message}")
    return found


def in_words(asked: Mode, need: Need, room: Room) -> str:
    """The mode in which this card would run it."""
    try:
        mode = choose_mode(asked, need, room)
    except TooLarge:
        return "no"
    tight = "?" if peak_bytes_of(mode, need, room) > room.total_bytes else ""
    decoding = "tiles" if mode.vae_tiling else "slices" if mode.vae_slicing else ""
    return ", ".join(word for word in (mode.offload, decoding) if word) + tight or "all"


if __name__ == "__main__":
    main()
