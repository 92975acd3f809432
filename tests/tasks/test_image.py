"""Image size, metadata and watermarks."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tests.tasks.calling import array, call, plain, wrong


def drawn_box(made: Image.Image, ground: Image.Image) -> tuple[int, int, int, int]:
    """Returns the bounding box of what differs from the background."""
    rows, columns = np.nonzero((array(made) != array(ground)).any(axis=-1))
    return columns.min(), rows.min(), columns.max(), rows.max()


def test_image_size_is_returned():
    assert call("get_image_size", image=plain((30, 20))) == {"width": 30, "height": 20}


def test_strip_exif_removes_metadata_and_keeps_pixels():
    kept = plain((8, 8))
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    file = io.BytesIO()
    kept.save(file, "PNG", exif=exif)
    opened = Image.open(file)
    opened.info["comment"] = "secret"
    assert opened.getexif()
    bare = call("strip_exif", image=opened)
    assert (dict(bare.getexif()), bare.info) == ({}, {})
    assert np.array_equal(array(bare), array(kept))
    assert opened.info["comment"] == "secret"


@pytest.mark.parametrize("position", ["bottom-right", "bottom-left", "top-right", "top-left"])
def test_watermark_is_in_its_corner_at_the_margin(position: str):
    ground = plain((400, 300), "black")
    made = call("add_watermark", image=ground, position=position, margin=20, opacity=255)
    left, up, right, down = drawn_box(made, ground)
    vertical, horizontal = position.split("-")
    assert (up if vertical == "top" else 299 - down) in (19, 20, 21)
    assert (left if horizontal == "left" else 399 - right) in (19, 20, 21)


def test_watermark_can_be_centred():
    ground = plain((400, 300), "black")
    made = call("add_watermark", image=ground, position="center")
    left, up, right, down = drawn_box(made, ground)
    assert abs((left + right) / 2 - 199.5) < 2
    assert abs((up + down) / 2 - 149.5) < 2


def test_watermark_opacity_is_applied():
    ground = plain((200, 100), "black")
    half = call("add_watermark", image=ground, font_size=40)
    assert array(half).max() == 128
    assert array(call("add_watermark", image=ground, opacity=0)).max() == 0


def test_watermark_scales_with_image_unless_size_is_given():
    heights = []
    for side, size in ((400, 0), (1600, 0), (1600, 24)):
        ground = plain((side, side), "black")
        _, up, _, down = drawn_box(call("add_watermark", image=ground, font_size=size), ground)
        heights.append(down - up)
    assert heights[1] > 3 * heights[0]
    assert heights[2] < heights[1]


@pytest.mark.parametrize("colour", ["#00ff00", "lime", [0, 255, 0]])
def test_watermark_colour_is_a_name_or_numbers(colour: object):
    made = call("add_watermark", image=plain((200, 90), "black"), color=colour, opacity=255)
    assert array(made).max(axis=(0, 1)).tolist() == [0, 255, 0]


def test_watermark_refuses_invalid_colour():
    picture = plain((8, 8))
    assert "color" in str(wrong("add_watermark", image=picture, color="mauvish"))


@pytest.mark.parametrize("position", ["middle", "", "Bottom-Left"])
def test_watermark_of_unknown_position_is_in_the_default_one(position: str):
    ground = plain((200, 90), "black")
    made = call("add_watermark", image=ground, position=position)
    assert (array(made) == array(call("add_watermark", image=ground))).all()


@pytest.mark.parametrize("position", [5, None, ["center"]])
def test_watermark_refuses_position_that_is_no_text(position: object):
    assert list(wrong("add_watermark", image=plain((8, 8)), position=position)) == ["position"]


def test_watermark_keeps_transparency_and_input():
    picture = Image.new("RGBA", (100, 50), (0, 0, 0, 40))
    made = call("add_watermark", image=picture)
    assert made.mode == "RGBA"
    assert made.getpixel((0, 0)) == (0, 0, 0, 40)
    assert picture.getextrema() == ((0, 0), (0, 0), (0, 0), (40, 40))
