"""The geometry of mended faces, and the arguments."""

from __future__ import annotations

import numpy as np
import pytest

from app.tasks.faces import FEATHER_PX, PLACES, SIDE, alignment, cropped, with_change
from tests.tasks.calling import plain, wrong

TURNED = np.array([[0.25, -0.1], [0.1, 0.25]])
"""A face of about 140 pixels, turned by 22 degrees."""
MIDDLE = np.array([200.0, 150.0])


def noise(height: int = 300, width: int = 400) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def points() -> np.ndarray:
    """Returns a turned face's points in an image of that size."""
    return (np.array(PLACES) - SIDE / 2) @ TURNED.T + MIDDLE


def moved(matrix: np.ndarray, at: np.ndarray) -> np.ndarray:
    return at @ matrix[:, :2].T + matrix[:, 2]


def test_alignment_turns_and_scales_points_to_their_places():
    assert np.allclose(moved(alignment(points()), points()), PLACES)
    assert np.allclose(alignment(np.array(PLACES)), [[1, 0, 0], [0, 1, 0]])


def test_alignment_of_other_proportions_is_no_distortion():
    stretched = points() * (1, 1.3)
    matrix = alignment(stretched)
    assert np.allclose(matrix[0, 0], matrix[1, 1])
    assert np.allclose(matrix[0, 1], -matrix[1, 0])
    assert np.abs(moved(matrix, stretched) - PLACES).max() < 40


def test_crop_shows_the_face_upright():
    image = np.zeros((300, 400, 3), np.uint8)
    left_eye, right_eye = points()[:2].round().astype(int)
    for x, y in (left_eye, right_eye):
        image[y - 2 : y + 3, x - 2 : x + 3] = 255
    face = cropped(image, alignment(points()))
    assert face.shape == (SIDE, SIDE, 3)
    rows, columns = np.nonzero(face[..., 0] > 127)
    for side, (x, y) in ((columns < SIDE / 2, PLACES[0]), (columns >= SIDE / 2, PLACES[1])):
        assert abs(columns[side].mean() - x) < 3
        assert abs(rows[side].mean() - y) < 3


def test_face_without_change_leaves_image_as_it_is():
    same = with_change(noise(), np.zeros((SIDE, SIDE, 3), np.float32), alignment(points()))
    assert np.array_equal(same, noise())


@pytest.mark.parametrize("scale", [0.5, 1, 4, 9])
def test_change_is_pasted_into_the_face_alone(scale: float):
    image = noise(1200, 1600) // 2
    points_there = points() * scale
    changed = with_change(image, np.full((SIDE, SIDE, 3), 40, np.float32), alignment(points_there))
    rows, columns = np.mgrid[:1200, :1600]
    at = moved(alignment(points_there), np.stack([columns, rows], axis=-1).astype(float))
    distance = np.minimum(at, SIDE - 1 - at).min(axis=-1)
    added = changed.astype(int) - image
    # Blurring a change widens it by less than the edge that is faded out.
    assert not added[distance < -2].any()
    assert (np.abs(added[distance > FEATHER_PX + 8] - 40) <= 1).all()
    assert ((added >= 0) & (added <= 41)).all()


def test_change_fades_without_a_seam():
    grey = np.full((SIDE, SIDE, 3), 100, np.uint8)
    line = with_change(grey, np.full((SIDE, SIDE, 3), 80, np.float32), alignment(np.array(PLACES)))
    steps = np.diff(line[SIDE // 2, :, 0].astype(int))
    assert (line[SIDE // 2, 0, 0], line[SIDE // 2, SIDE // 2, 0]) == (100, 180)
    assert np.abs(steps).max() <= 3


def test_wrong_arguments_are_refused():
    image = plain((8, 8))
    assert wrong("restore_faces", image=image, model_name="a.pth", face_size=256) == {
        "face_size": "256 is too small; 512 is the least."
    }
    (sentence,) = wrong("restore_faces", image=image, model_name="CodeFormer.pth").values()
    assert sentence.startswith("CodeFormer, which is licensed for non-commercial use alone,")
    assert wrong("restore_faces", image=image, model_name="owner/name", filename="a.pth") == {}
