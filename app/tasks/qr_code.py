"""QR codes, as control images."""

from __future__ import annotations

from typing import Annotated

from PIL import Image, ImageOps
from pydantic import Field

from app.errors import StepError
from app.tasks.resize import ToResolution, resize_resample
from app.tasks.task import OPENCV, Arguments, Task

QUIET_MODULES = 4
"""White margin required by ISO/IEC 18004."""
OWN_QUIET_MODULES = 2
"""White margin that OpenCV adds."""


class Contents(Arguments):
    qr_code_contents: Annotated[str, Field(min_length=1)]
    height: Annotated[int, Field(ge=64, le=8192)] = 768
    width: Annotated[int, Field(ge=64, le=8192)] = 768


def qr_code(arguments: Contents) -> Image.Image:
    """Returns a square QR code of error correction level H, as large as the longer side.

    Raises StepError if the text is too long.
    """
    import cv2

    level = cv2.QRCodeEncoder.Params()
    level.correction_level = cv2.QRCodeEncoder_CORRECT_LEVEL_H
    try:
        modules = cv2.QRCodeEncoder.create(level).encode(arguments.qr_code_contents)
    except cv2.error as error:
        raise StepError(
            f"{len(arguments.qr_code_contents)} characters are more than a QR code can hold.",
            hint="Shorten the text.",
            detail=str(error),
        ) from error
    code = ImageOps.expand(Image.fromarray(modules), QUIET_MODULES - OWN_QUIET_MODULES, 255)
    large = code.resize((code.width * 10, code.height * 10), Image.Resampling.NEAREST)
    resolution = max(arguments.height, arguments.width)
    return resize_resample(ToResolution(image=large, resolution=resolution))


QR_CODE = Task(Contents, qr_code, gives="image", packages=(OPENCV,))
