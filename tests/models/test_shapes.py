"""The bundled model: training data, checker, and results."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from models.shapes.scenes import (
    CENTER_PX,
    COLOURS,
    RADII_PX,
    SHAPES,
    SIZE_PX,
    Scene,
    Thing,
    draw,
    random_scene,
)
from models.shapes.score import (
    ATTRIBUTES,
    CHANCE_MARGIN,
    FEWEST_FLAT_PX,
    SELF_CHECK_MUST,
    Picture,
    Score,
    Verdict,
    draw_with,
    judge,
    nearest_colour,
    score,
)
from models.shapes.tokenizer import END, MAX_TOKENS, START, WORDS, build_tokenizer

MOST_BYTES = 25_000_000
TWELVE = (
    ("red", "circle", "white"),
    ("orange", "square", "blue"),
    ("yellow", "star", "black"),
    ("green", "triangle", "pink"),
    ("cyan", "diamond", "brown"),
    ("blue", "heart", "yellow"),
    ("purple", "ring", "orange"),
    ("pink", "hexagon", "gray"),
    ("brown", "cross", "cyan"),
    ("black", "crescent", "green"),
    ("gray", "circle", "purple"),
    ("white", "heart", "red"),
)
"""Every colour once as object and once as background, every shape at least once."""
OUTLINED = (("red", "circle", "white"), ("blue", "square", "yellow"), ("white", "hexagon", "black"))


def one(colour: str, shape: str, background: str, size: str = "medium") -> Scene:
    """Returns one object in the middle and its shortest caption, with a size that is not medium."""
    said = f"{'' if size == 'medium' else size + ' '}{colour} {shape}"
    article = "an" if said[0] in "aeiou" else "a"
    ground = f"{'an' if background[0] in 'aeiou' else 'a'} {background} background"
    thing = Thing(colour, shape, CENTER_PX, CENTER_PX, RADII_PX[size])
    return Scene((thing,), background, f"{article} {said} on {ground}", place="center")


def shares(result: Score) -> dict[str, float]:
    return {name: rate.share for name, rate in result.rates.items()}


# --- the checker ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def true_scenes() -> list[Scene]:
    rng = random.Random(11)
    return [random_scene(rng) for _ in range(300)]


def soft(picture: Picture) -> Picture:
    """Returns an image as from a decoder: edges a pixel softer, colours slightly off."""
    for axis in (0, 1):
        picture = sum(np.roll(picture, by, axis) for by in (-1, 0, 1)) / 3
    return np.clip(picture + np.array([8, -8, 8]), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("as_seen", [np.asarray, soft], ids=["sharp", "soft"])
def test_checker_accepts_true_scenes(
    true_scenes: list[Scene], as_seen: Callable[[Picture], Picture]
):
    found = shares(score([as_seen(draw(scene)) for scene in true_scenes], true_scenes))
    assert found.keys() == ATTRIBUTES.keys()
    assert all(share >= SELF_CHECK_MUST for share in found.values()), found


def test_checker_rejects_captions_of_other_scenes(true_scenes: list[Scene]):
    others = [*true_scenes[1:], true_scenes[0]]
    found = shares(score([draw(scene) for scene in true_scenes], others))
    for name, attribute in ATTRIBUTES.items():
        assert found[name] == pytest.approx(attribute.chance, abs=CHANCE_MARGIN), name


def test_checker_finds_only_background_in_empty_image():
    scene = one("red", "circle", "white")
    verdict = judge(draw(replace(scene, things=())), scene)
    assert verdict == Verdict(colour=False, background=True, shape=False)


def test_checker_rejects_extra_object():
    scene = one("red", "circle", "white", "small")
    intruder = Thing("blue", "circle", 100, 30, 18)
    verdict = judge(draw(replace(scene, things=(*scene.things, intruder))), scene)
    assert verdict.wrong == ["shape"]


def test_checker_rejects_swapped_objects():
    red, blue = Thing("red", "star", 33, 64, 25), Thing("blue", "cross", 95, 64, 25)
    scene = Scene(
        (red, blue), "white", "a red star left of a blue cross on a white background",
        relation="left of",
    )  # fmt: skip
    mirrored = replace(scene, things=(replace(red, x_px=95), replace(blue, x_px=33)))
    swapped = replace(scene, things=(replace(red, shape="cross"), replace(blue, shape="star")))
    assert judge(draw(scene), scene) == Verdict(background=True, two_objects=True)
    assert judge(draw(mirrored), scene).wrong == ["two_objects"]
    assert judge(draw(swapped), scene).wrong == ["two_objects"]


def test_checker_ignores_what_the_caption_omits():
    scene = replace(one("red", "circle", "white"), caption="a red circle")
    assert judge(draw(scene), scene) == Verdict(colour=True, shape=True)


# --- what it learns from -------------------------------------------------------------------------


def combination(scene: Scene) -> tuple[str, ...]:
    return (*(f"{thing.colour} {thing.shape}" for thing in scene.things), scene.background)


def test_held_out_combinations_are_not_in_training():
    rng = random.Random(3)
    trained = {combination(random_scene(rng)) for _ in range(4000)}
    kept = {combination(random_scene(rng, from_held_out=True)) for _ in range(400)}
    assert {len(parts) for parts in kept} == {2, 3}  # singles and pairs
    assert not trained & kept


def test_training_has_every_colour_shape_and_background():
    rng = random.Random(4)
    trained = {part for _ in range(4000) for part in combination(random_scene(rng))}
    assert trained == {*COLOURS, *(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)}


# --- the tokenizer -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return build_tokenizer()


@pytest.mark.parametrize("word", WORDS)
def test_vocabulary_word_is_one_token(tokenizer: CLIPTokenizer, word: str):
    assert tokenizer.tokenize(word) == [f"{word}</w>"]
    assert tokenizer.tokenize(f"a {word.upper()}, a") == ["a</w>", f"{word}</w>", ",</w>", "a</w>"]


@pytest.mark.parametrize(
    "text",
    ["", " ", "🦊", "👩🏽‍🚀", "一个红色的圆", "красный круг", "qxz", "ﷺ", "\x00", "naïve\n\tcafé"],
)
def test_tokenizer_accepts_any_text(tokenizer: CLIPTokenizer, text: str):
    start, *within, end = tokenizer(text).input_ids
    assert (start, end) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert tokenizer.unk_token_id not in within
    assert bool(within) == bool(text.strip())


def test_tokenizer_truncates_long_text(tokenizer: CLIPTokenizer):
    ids = tokenizer("red " * 100, truncation=True).input_ids
    assert len(ids) == MAX_TOKENS
    assert tokenizer.convert_ids_to_tokens([ids[0], ids[-1]]) == [START, END]


# --- what was shipped ----------------------------------------------------------------------------


def test_bundled_model_is_small_and_has_no_pickles(shapes_model: Path):
    files = [
        path
        for path in shapes_model.rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    ]
    assert shapes_model / "model_index.json" in files
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".md"}
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES


def test_shipped_tokenizer_equals_training_tokenizer(shapes_model: Path, tokenizer: CLIPTokenizer):
    shipped = CLIPTokenizer.from_pretrained(shapes_model / "tokenizer")
    rng = random.Random(5)
    captions = [*(random_scene(rng).caption for _ in range(50)), "", "🦊 qxz"]
    assert shipped(captions).input_ids == tokenizer(captions).input_ids


# --- what it draws -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipe(shapes_model: Path) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(shapes_model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def outlining_pipe(
    pipe: StableDiffusionPipeline, shapes_model: Path
) -> Iterator[StableDiffusionPipeline]:
    pipe.load_lora_weights(shapes_model / "outline")
    yield pipe
    pipe.unload_lora_weights()


def test_bundled_model_draws_colours_and_backgrounds_of_captions(pipe: StableDiffusionPipeline):
    scenes = [one(*parts) for parts in TWELVE]
    rates = score(draw_with(pipe, [scene.caption for scene in scenes]), scenes).rates
    assert rates["colour"].asked == rates["background"].asked == 12
    assert rates["colour"].right >= 11
    assert rates["background"].right >= 11


def test_bundled_model_image_depends_on_seed_not_batch(pipe: StableDiffusionPipeline):
    captions = ["a red circle on a white background", "a blue star on a yellow background"]
    together = np.int16(draw_with(pipe, captions, steps=4, seed=7, batch=2))
    apart = np.int16(draw_with(pipe, captions, steps=4, seed=7, batch=1))
    assert np.abs(together - apart).max() <= 2
    assert np.abs(together - draw_with(pipe, captions, steps=4, seed=8)).max() > 2


def test_bundled_model_ignores_unknown_words(pipe: StableDiffusionPipeline):
    spoken = {
        "a zorblax red circle on a white background": ("red", "circle", "white"),
        "a blue square on a yellow background 🦊": ("blue", "square", "yellow"),
        "photorealistic green star on a pink background": ("green", "star", "pink"),
        "一个 white heart on a black background": ("white", "heart", "black"),
    }
    scenes = [one(*parts) for parts in spoken.values()]
    verdicts = [judge(*pair) for pair in zip(draw_with(pipe, list(spoken)), scenes, strict=True)]
    assert sum(verdict.colour and verdict.background for verdict in verdicts) >= 3


def test_bundled_model_draws_for_unknown_text(pipe: StableDiffusionPipeline):
    for picture in draw_with(pipe, ["", "🦊🦊🦊", "一个红色的圆", "zorblax " * 40]):
        assert picture.shape == (SIZE_PX, SIZE_PX, 3)
        # Broken numbers decode to one flat tone.
        assert picture.std() > 2


def middle(picture: Picture) -> str:
    """Returns the colour inside an object in the middle."""
    inside = slice(SIZE_PX // 2 - 6, SIZE_PX // 2 + 6)
    return nearest_colour(np.median(picture[inside, inside], axis=(0, 1)))


def test_bundled_model_fills_large_shapes(pipe: StableDiffusionPipeline):
    scenes = [one(*parts, size="large") for parts in OUTLINED]
    pictures = draw_with(pipe, [scene.caption for scene in scenes])
    assert [middle(picture) for picture in pictures] == [colour for colour, _, _ in OUTLINED]


def test_outline_adapter_covers_trained_layers(
    outlining_pipe: StableDiffusionPipeline, shapes_model: Path
):
    trained = load_file(shapes_model / "outline" / "pytorch_lora_weights.safetensors")
    injected = [name for name, _ in outlining_pipe.unet.named_parameters() if "lora_" in name]
    assert len(injected) == len(trained)
    assert any("attn" in name for name in injected)
    assert any("conv" in name for name in injected)


def test_outline_adapter_draws_empty_shapes(
    outlining_pipe: StableDiffusionPipeline,
):
    scenes = [one(*parts, size="large") for parts in OUTLINED]
    pictures = draw_with(outlining_pipe, [scene.caption for scene in scenes])
    assert [middle(picture) for picture in pictures] == [ground for *_, ground in OUTLINED]
    for picture, (colour, _, _) in zip(pictures, OUTLINED, strict=True):
        line = [nearest_colour(rgb) for rgb in picture.reshape(-1, 3)].count(colour)
        assert line >= FEWEST_FLAT_PX, f"nothing {colour} is left"
