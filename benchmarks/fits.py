"""Prints which shipped workflow fits on which card, and in which mode.

    python -m benchmarks.fits [--cards 8,12,16,24,32,48,80] [--ram 64] [--models FOLDER]
                              [--smallest]

Prints one table, without running anything and without a GPU: calls the function that the page,
`validate` and the worker use, with each card's memory (in GiB, which makers call GB). For models
not on this machine it reads configurations and headers from the hub. The bundled model, which fits
everywhere, is omitted; `--smallest` uses it only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from app.catalog.catalog import Catalog
from app.dialect.plan import PipelineStep, for_device
from app.errors import TooLarge
from app.models.fit import (
    DEVICE_SHARE,
    RAM_SHARE,
    Mode,
    Need,
    Room,
    choose_mode,
    peak_bytes,
)
from app.models.hub import is_repository
from app.models.hub_headers import HubHeaders
from app.models.needs import asked_mode, step_need, weighed_specs
from app.models.specs import Find, Unknown
from app.planning.planner import make_plan
from app.settings import PROJECT, PathSettings
from app.units import size
from benchmarks.options import options_parser

GIB = 1 << 30
BUNDLED = PROJECT / "workflows" / "text-to-image.json"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--cards", default="8,12,16,24,32,48,80", help="their memory in GB")
    parser.add_argument("--ram", type=int, default=64, help="of the machine, in GB")
    parser.add_argument("--models", type=Path, help="a further folder of models, as OWNER/NAME")
    options = parser.parse_args(arguments)
    cards = [int(card) * GIB for card in options.cards.split(",")]
    further = (options.models,) if options.models else ()
    paths = PathSettings(models=(PROJECT / "models", *further))
    print(f"| workflow | weights | {' | '.join(f'{card // GIB} GB' for card in cards)} |")
    print("| --- " * (len(cards) + 2) + "|")
    with contextlib.closing(HubHeaders()) as hub:
        for workflow in [BUNDLED] if options.smallest else hub_workflows():
            for asked, need in needs(workflow, paths, hub.ask):
                rooms = [Room(int(DEVICE_SHARE * card), int(RAM_SHARE * options.ram * GIB), card)
                         for card in cards]  # fmt: skip
                modes = " | ".join(in_words(asked, need, room) for room in rooms)
                print(f"| {workflow.stem} | {size(need.total_bytes)} | {modes} |")


def hub_workflows() -> list[Path]:
    """Returns the shipped workflows whose models are on the hub."""
    entries = Catalog(PathSettings()).entries()
    found = [entry for entry in entries if all(map(is_repository, entry.models))]
    return sorted(Path(entry.path) for entry in found)


def needs(workflow: Path, paths: PathSettings, find: Find) -> list[tuple[Mode, Need]]:
    """Returns requested mode and memory needs of each pipeline step, unless unknown."""
    found = []
    for planned in make_plan(workflow, {}, paths=paths).steps:
        step = for_device(planned, accelerator=True)
        if isinstance(step, PipelineStep):
            try:
                found.append((asked_mode(step), step_need(step, weighed_specs(step, find), {})))
            except Unknown as unknown:
                print(f"{workflow.stem}: {unknown.message}")
    return found


def in_words(asked: Mode, need: Need, room: Room) -> str:
    """Returns how this card would run it: `all` on the card, `turns` (model offload), `layers`, or
    `no`; with `?` if it may still run out of memory."""
    try:
        mode = choose_mode(asked, need, room)
    except TooLarge:
        return "no"
    words = {None: "all", "model": "turns", "sequential": "layers"}[mode.offload]
    if mode.vae_tiling or mode.vae_slicing:
        words += ", VAE in tiles" if mode.vae_tiling else ", VAE in slices"
    return words + "?" * (peak_bytes(mode, need, room) > room.total_bytes)


if __name__ == "__main__":
    main()
