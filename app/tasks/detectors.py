"""Control images (outlines, lines, poses, surfaces) from controlnet_aux's detectors.

The dialect defines the arguments; a detector has further options, and some are fixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from PIL import Image
from pydantic import Field

from app.tasks.edges import Resolution
from app.tasks.resize import ImageArguments
from app.tasks.task import CONTROLNET_AUX, TORCHVISION, Loaded, Loads, Task

ANNOTATORS, TEED, MISTO_LINE = "lllyasviel/Annotators", "fal-ai/teed", "TheMistoAI/MistoLine"
Named = Annotated[str, Field(min_length=1)]
Threshold = Annotated[float, Field(ge=0, le=100)]
Percent = Annotated[int, Field(ge=0, le=100)]


class Detected(ImageArguments):
    detect_resolution: Resolution = 512
    image_resolution: Resolution = 512
    model_name: Named = ANNOTATORS


class Hed(Detected):
    safe: bool = False
    """Quantises the edges to fewer shades."""


class Pidi(Detected):
    apply_filter: bool = False
    """Keeps only strong edges, in black and white."""


class StraightLines(Detected):
    thr_v: Threshold = 0.1
    thr_d: Threshold = 0.1


class Leres(Detected):
    thr_a: Percent = 0
    """Threshold to cut off the nearest, in percent."""
    thr_b: Percent = 0
    """Threshold to cut off the farthest, in percent."""
    boost: bool = False


class Teed(ImageArguments):
    detect_resolution: Resolution = 512
    safe_steps: Annotated[int, Field(ge=0, le=10)] = 2
    model_name: Named = TEED


class Anyline(ImageArguments):
    detect_resolution: Resolution = 1280
    guassian_sigma: Annotated[float, Field(gt=0, le=100)] = 2.0
    """The dialect's spelling."""
    intensity_threshold: Annotated[float, Field(ge=0, le=255)] = 3
    model_name: Named = MISTO_LINE


class _Detector(NamedTuple):
    """One class of controlnet_aux."""

    name: str
    files: Mapping[str, str]
    """Its weight files in the repository, by argument of its `from_pretrained`."""
    fixed: Mapping[str, Any] = {}
    """Fixed arguments of its call."""

    def loads(self, values: Mapping[str, Any]) -> tuple[Loads, ...]:
        name = f"controlnet_aux.{self.name}"
        return (Loads(self.name, name, values["model_name"], files=self.files),)

    def run(self, arguments: ImageArguments, loaded: Loaded) -> Image.Image:
        given = {name: value for name, value in arguments if name not in ("image", "model_name")}
        detector = loaded.components[self.name].tool
        found = detector(arguments.image.convert("RGB"), **given, **self.fixed, output_type="pil")
        image: Image.Image = found.convert("RGB")
        return image


HED = _Detector("HEDdetector", {"filename": "ControlNetHED.pth"}, {"scribble": False})
SCRIBBLE = HED._replace(fixed={"scribble": True})
PIDI = _Detector("PidiNetDetector", {"filename": "table5_pidinet.pth"}, {"safe": True})
MLSD = _Detector("MLSDdetector", {"filename": "mlsd_large_512_fp32.pth"})
NORMAL_BAE = _Detector("NormalBaeDetector", {"filename": "scannet.pt"})
LERES = _Detector(
    "LeresDetector", {"filename": "res101.pth", "pix2pix_filename": "latest_net_G.pth"}
)
LINEART = _Detector(
    "LineartDetector",
    {"filename": "sk_model.pth", "coarse_filename": "sk_model2.pth"},
    {"coarse": True},
)
OPENPOSE = _Detector(
    "OpenposeDetector",
    {
        "filename": "body_pose_model.pth",
        "hand_filename": "hand_pose_model.pth",
        "face_filename": "facenet.pth",
    },
    {"include_hand": True, "include_face": True},
)
TEED_DETECTOR = _Detector("TEEDdetector", {"filename": "5_model.pth"})
ANYLINE_DETECTOR = _Detector("AnylineDetector", {"filename": "Anyline/MTEED.pth"})


def _task(arguments: type[ImageArguments], detector: _Detector) -> Task:
    return Task(
        arguments,
        detector.run,
        gives="image",
        loads=detector.loads,
        packages=(CONTROLNET_AUX, TORCHVISION),
    )


DETECTORS: dict[str, Task] = {
    "hed": _task(Hed, HED),
    "scribble": _task(Hed, SCRIBBLE),
    "pidi": _task(Pidi, PIDI),
    "lineart": _task(Detected, LINEART),
    "mlsd": _task(StraightLines, MLSD),
    "normal_bae": _task(Detected, NORMAL_BAE),
    "leres": _task(Leres, LERES),
    "openpose": _task(Detected, OPENPOSE),
    "teed": _task(Teed, TEED_DETECTOR),
    "anyline": _task(Anyline, ANYLINE_DETECTOR),
}
