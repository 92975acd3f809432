"""How often the model draws what a caption says, measured in pixels on combinations it never saw.

    python -m models.shapes.score [--captions 200] [--pictures FOLDER]
    python -m models.shapes.score --self-check

An attribute counts for the captions that name it: colour, shape and place for single objects, the
background for all, and two objects are right together (both colours, both shapes and where they
are) or not at all. The self-check asks the checker about true scenes, which it must find right,
and about captions of other scenes, where only chance may agree.

No network is asked. The background is the palette's nearest to the border; an object's colour is
the palette's nearest in flat ground; its shape is the best overlap with the shapes as they are
drawn; and its center is that of the best shape, so a crescent in the middle is in the middle.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import random
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from models.shapes.scenes import (
    CENTER_PX,
    COLOURS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZE_PX,
    Floats,
    Scene,
    draw,
    random_scene,
)

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

HERE = Path(__file__).resolve().parent
Picture = npt.NDArray[np.float32] | npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

CAPTIONS_SEED = 20
"""Of the captions, which stay the same when the noise's seed changes."""
BORDER_PX = 3
FEWEST_FLAT_PX = 40
"""Less flat ground of a colour than this is no object."""
OFF_CENTER_PX = 9.0
"""An object further than this from the picture's center is to a side of it."""
LEAST_OVERLAP = 0.7
"""Intersection over union under which something is none of the shapes."""
FRAME_CELLS, FRAME_REACH = 96, 1.2
"""Shapes are compared in a frame around their centroid, in units of the root of their area."""
SHEET_PICTURES = 40


@dataclass(frozen=True)
class Attribute:
    """What is measured: its name in the table, the shares asked for, and what guessing gets."""

    title: str
    must: float
    aim: float
    chance: float


ATTRIBUTES = {
    "colour": Attribute("object colour", 0.95, 0.99, 1 / 12),
    "background": Attribute("background colour", 0.95, 0.99, 1 / 12),
    "shape": Attribute("shape", 0.80, 0.95, 1 / 10),
    "place": Attribute("place", 0.90, 0.97, 1 / 5),
    "two_objects": Attribute("two objects both right", 0.50, 0.85, 0.0),
}
SELF_CHECK_SCENES = 500
SELF_CHECK_MUST = 0.99
CHANCE_MARGIN = 0.1


@dataclass(frozen=True)
class Verdict:
    """Whether a picture shows what its caption says; None where the caption does not say it."""

    colour: bool | None = None
    background: bool | None = None
    shape: bool | None = None
    place: bool | None = None
    two_objects: bool | None = None

    @property
    def wrong(self) -> list[str]:
        """The attributes that are not as said."""
        return [field.name for field in fields(self) if getattr(self, field.name) is False]


@dataclass(frozen=True)
class Rate:
    """How many of the captions that name an attribute got it."""

    right: int
    asked: int

    @property
    def share(self) -> float:
        """0 to 1; not a number where no caption names the attribute."""
        return self.right / self.asked if self.asked else float("nan")


@dataclass(frozen=True)
class Score:
    """The rate of every attribute."""

    rates: Mapping[str, Rate]

    @property
    def missed(self) -> list[str]:
        """The attributes under their must."""
        return [name for name, a in ATTRIBUTES.items() if self.rates[name].share < a.must]


@dataclass(frozen=True)
class Seen:
    """An object found in a picture; no shape where it is like none of them."""

    colour: str
    shape: str | None
    x_px: float
    y_px: float


# --- looking at a picture ------------------------------------------------------------------------


_Y_PX, _X_PX = np.mgrid[0:SIZE_PX, 0:SIZE_PX] + 0.5
_IS_BORDER = np.maximum(abs(_X_PX - CENTER_PX), abs(_Y_PX - CENTER_PX)) > CENTER_PX - BORDER_PX


def judge(picture: Picture, scene: Scene) -> Verdict:
    """Compare a picture, (128, 128, 3) of 0 to 255, with what the scene's caption says."""
    background, seen = look(picture, len(scene.things))
    background_right = background == scene.background if "background" in scene.caption else None
    if scene.relation is not None:
        return Verdict(background=background_right, two_objects=_are_the_pair(seen, scene))
    said, named_place = scene.things[0], PLACES[scene.place or "center"][0] in scene.caption
    return Verdict(
        colour=any(thing.colour == said.colour for thing in seen),
        background=background_right,
        shape=any(thing.shape == said.shape for thing in seen),
        place=any(_place(thing) == scene.place for thing in seen) if named_place else None,
    )


def look(picture: Picture, count: int) -> tuple[str, list[Seen]]:
    """The background's colour and the `count` largest objects, fewer if there are fewer.

    Objects of one picture differ in colour, as those of every caption do.
    """
    pixels = picture.astype(np.float32)
    ground = np.median(pixels[_IS_BORDER], axis=0)
    background = nearest_colour(ground)
    names = _nearest_colours(pixels)
    # Between two colours an edge may pass a third one, but only for a pixel or two.
    flat = _has_equal_neighbours(names)
    sizes = np.bincount(names[flat], minlength=len(COLOURS))
    sizes[list(COLOURS).index(background)] = 0
    cores = [
        flat & (names == index)
        for index in np.argsort(-sizes, kind="stable")[:count]
        if sizes[index] >= FEWEST_FLAT_PX
    ]
    if not cores:
        return background, []
    distances_px = [np.hypot(_X_PX - x, _Y_PX - y) for x, y in map(_centroid, cores)]
    nearest_core = np.argmin(distances_px, axis=0)
    contrast = np.linalg.norm(pixels - ground, axis=2)
    seen = []
    for index, core in enumerate(cores):
        colour = np.median(pixels[core], axis=0)
        # Whatever else stands out is taken in too, so an object too many spoils the shape.
        mask = (contrast > np.linalg.norm(colour - ground) / 2) & (nearest_core == index)
        shape, x_px, y_px = _recognise(mask if mask.any() else core)
        seen.append(Seen(nearest_colour(colour), shape, x_px, y_px))
    return background, seen


def nearest_colour(rgb: npt.ArrayLike) -> str:
    """The palette's name for a colour of 0 to 255."""
    return list(COLOURS)[int(_nearest_colours(np.asarray(rgb, np.float32)))]


def _nearest_colours(pixels: Floats) -> npt.NDArray[np.intp]:
    palette = np.array(list(COLOURS.values()), np.float32)
    return np.argmin(np.square(palette).sum(axis=1) - 2 * pixels @ palette.T, axis=-1)


def _has_equal_neighbours(names: npt.NDArray[np.intp]) -> Mask:
    """Whether all eight neighbours are the same; those of the outermost pixels are not asked."""
    around = np.lib.stride_tricks.sliding_window_view(names, (3, 3))
    equal = np.zeros(names.shape, bool)
    equal[1:-1, 1:-1] = (around == around[..., 1:2, 1:2]).all(axis=(2, 3))
    return equal


def _centroid(mask: Mask) -> tuple[float, float]:
    return float(_X_PX[mask].mean()), float(_Y_PX[mask].mean())


def _place(thing: Seen) -> str:
    dx, dy = thing.x_px - CENTER_PX, thing.y_px - CENTER_PX
    if max(abs(dx), abs(dy)) < OFF_CENTER_PX:
        return "center"
    direction = _direction(dx, dy)
    return next(name for name, (_, towards) in PLACES.items() if towards == direction)


def _are_the_pair(seen: Sequence[Seen], scene: Scene) -> bool:
    by_colour = {thing.colour: thing for thing in seen}
    if any(said.colour not in by_colour for said in scene.things):
        return False
    first, second = (by_colour[said.colour] for said in scene.things)
    direction = _direction(first.x_px - second.x_px, first.y_px - second.y_px)
    return [first.shape, second.shape] == [said.shape for said in scene.things] and (
        direction == RELATIONS[scene.relation or ""]
    )


def _direction(dx: float, dy: float) -> tuple[int, int]:
    """The one of the four directions that an offset points to most."""
    return (1 if dx > 0 else -1, 0) if abs(dx) > abs(dy) else (0, 1 if dy > 0 else -1)


# --- telling shapes apart ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Templates:
    """Every shape in the frame, a little moved and resized: one row each."""

    names: list[str]
    cells: Floats
    areas: Floats
    centers: dict[str, tuple[float, float]]
    """Where a shape's own center is in the frame."""


@functools.cache
def _templates() -> _Templates:
    fine = ((np.arange(480) + 0.5) / 200 - 1.2).astype(np.float32)
    fine_x, fine_y = np.meshgrid(fine, fine)
    frame_x, frame_y = np.meshgrid(_frame(), _frame())
    names, rows, centers = [], [], {}
    for name, field in SHAPES.items():
        inside = field(fine_x, fine_y) < 0
        side = np.sqrt(inside.sum()) / 200
        center_x, center_y = fine_x[inside].mean(), fine_y[inside].mean()
        centers[name] = (-center_x / side, -center_y / side)
        for scale, dx, dy in itertools.product(
            (0.96, 1.0, 1.04), (-0.03, 0, 0.03), (-0.03, 0, 0.03)
        ):
            x = center_x + (frame_x / scale - dx) * side
            y = center_y + (frame_y / scale - dy) * side
            names.append(name)
            rows.append((field(x, y) < 0).ravel())
    cells = np.stack(rows).astype(np.float32)
    return _Templates(names, cells, cells.sum(axis=1), centers)


def _frame() -> Floats:
    """The middle of every cell along one side."""
    steps = (np.arange(FRAME_CELLS) + 0.5) / FRAME_CELLS
    return ((2 * steps - 1) * FRAME_REACH).astype(np.float32)


def _recognise(mask: Mask) -> tuple[str | None, float, float]:
    """The shape of a region, if it is one, and its center in pixels."""
    templates = _templates()
    side_px, (x_px, y_px) = float(np.sqrt(mask.sum())), _centroid(mask)
    columns, rows = (np.floor(at + _frame() * side_px).astype(int) + 1 for at in (x_px, y_px))
    # What lies outside the picture is empty: the padding is read there.
    columns, rows = np.clip(columns, 0, SIZE_PX + 1), np.clip(rows, 0, SIZE_PX + 1)
    cells = np.pad(mask, 1)[np.ix_(rows, columns)].ravel().astype(np.float32)
    shared = templates.cells @ cells
    # The region's whole area, so that parts outside the frame count against every shape.
    area = (FRAME_CELLS / (2 * FRAME_REACH)) ** 2
    overlaps = shared / (templates.areas + area - shared)
    best = int(np.argmax(overlaps))
    if overlaps[best] < LEAST_OVERLAP:
        return None, x_px, y_px
    name = templates.names[best]
    center_x, center_y = templates.centers[name]
    return name, float(x_px + center_x * side_px), float(y_px + center_y * side_px)


# --- counting ------------------------------------------------------------------------------------


def score(pictures: Iterable[Picture], scenes: Sequence[Scene]) -> Score:
    """The rates over pictures and the scenes of their captions, in the same order."""
    return tally([judge(picture, scene) for picture, scene in zip(pictures, scenes, strict=True)])


def tally(verdicts: Sequence[Verdict]) -> Score:
    """The rates over what was judged."""
    rates = {}
    for name in ATTRIBUTES:
        asked = [getattr(verdict, name) for verdict in verdicts]
        rates[name] = Rate(right=asked.count(True), asked=len(asked) - asked.count(None))
    return Score(rates)


def held_out_scenes(number: int) -> list[Scene]:
    """Always the same scenes, singles and pairs, of combinations no training has drawn."""
    rng = random.Random(CAPTIONS_SEED)
    return [random_scene(rng, from_held_out=True) for _ in range(number)]


def draw_with(
    pipe: StableDiffusionPipeline,
    captions: Sequence[str],
    steps: int = 20,
    guidance_scale: float = 2.5,
    seed: int = 0,
    batch: int = 10,
) -> list[npt.NDArray[np.uint8]]:
    """A picture for every caption; the same one whatever the batch, as each has its own noise."""
    import torch

    pictures: list[npt.NDArray[np.uint8]] = []
    for start in range(0, len(captions), batch):
        chosen = list(captions[start : start + batch])
        made = pipe(
            chosen,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generator=[torch.Generator().manual_seed(seed + start + i) for i in range(len(chosen))],
            output_type="np",
        ).images
        pictures += list((made * 255).round().astype(np.uint8))
    return pictures


# --- the command ---------------------------------------------------------------------------------


def table(result: Score) -> str:
    """Returns the rates as a table, next to the required rate and the goal."""
    lines = [f"{'':24}{'right':>10}{'rate':>8}{'required':>10}{'goal':>8}"]
    for name, attribute in ATTRIBUTES.items():
        rate = result.rates[name]
        share = f"{rate.share:.1%}" if rate.asked else "-"
        lines.append(
            f"{attribute.title:24}{f'{rate.right}/{rate.asked}':>10}{share:>8}"
            f"{attribute.must:>10.0%}{attribute.aim:>8.0%}"
            f"{'  missed' if name in result.missed else ''}"
        )
    return "\n".join(lines)


def self_check() -> bool:
    """Print what the checker says of true scenes and of captions that belong to others."""
    rng = random.Random(CAPTIONS_SEED)
    scenes = [random_scene(rng) for _ in range(SELF_CHECK_SCENES)]
    pictures = [draw(scene) for scene in scenes]
    judge(pictures[0], scenes[0])  # the templates are made once, at the first picture
    started = time.perf_counter()
    own = score(pictures, scenes)
    judged_ms = (time.perf_counter() - started) / len(pictures) * 1000
    others = score(pictures, [*scenes[1:], scenes[0]])
    print(f"{'':24}{'own caption':>13}{'another':>13}{'chance':>8}")
    good = True
    for name, attribute in ATTRIBUTES.items():
        own_share, other_share = own.rates[name].share, others.rates[name].share
        good &= own_share >= SELF_CHECK_MUST and other_share <= attribute.chance + CHANCE_MARGIN
        print(f"{attribute.title:24}{own_share:>13.1%}{other_share:>13.1%}{attribute.chance:>8.1%}")
    print(f"{len(scenes)} true scenes, {judged_ms:.1f} ms a picture")
    return good


def save_sheet(
    path: Path, pictures: Sequence[Picture], scenes: Sequence[Scene], verdicts: Sequence[Verdict]
) -> None:
    """One PNG of pictures over their captions, in red with what is wrong."""
    from PIL import Image, ImageDraw, ImageFont

    columns, width, height = 8, SIZE_PX + 16, SIZE_PX + 64
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height), "#e8e8e8")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for index, (picture, scene, verdict) in enumerate(zip(pictures, scenes, verdicts, strict=True)):
        left, top = index % columns * width + 8, index // columns * height + 8
        sheet.paste(Image.fromarray(picture.astype(np.uint8)), (left, top))
        says = textwrap.wrap(scene.caption, 26) + [f"wrong: {name}" for name in verdict.wrong]
        ink = "#b00000" if verdict.wrong else "#202020"
        pen.multiline_text((left, top + SIZE_PX + 2), "\n".join(says), ink, font, spacing=1)
    sheet.save(path)


def main() -> None:
    """Measure as the command line says; exit with 1 where a must is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=HERE, help="the pipeline's folder")
    parser.add_argument("--captions", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=2.5)
    parser.add_argument("--seed", type=int, default=0, help="of the noise; captions stay")
    parser.add_argument("--pictures", type=Path, help="save the first pictures in this folder")
    parser.add_argument("--self-check", action="store_true", help="check the checker instead")
    options = parser.parse_args()
    if options.self_check:
        sys.exit(not self_check())

    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(options.model, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    scenes = held_out_scenes(options.captions)
    captions = [scene.caption for scene in scenes]
    pictures = draw_with(pipe, captions, options.steps, options.guidance, options.seed)
    verdicts = [judge(picture, scene) for picture, scene in zip(pictures, scenes, strict=True)]
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
        shown = slice(SHEET_PICTURES)
        save_sheet(options.pictures / "sheet.png", pictures[shown], scenes[shown], verdicts[shown])
    result = tally(verdicts)
    print(table(result))
    sys.exit(bool(result.missed))


if __name__ == "__main__":
    main()
