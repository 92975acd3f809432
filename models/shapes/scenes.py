"""Scenes the model learns from: flat coloured shapes as signed distance fields, and their captions.

A scene is drawn in about a millisecond and described by a caption that mentions what a person would
mention; what it leaves out follows a rule (no background named: white; no place named: the center).
Some combinations are never drawn for training (`held_out`): the score is measured on them.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Field = Callable[[Floats, Floats], Floats]

SIZE_PX = 128
CENTER_PX = SIZE_PX / 2

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (224, 36, 36),
    "orange": (255, 140, 0),
    "yellow": (250, 225, 30),
    "green": (30, 150, 50),
    "cyan": (40, 215, 225),
    "blue": (30, 70, 220),
    "purple": (130, 40, 170),
    "pink": (255, 135, 190),
    "brown": (125, 72, 28),
    "black": (12, 12, 12),
    "gray": (130, 130, 130),
    "white": (250, 250, 250),
}
RADII_PX = {"small": 20.0, "medium": 30.0, "large": 42.0}
PAIR_RADIUS_PX = 25.0
PLACES = {
    "left": ("on the left", (-1, 0)),
    "right": ("on the right", (1, 0)),
    "top": ("at the top", (0, -1)),
    "bottom": ("at the bottom", (0, 1)),
    "center": ("in the center", (0, 0)),
}
RELATIONS = {"above": (0, -1), "below": (0, 1), "left of": (-1, 0), "right of": (1, 0)}
STROKE_PX = 5.0
"""Width of the line of an outlined shape."""
HELD_OUT_PER_256 = 20
PAIR_SHARE = 0.3
"""How many scenes of all have two objects."""


def _polygon(points: Sequence[tuple[float, float]]) -> Field:
    """The signed distance to a closed polygon (Quilez, "2D distance functions")."""
    vertices = np.asarray(points, np.float32)

    def field(x: Floats, y: Floats) -> Floats:
        squared = np.full(x.shape, np.inf, np.float32)
        sign = np.ones(x.shape, np.float32)
        for (ax, ay), (bx, by) in zip(vertices, np.roll(vertices, 1, axis=0), strict=True):
            edge_x, edge_y, to_x, to_y = bx - ax, by - ay, x - ax, y - ay
            along = np.clip((to_x * edge_x + to_y * edge_y) / (edge_x**2 + edge_y**2), 0, 1)
            squared = np.minimum(
                squared, (to_x - edge_x * along) ** 2 + (to_y - edge_y * along) ** 2
            )
            above, below, left = y >= ay, y < by, edge_x * to_y > edge_y * to_x
            crossing = (above & below & left) | ~(above | below | left)
            sign = np.where(crossing, -sign, sign)
        return sign * np.sqrt(squared)

    return field


def _circle_points(count: int, radius: float, turn: float = 0.0) -> list[tuple[float, float]]:
    angles = [turn + 2 * math.pi * i / count for i in range(count)]
    return [(radius * math.sin(a), -radius * math.cos(a)) for a in angles]


def _star_points() -> list[tuple[float, float]]:
    outer, inner = _circle_points(5, 1.08), _circle_points(5, 0.45, math.pi / 5)
    return [(x, y + 0.05) for pair in zip(outer, inner, strict=True) for x, y in pair]


def _heart_points() -> list[tuple[float, float]]:
    angles = [2 * math.pi * i / 32 for i in range(32)]
    return [
        (
            math.sin(a) ** 3,
            -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a) + 2.5)
            / 16,
        )
        for a in angles
    ]


def _cross_points(arm: float = 0.34) -> list[tuple[float, float]]:
    quarter = [(arm, -1.0), (arm, -arm), (1.0, -arm)]
    turned = [quarter]
    for _ in range(3):
        turned.append([(-y, x) for x, y in turned[-1]])
    return [point for part in turned for point in part]


SHAPES: dict[str, Field] = {
    "circle": lambda x, y: np.hypot(x, y) - 0.9,
    "square": _polygon([(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)]),
    "triangle": _polygon([(0, -0.95), (0.98, 0.78), (-0.98, 0.78)]),
    "diamond": _polygon([(0, -1.05), (0.72, 0), (0, 1.05), (-0.72, 0)]),
    "star": _polygon(_star_points()),
    "heart": _polygon(_heart_points()),
    "cross": _polygon(_cross_points()),
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.72) - 0.24,
    "hexagon": _polygon(_circle_points(6, 0.98, math.pi / 6)),
    "crescent": lambda x, y: np.maximum(np.hypot(x + 0.12, y) - 0.98, 0.8 - np.hypot(x - 0.36, y)),
}
"""Signed distance in units of the radius; negative inside; y grows downwards."""


@dataclass(frozen=True)
class Thing:
    """One object of a scene; its position and radius in pixels."""

    colour: str
    shape: str
    x_px: float
    y_px: float
    radius_px: float


@dataclass(frozen=True)
class Scene:
    """What is drawn and what is said about it."""

    things: tuple[Thing, ...]
    background: str
    caption: str
    place: str | None = None
    """Where the only object is."""
    relation: str | None = None
    """Where the first object is, seen from the second."""


_ROWS, _COLUMNS = (np.mgrid[0:SIZE_PX, 0:SIZE_PX] + 0.5).astype(np.float32)


def coverage(thing: Thing, *, outline: bool = False) -> Floats:
    """How much of each pixel the object covers, 0 to 1, shape (128, 128)."""
    field = SHAPES[thing.shape]
    x, y = (_COLUMNS - thing.x_px) / thing.radius_px, (_ROWS - thing.y_px) / thing.radius_px
    distance_px = field(x, y) * thing.radius_px
    if outline:
        distance_px = np.abs(distance_px + STROKE_PX / 2) - STROKE_PX / 2
    return np.clip(0.5 - distance_px, 0, 1).astype(np.float32)


def draw(scene: Scene, *, outline: bool = False) -> Floats:
    """The scene as RGB, 0 to 255, shape (128, 128, 3)."""
    picture = np.empty((SIZE_PX, SIZE_PX, 3), np.float32)
    picture[:] = COLOURS[scene.background]
    for thing in scene.things:
        alpha = coverage(thing, outline=outline)[..., None]
        picture = picture * (1 - alpha) + np.asarray(COLOURS[thing.colour], np.float32) * alpha
    return picture


def held_out(scene: Scene) -> bool:
    """Whether this combination of colours, shapes and background is kept from training."""
    # Sorted: "a above b" and "b below a" are one picture, held out in both words or in neither.
    parts = sorted(f"{thing.colour} {thing.shape}" for thing in scene.things)
    digest = hashlib.sha256("/".join([*parts, scene.background]).encode()).digest()
    return digest[0] < HELD_OUT_PER_256


def random_scene(
    rng: random.Random, *, from_held_out: bool = False, pair_share: float = PAIR_SHARE
) -> Scene:
    """A scene and its caption: of the training combinations, or of those held out."""
    while True:
        scene = _pair(rng) if rng.random() < pair_share else _single(rng)
        if held_out(scene) == from_held_out:
            return scene


def _single(rng: random.Random) -> Scene:
    says_background = rng.random() < 0.93
    background = rng.choice(list(COLOURS)) if says_background else "white"
    colour = rng.choice([name for name in COLOURS if name != background])
    shape = rng.choice(list(SHAPES))
    size = rng.choice(list(RADII_PX)) if rng.random() < 0.4 else None
    place = rng.choice(list(PLACES)) if rng.random() < 0.5 else None

    radius_px = RADII_PX[size or rng.choice(["medium", "large"])] * rng.uniform(0.95, 1.05)
    _, (dx, dy) = PLACES[place or "center"]
    offset_px = min(34.0, CENTER_PX - 1.08 * radius_px)
    thing = Thing(
        colour,
        shape,
        CENTER_PX + dx * offset_px + rng.uniform(-2, 2),
        CENTER_PX + dy * offset_px + rng.uniform(-2, 2),
        radius_px,
    )
    words = [size or "", colour, shape]
    if place:
        words.append(PLACES[place][0])
    if says_background:
        words.append(f"on a {background} background")
    caption = " ".join(word for word in words if word)
    return Scene((thing,), background, _said(caption, rng), place=place or "center")


def _pair(rng: random.Random) -> Scene:
    background, *colours = rng.sample(list(COLOURS), 3)
    shapes = [rng.choice(list(SHAPES)) for _ in colours]
    relation = rng.choice(list(RELATIONS))
    dx, dy = RELATIONS[relation]
    things = tuple(
        Thing(
            colour,
            shape,
            CENTER_PX + side * dx * 31 + rng.uniform(-2, 2),
            CENTER_PX + side * dy * 31 + rng.uniform(-2, 2),
            PAIR_RADIUS_PX * rng.uniform(0.95, 1.05),
        )
        for side, colour, shape in zip((1, -1), colours, shapes, strict=True)
    )
    first, second = (f"{thing.colour} {thing.shape}" for thing in things)
    caption = f"{first} {relation} {_article(second)} {second} on a {background} background"
    return Scene(things, background, _said(caption, rng), relation=relation)


def _said(caption: str, rng: random.Random) -> str:
    """The caption as different people type it."""
    if rng.random() < 0.85:
        caption = f"{_article(caption)} {caption}"
    caption = caption.replace("on a orange", "on an orange")
    if rng.random() < 0.05:
        caption = f"{rng.choice(['a picture of', 'please draw', 'nice', 'qxz'])} {caption}"
    return caption


def _article(words: str) -> str:
    return "an" if words[0] in "aeiou" else "a"
