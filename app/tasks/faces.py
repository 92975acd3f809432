"""Mends the faces of an image: finds them by YuNet (OpenCV), mends them by a network of spandrel.

Each face is turned to where its eyes, nose and mouth lie in the networks' training images (FFHQ,
512x512), mended, and turned back. Not the face itself is pasted, but what the network changed: what
it leaves alone stays as it was, to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from PIL import Image
from pydantic import Field, model_validator

from app.errors import StepError
from app.tasks.media import fitting
from app.tasks.resize import ImageArguments
from app.tasks.task import OPENCV, SPANDREL, TORCHVISION, ImageInput, Loaded, Loads, Task

if TYPE_CHECKING:
    from app.tasks.media import Array

SIDE = 512
"""Width and height in pixels of a face for the networks."""
PLACES = ((193.0, 239.9), (318.9, 240.2), (256.6, 314.0), (201.3, 371.4), (313.1, 371.2))
"""FFHQ's mean eyes, nose and corners of the mouth in such a face: x, y; the left ones first."""
FEATHER_PX = 64
"""Width of the soft edge of such a face."""
YUNET, YUNET_FILE = "opencv/face_detection_yunet", "face_detection_yunet_2023mar.onnx"
Named = Annotated[str, Field(min_length=1)]


class RestoreFaces(ImageArguments):
    model_name: Named
    """A file, or a repository of the hub with the file `filename`: GFPGAN or RestoreFormer."""
    filename: Named | None = None
    upscale_factor: Annotated[float, Field(ge=1, le=8)] = 1
    face_size: Annotated[int, Field(ge=SIDE, le=SIDE)] = SIDE
    """In pixels; the networks know one size."""
    use_parse: bool = True
    """Not used: no parser of faces is loaded."""
    only_center_face: bool = False
    detection_resize: Annotated[int, Field(ge=64, le=4096)] = 640
    """Short side in pixels of the image in which faces are looked for."""
    eye_dist_threshold: Annotated[float, Field(ge=0, le=10_000)] = 5
    """Least distance of the eyes in pixels; faces below it stay."""
    upsample_img: ImageInput | None = None
    """The image upscaled by other means, into which the faces are pasted."""
    detector_name: Named = YUNET

    @model_validator(mode="after")
    def _spandrel_has_it(self) -> RestoreFaces:
        if "codeformer" in f"{self.model_name} {self.filename}".lower():
            raise ValueError(
                "CodeFormer, which is licensed for non-commercial use alone, is not in spandrel;"
                " name a file of GFPGAN or RestoreFormer"
            )
        return self


class _Face(NamedTuple):
    points: Array
    """(5, 2): as PLACES, in pixels of the image."""
    centre: Array
    """x, y in pixels."""


def restore_faces(arguments: RestoreFaces, loaded: Loaded) -> Image.Image:
    """Returns the image, enlarged by the factor, with its faces mended; unchanged without faces.

    Raises StepError if the network is for something else.
    """
    import cv2
    import numpy as np

    network = loaded.components["model"].tool
    if (network.scale, network.purpose) != (1, "FaceSR"):
        raise StepError(
            f"'{arguments.filename or arguments.model_name}' is no network for faces.",
            hint="Name a file of GFPGAN or RestoreFormer.",
        )
    image = np.asarray(arguments.image.convert("RGB"))
    factor = arguments.upscale_factor
    height, width = image.shape[:2]
    size = fitting(round(width * factor), round(height * factor))
    pasted = image
    if arguments.upsample_img is not None or factor != 1:
        base = np.asarray((arguments.upsample_img or arguments.image).convert("RGB"))
        pasted = cv2.resize(base, size, interpolation=cv2.INTER_LANCZOS4)
    found = _faces(image, arguments, loaded.components["detector"].tool)
    for number, face in enumerate(found, start=1):
        mended = _mended(cropped(image, alignment(face.points)), network, loaded)
        # A pixel's centre lies half a pixel from its corner, in the enlarged image too.
        matrix = alignment((face.points + 0.5) * factor - 0.5)
        pasted = with_change(pasted, mended - cropped(pasted, matrix), matrix)
        loaded.progress(number, len(found))
    return Image.fromarray(pasted)


# --- finding -------------------------------------------------------------------------------------


def _faces(image: Array, arguments: RestoreFaces, detector: Any) -> list[_Face]:
    """Returns the faces to mend, from left to right."""
    import cv2
    import numpy as np

    height, width = image.shape[:2]
    scale = arguments.detection_resize / min(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    detector.setInputSize(size)
    _, rows = detector.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
    faces = []
    for row in () if rows is None else rows:
        # Left, top, width and height; then x and y of each point; then the score.
        box, points = row[:4] / scale, row[4:14].reshape(5, 2) / scale
        if np.linalg.norm(points[0] - points[1]) >= max(arguments.eye_dist_threshold, 1):
            faces.append(_Face(points, box[:2] + box[2:] / 2))
    faces.sort(key=lambda face: tuple(face.centre))
    if arguments.only_center_face:
        middle = np.array([width / 2, height / 2])
        faces = sorted(faces, key=lambda face: float(np.linalg.norm(face.centre - middle)))[:1]
    return faces


# --- mending -------------------------------------------------------------------------------------


def _mended(face: Array, network: Any, loaded: Loaded) -> Array:
    """Returns the network's output for a face, both (SIDE, SIDE, 3) of 0..255 as float32."""
    import torch

    seen = torch.from_numpy(face / 255).permute(2, 0, 1)[None].to(loaded.device)
    mended = network(seen).float()[0].permute(1, 2, 0).clamp(0, 1) * 255
    return mended.cpu().numpy()  # type: ignore[no-any-return]


# --- geometry ------------------------------------------------------------------------------------


def alignment(points: Array) -> Array:
    """Returns the matrix (2, 3) that turns, scales and moves the points nearest to PLACES."""
    import numpy as np

    # As complex numbers: a turn with a scale is one factor.
    given, wanted = (np.asarray(each, np.float64) @ (1, 1j) for each in (points, PLACES))
    spread = given - given.mean()
    factor = (spread.conj() * (wanted - wanted.mean())).sum() / (spread.conj() * spread).sum().real
    move = wanted.mean() - factor * given.mean()
    return np.array([[factor.real, -factor.imag, move.real], [factor.imag, factor.real, move.imag]])


def cropped(image: Array, matrix: Array) -> Array:
    """Returns the face (SIDE, SIDE, 3) of an image as float32 of 0..255; edges are repeated."""
    import cv2
    import numpy as np

    return cv2.warpAffine(  # type: ignore[no-any-return]
        image.astype(np.float32), matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip


def with_change(image: Array, change: Array, matrix: Array) -> Array:
    """Returns the image (uint8) with the change of a face (SIDE, SIDE, 3), fading at its edges."""
    import cv2
    import numpy as np

    scale = float(np.hypot(*matrix[:, 0]))
    if scale > 1:
        # Without it, details finer than the image's pixels would become noise.
        change = cv2.GaussianBlur(change, (0, 0), 0.5 * (scale**2 - 1) ** 0.5 + 1e-3)
    height, width = image.shape[:2]
    back = cv2.warpAffine(
        change * _fading()[..., None], matrix, (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderValue=(0, 0, 0),
    )  # fmt: skip
    return (image + back).round().clip(0, 255).astype(np.uint8)  # type: ignore[no-any-return]


def _fading() -> Array:
    """Returns the share of the change (SIDE, SIDE): 0 at the edges, 1 from FEATHER_PX on."""
    import numpy as np

    edge = np.minimum(np.arange(SIDE), np.arange(SIDE)[::-1])
    ramp = np.clip(edge / FEATHER_PX, 0, 1).astype(np.float32)
    ramp = ramp * ramp * (3 - 2 * ramp)
    return np.minimum.outer(ramp, ramp)


def _loads(values: Mapping[str, Any]) -> tuple[Loads, ...]:
    return (
        # Without `filename`, the model itself is a file.
        Loads("model", "spandrel.ModelLoader", values["model_name"], file=values["filename"] or ""),
        Loads(
            "detector", "cv2.FaceDetectorYN", values["detector_name"], "detector_name",
            files={"model": YUNET_FILE},
        ),
    )  # fmt: skip


def _unused(values: Mapping[str, Any]) -> Mapping[str, str]:
    if values.get("use_parse") is not True:
        return {}
    return {"use_parse": "No parser of faces is loaded: the mended face fades at its edges."}


RESTORATION = Task(
    RestoreFaces,
    restore_faces,
    gives="image",
    loads=_loads,
    packages=(OPENCV, SPANDREL, TORCHVISION),
    warns=_unused,
)
