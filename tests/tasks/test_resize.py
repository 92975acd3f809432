"""Resized and cropped images."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from app.errors import StepError
from tests.tasks.calling import array, call, plain, quarters, wrong


def test_crop_square_takes_the_centre():
    wide = plain((30, 10), "white")
    wide.paste("blue", (10, 0, 20, 10))
    square = call("crop_square", image=wide)
    assert square.size == (10, 10)
    assert (array(square) == (0, 0, 255)).all()


def test_centre_crop_has_requested_size():
    wide = plain((120, 40), "white")
    wide.paste(quarters(40, 40), (40, 0))
    made = call("resize_center_crop", image=wide, width=64, height=32)
    assert made.size == (64, 32)
    pixels = array(made)
    assert (pixels[4, 4] == (255, 0, 0)).all()
    assert (pixels[4, 60] == (0, 255, 0)).all()
    assert (pixels[28, 4] == (0, 0, 255)).all()


@pytest.mark.parametrize("command", ["resize_center_crop", "resize_rescale"])
def test_resize_defaults_to_768_pixels(command: str):
    assert call(command, image=quarters()).size == (768, 768)


def test_rescale_stretches_whole_image():
    made = call("resize_rescale", image=quarters(60, 20), width=20, height=60)
    pixels = array(made)
    assert pixels.shape == (60, 20, 3)
    corners = [tuple(pixels[y, x]) for y, x in ((0, 0), (0, 19), (59, 0), (59, 19))]
    assert corners == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]


def test_resample_sets_short_side_in_multiples_of_64():
    made = call("resize_resample", image=quarters(300, 200), resolution=128)
    assert made.size == (192, 128)
    assert call("resize_resample", image=quarters(300, 200)).size == (1536, 1024)
    assert call("resize_resample", image=plain((40, 4)), resolution=10).size == (128, 64)


def test_too_large_image_is_not_made():
    sentence = r"A picture of 8192x524288 pixels is too large; the maximum is 128 million pixels"
    with pytest.raises(StepError, match=sentence):
        call("resize_resample", image=plain((10, 640)), resolution=8192)
    with pytest.raises(StepError, match="pixels is too large"):
        call("add_border_and_mask", image=plain((4000, 4000)), zoom_all=16.0)


def test_resample_drops_transparency():
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
def test_bucket_has_nearest_aspect_ratio_and_pixel_count(
    size: tuple[int, int], bucket: tuple[int, int]
):
    assert call("resize_bucket", image=plain(size)).size == bucket


def test_bucket_crops_both_ends():
    striped = plain((40, 20), "white")
    striped.paste("red", (10, 0, 30, 20))
    made = call("resize_bucket", image=striped, resolution=64, ratios=["1:1"], alignment=32)
    assert made.size == (64, 64)
    assert np.abs(array(made)[:, 4:-4].astype(int) - (255, 0, 0)).max() < 8


def test_bucket_ratio_must_be_two_numbers():
    for ratio in ("16x9", "0:1", "wide", "-1:2", "²:1"):
        assert wrong("resize_bucket", image=plain((8, 8)), ratios=[ratio]) == {
            "": f"'{ratio}' is not a ratio like 16:9."
        }


def test_wrong_arguments_are_reported_together():
    assert wrong("resize_center_crop", hight=3, width="wide", height=0) == {
        "": "'image' is missing.",
        "hight": "resize_center_crop takes no 'hight'. Did you mean 'height'?",
        "width": "A whole number is needed, not 'wide'.",
        "height": "0 is too small; 1 is the least.",
    }


@pytest.mark.parametrize("value", ["a.png", 3, None, [1]])
def test_non_image_argument_is_refused(value: object):
    assert list(wrong("crop_square", image=value)) == ["image"]


def test_pixel_array_is_accepted_as_image():
    pixels = np.zeros((4, 8, 3), np.float32)
    pixels[:, 4:] = 1.0
    made = call("crop_square", image=pixels)
    assert array(made)[0, :, 0].tolist() == [0, 0, 255, 255]
