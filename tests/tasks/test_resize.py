"""Pictures in other sizes: which part of them is kept, and where it ends up."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from app.errors import StepError
from tests.tasks.calling import array, call, plain, quarters, wrong


def test_the_square_in_the_middle_is_cut_out():
    wide = plain((30, 10), "white")
    wide.paste("blue", (10, 0, 20, 10))
    square = call("crop_square", image=wide)
    assert square.size == (10, 10)
    assert (array(square) == (0, 0, 255)).all()


def test_a_centre_crop_shows_the_middle_square_in_the_asked_size():
    wide = plain((120, 40), "white")
    wide.paste(quarters(40, 40), (40, 0))
    made = call("resize_center_crop", image=wide, width=64, height=32)
    assert made.size == (64, 32)
    pixels = array(made)
    assert (pixels[4, 4] == (255, 0, 0)).all()
    assert (pixels[4, 60] == (0, 255, 0)).all()
    assert (pixels[28, 4] == (0, 0, 255)).all()


@pytest.mark.parametrize("command", ["resize_center_crop", "resize_rescale"])
def test_768_pixels_are_the_default(command: str):
    assert call(command, image=quarters()).size == (768, 768)


def test_a_rescaled_picture_is_stretched_and_loses_nothing():
    made = call("resize_rescale", image=quarters(60, 20), width=20, height=60)
    pixels = array(made)
    assert pixels.shape == (60, 20, 3)
    corners = [tuple(pixels[y, x]) for y, x in ((0, 0), (0, 19), (59, 0), (59, 19))]
    assert corners == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]


def test_resampling_brings_the_short_side_near_the_resolution_in_steps_of_64():
    made = call("resize_resample", image=quarters(300, 200), resolution=128)
    assert made.size == (192, 128)
    assert call("resize_resample", image=quarters(300, 200)).size == (1536, 1024)
    assert call("resize_resample", image=plain((40, 4)), resolution=10).size == (128, 64)


def test_a_picture_beyond_what_memory_should_hold_is_not_made():
    sentence = r"A picture of 8192x524288 pixels would be made; 128 million are the most"
    with pytest.raises(StepError, match=sentence):
        call("resize_resample", image=plain((10, 640)), resolution=8192)
    with pytest.raises(StepError, match="would be made"):
        call("add_border_and_mask", image=plain((4000, 4000)), zoom_all=16.0)


def test_transparency_is_dropped_where_the_picture_is_resampled():
    picture = Image.new("RGBA", (64, 64), (200, 30, 30, 90))
    assert call("resize_resample", image=picture, resolution=64).mode == "RGB"
    assert call("resize_rescale", image=picture, width=8, height=8).mode == "RGB"


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((500, 500), (1024, 1024)),
        ((400, 300), (1152, 896)),
        ((300, 400), (896, 1152)),
        ((1920, 1080), (1344, 768)),
        ((1000, 100), (1536, 640)),
    ],
)
def test_a_bucket_is_the_nearest_shape_with_about_as_many_pixels(
    size: tuple[int, int], bucket: tuple[int, int]
):
    assert call("resize_bucket", image=plain(size)).size == bucket


def test_what_does_not_fit_a_bucket_is_cut_off_at_both_ends():
    striped = plain((40, 20), "white")
    striped.paste("red", (10, 0, 30, 20))
    made = call("resize_bucket", image=striped, resolution=64, ratios=["1:1"], alignment=32)
    assert made.size == (64, 64)
    assert np.abs(array(made)[:, 4:-4].astype(int) - (255, 0, 0)).max() < 8


def test_a_ratio_is_two_numbers():
    for ratio in ("16x9", "0:1", "wide", "-1:2", "²:1"):
        assert wrong("resize_bucket", image=plain((8, 8)), ratios=[ratio]) == {
            "": f"'{ratio}' is not a ratio like 16:9."
        }


def test_wrong_arguments_are_told_all_at_once():
    assert wrong("resize_center_crop", hight=3, width="wide", height=0) == {
        "": "'image' is missing.",
        "hight": "resize_center_crop takes no 'hight'. Did you mean 'height'?",
        "width": "A whole number is needed, not 'wide'.",
        "height": "0 is too small; 1 is the least.",
    }


@pytest.mark.parametrize("value", ["a.png", 3, None, [1]])
def test_a_picture_is_a_picture(value: object):
    assert list(wrong("crop_square", image=value)) == ["image"]


def test_an_array_of_pixels_is_a_picture():
    pixels = np.zeros((4, 8, 3), np.float32)
    pixels[:, 4:] = 1.0
    made = call("crop_square", image=pixels)
    assert array(made)[0, :, 0].tolist() == [0, 0, 255, 255]
