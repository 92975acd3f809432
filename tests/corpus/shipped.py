"""Expected outcomes of the shipped workflows that name models of the hub."""

from __future__ import annotations

from tests.corpus.own import MASK, PICTURE, SIDE_PX, Saved
from tests.corpus.real import Runs, Values

JPEG, PNG, TEXT = Saved("image/jpeg"), Saved("image/png"), Saved("text/plain")
STEPS = 2
FILM_FRAMES = 5


def _arguments(step: int = 0, **values: object) -> Values:
    return {f"/steps/{step}/pipeline/arguments/{name}": value for name, value in values.items()}


def _task(step: int, **values: object) -> Values:
    return {f"/steps/{step}/task/arguments/{name}": value for name, value in values.items()}


SIZE: Values = {"width": SIDE_PX, "height": SIDE_PX}
FEW: Values = {"num_inference_steps": STEPS}
SMALL = SIZE | FEW
SEEN: Values = {"image": PICTURE}
FILLED: Values = {"image": PICTURE, "mask_image": MASK}


def _film(frames: int = FILM_FRAMES, **inputs: object) -> Runs:
    changes = _arguments(**SMALL, num_frames=frames)
    return Runs((Saved("video/mp4", frames=frames),), inputs, changes)


_PICTURE = Runs((PNG,), changes=_arguments(**SMALL))

SHIPPED: dict[str, Runs] = {
    **dict.fromkeys(
        ("flux-dev", "flux-schnell", "flux2-dev", "krea2-turbo", "qwen-image", "sana", "sd15",
         "sd35-medium", "sdxl", "sdxl-turbo", "z-image-turbo"),
        _PICTURE,
    ),
    "caption-to-picture": Runs(
        (TEXT, PNG),
        SEEN,
        {"/steps/0/workflow/arguments/max_new_tokens": 5, **_arguments(1, **SMALL)},
    ),
    "checkpoint": _PICTURE,
    "checkpoint-controlnet": Runs(
        (PNG,), SEEN, _task(0, resolution=SIDE_PX) | _arguments(2, **FEW)
    ),
    "checkpoint-inpaint": Runs((PNG,), FILLED, _arguments(**FEW)),
    "checkpoint-two-passes": Runs(
        (Saved("image/png", 2 * SIDE_PX, 2 * SIDE_PX),),
        changes=_arguments(0, **SMALL)
        | _task(1, width=2 * SIDE_PX, height=2 * SIDE_PX)
        | _arguments(2, num_inference_steps=5),
    ),
    "checkpoint-variations": Runs((PNG,), SEEN, _arguments(**FEW)),
    "enlarge": Runs((Saved("image/png", 4 * SIDE_PX, 4 * SIDE_PX),), SEEN, _task(0, **FEW)),
    "flux-canny": Runs((PNG,), SEEN, _arguments(1, **SMALL)),
    "flux-depth": Runs((PNG,), SEEN, _arguments(1, **SMALL)),
    "flux-fill": Runs((PNG,), FILLED, _arguments(**FEW)),
    "flux-kontext": Runs(
        (PNG,), SEEN,
        _arguments(**SMALL, max_area=SIDE_PX * SIDE_PX, _auto_resize=False),
    ),
    # The prior assumes the real text encoders' width where it has none; the stand-in has them.
    "flux-redux": Runs((PNG,), SEEN, _arguments(0, prompt="") | _arguments(1, **SMALL)),
    "flux2-edit": Runs((PNG,), SEEN, _arguments(**SMALL)),
    "hunyuan-video15": _film(),
    "ltx2": Runs((Saved("video/mp4", frames=9),), changes=_arguments(**SIZE, num_frames=9)),
    "qwen-image-edit": Runs((PNG,), SEEN, _arguments(**SMALL)),
    "replace-an-object": Runs((PNG,), SEEN, _arguments(1, **FEW)),
    "sd15-depth": Runs((PNG,), SEEN, _task(0, resolution=SIDE_PX) | _arguments(2, **FEW)),
    "sdxl-inpaint": Runs((PNG,), FILLED, _arguments(**FEW)),
    "sdxl-refiner": Runs(
        (PNG,),
        # The base draws four fifths of the steps, the refiner the last.
        changes=_arguments(0, **SIZE, num_inference_steps=5) | _arguments(1, num_inference_steps=5),
    ),
    "sdxl-two-passes": Runs(
        (Saved("image/png", 2 * SIDE_PX, 2 * SIDE_PX),),
        changes=_arguments(0, **SMALL)
        | _task(1, width=2 * SIDE_PX, height=2 * SIDE_PX)
        | _arguments(2, num_inference_steps=5),
    ),
    "sdxl-variations": Runs((PNG,), SEEN, _arguments(**FEW)),
    "wan21-i2v": _film(**SEEN),
    "wan21-t2v": _film(),
    "wan22-i2v": _film(**SEEN),
    "wan22-t2v": _film(),
}  # fmt: skip

NEEDS_PACKAGE = {"upscale"}
"""Those that need a package which the tests do not have; its task is tested with a stand-in."""
