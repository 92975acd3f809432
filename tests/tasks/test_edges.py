"""Control images computed without a model."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tasks.calling import array, call, plain, quarters, wrong


def test_canny_edges_are_where_colours_meet():
    made = array(call("canny_cv", image=quarters(80, 60)))
    assert made.shape == (60, 80, 3)
    assert set(np.unique(made)) == {0, 255}
    rows, columns = np.nonzero(made[..., 0])
    near_a_border = (np.abs(rows - 29.5) < 3) | (np.abs(columns - 39.5) < 3)
    assert near_a_border.all()
    assert len(rows) > 100


def test_canny_finds_no_edges_in_plain_image():
    assert not array(call("canny_cv", image=plain((32, 32)))).any()
    assert not array(call("lineart_standard", image=plain((32, 32)))).any()


def test_canny_thresholds_are_applied():
    faint = plain((64, 64), (100, 100, 100))
    faint.paste((118, 118, 118), (32, 0, 64, 64))
    assert not array(call("canny_cv", image=faint)).any()
    assert array(call("canny_cv", image=faint, low_threshold=10, high_threshold=30)).any()


def test_canny_works_at_512_pixels_in_steps_of_64():
    assert call("canny", image=quarters(300, 200)).size == (768, 512)
    small = call("canny", image=quarters(300, 200), detect_resolution=256, image_resolution=128)
    assert small.size == (192, 128)


def test_lineart_shows_darker_pixels():
    drawing = plain((512, 512), "white")
    drawing.paste("black", (250, 0, 256, 512))
    made = array(call("lineart_standard", image=drawing))
    assert made.shape == (512, 512, 3)
    assert made[256, 253].min() > 100
    assert made[:, :200].max() == 0


def test_lineart_has_the_image_size():
    assert call("lineart_standard", image=quarters(90, 70)).size == (90, 70)


def test_shuffle_keeps_colours_and_moves_them():
    made = call("shuffle", image=quarters(512, 512))
    pixels = array(made)
    assert made.size == (512, 512)
    pure = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    shares = [(pixels == colour).all(axis=-1).mean() for colour in pure]
    assert sum(shares) > 0.9
    assert (pixels != array(quarters(512, 512))).any(axis=-1).mean() > 0.3


def test_shuffle_is_deterministic_by_seed():
    one, other = (array(call("shuffle", image=quarters(128, 128), f=64)) for _ in range(2))
    assert np.array_equal(one, other)


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1)])
@pytest.mark.parametrize("command", ["canny", "canny_cv", "lineart_standard", "shuffle"])
def test_one_pixel_wide_image_is_accepted(command: str, size: tuple[int, int]):
    arguments = {} if command == "canny_cv" else {"detect_resolution": 64}
    assert call(command, image=plain(size), **arguments).mode == "RGB"


def test_detector_argument_keeps_dialect_spelling():
    assert wrong("lineart_standard", image=plain((8, 8)), gaussian_sigma=3.0) == {
        "gaussian_sigma": "lineart_standard takes no 'gaussian_sigma'. "
        "Did you mean 'guassian_sigma'?"
    }
