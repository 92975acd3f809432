"""Borders around an image, and their masks."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tasks.calling import array, call, plain, wrong


def test_border_zoom_of_two_centres_image_in_twice_its_size():
    made = call("add_border_and_mask", image=plain((64, 96)), zoom_all=2.0)
    bordered, mask = array(made["bordered_image"]), array(made["mask"])
    assert bordered.shape == (192, 128, 3)
    inside = np.zeros((192, 128), bool)
    inside[48:144, 32:96] = True
    assert (bordered[inside] == (255, 0, 0)).all()
    assert (bordered[~inside] == 0).all()
    assert (mask[inside] == 0).all()
    assert (mask[~inside] == 255).all()


def test_border_sides_grow_by_their_own_share():
    zooms = {"zoom_left": 0.5, "zoom_right": 1.0, "zoom_up": 0.0, "zoom_down": 0.5}
    made = call("add_border_and_mask", image=plain((64, 64)), **zooms)
    mask = array(made["mask"])
    assert mask.shape == (96, 160)
    rows, columns = np.nonzero(mask == 0)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 63, 32, 95)


def test_border_mask_overlaps_image():
    made = call("add_border_and_mask", image=plain((64, 64)), zoom_all=2.0, overlap=0.125)
    rows, columns = np.nonzero(array(made["mask"]) == 0)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (40, 87, 40, 87)


@pytest.mark.parametrize(("size", "whole"), [((100, 50), (96, 64)), ((10, 10), (32, 32))])
def test_border_sides_are_multiples_of_32(size: tuple[int, int], whole: tuple[int, int]):
    made = call("add_border_and_mask", image=plain(size))
    assert made["bordered_image"].size == made["mask"].size == whole


@pytest.mark.parametrize(
    ("size", "rows", "columns"), [((64, 32), (32, 95), (0, 127)), ((32, 64), (0, 127), (32, 95))]
)
def test_border_fits_image_into_requested_size(
    size: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]
):
    made = call("add_border_and_mask_with_size", image=plain(size), width=128, height=128)
    red = array(made["bordered_image"])[..., 0] > 200
    found = np.nonzero(red)
    assert (found[0].min(), found[0].max()) == rows
    assert (found[1].min(), found[1].max()) == columns
    assert np.array_equal(red, array(made["mask"]) == 0)


def test_border_is_empty_for_matching_aspect_ratio():
    made = call("add_border_and_mask_with_size", image=plain((50, 50)), width=64, height=70)
    assert made["mask"].size == (64, 64)
    assert not array(made["mask"]).any()


def test_border_shares_are_limited():
    assert wrong("add_border_and_mask", image=plain((8, 8)), zoom_all=-1, overlap=0.5) == {
        "zoom_all": "-1 is too small; 0 is the least.",
        "overlap": "0.5 is too large; it has to be below 0.5.",
    }
