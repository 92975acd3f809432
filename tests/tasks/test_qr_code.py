"""QR codes that a reader can decode."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from app.errors import StepError
from tests.tasks.calling import array, call, wrong


@pytest.mark.parametrize(
    "text", ["https://example.org/?a=1&b=2", "0123456789", "ünïcode €", "x" * 64]
)
def test_qr_code_contains_its_text(text: str):
    made = call("qr_code", qr_code_contents=text)
    assert (made.size, made.mode) == ((768, 768), "RGB")
    assert cv2.QRCodeDetector().detectAndDecode(array(made))[0] == text


def test_qr_code_survives_losing_a_third():
    """Correction level H: up to 30 %."""
    pixels = array(call("qr_code", qr_code_contents="still here")).copy()
    pixels[330:440, 330:440] = 255
    assert cv2.QRCodeDetector().detectAndDecode(pixels)[0] == "still here"


def test_qr_code_is_as_large_as_the_longer_side():
    assert call("qr_code", qr_code_contents="a", width=256, height=500).size == (512, 512)


def test_qr_code_has_margin_of_four_modules():
    pixels = array(call("qr_code", qr_code_contents="hello", width=1024, height=1024))
    rows, columns = np.nonzero(pixels[..., 0] < 128)
    module = 1024 / 29  # 21 modules of the smallest code of this content, and four at each side
    margins = (rows.min(), columns.min(), 1023 - rows.max(), 1023 - columns.max())
    assert all(abs(margin - 4 * module) < module for margin in margins)


def test_qr_code_refuses_too_long_text():
    with pytest.raises(StepError, match="2000 characters are more than a QR code can hold"):
        call("qr_code", qr_code_contents="x" * 2000)
    assert list(wrong("qr_code", qr_code_contents="")) == ["qr_code_contents"]
