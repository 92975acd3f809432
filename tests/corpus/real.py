"""Expected outcomes of the available third-party documents."""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.corpus.own import SIDE_PX, Saved
from tests.standins.films import ALLEGRO_FRAMES, ALLEGRO_PX
from tests.standins.minimax_h3 import FRAMES as MINIMAX_H3_FRAMES

Values = dict[str, Any]


class Runs(NamedTuple):
    """It runs on stand-ins, reduced by its variables and by changes of the document."""

    saved: tuple[Saved, ...]
    inputs: Values = {}  # noqa: RUF012
    changes: Values = {}  # noqa: RUF012
    """By JSON pointer."""
    for_part: str = ""
    """The family, or the part of the dialect, that it stands for in `make test`."""


class NotYet(NamedTuple):
    """It plans, or is refused for something this version does not support yet."""

    why: str


class Mistaken(NamedTuple):
    """It is refused for a mistake of its own."""

    place: str
    sentence: str


def _arguments(step: int = 0, **values: Any) -> Values:
    return {f"/steps/{step}/pipeline/arguments/{name}": value for name, value in values.items()}


def _words(step: int) -> Values:
    return {f"/steps/{step}/task/arguments/max_new_tokens": 5}


SMALL: Values = {"width": SIDE_PX, "height": SIDE_PX, "num_inference_steps": 2}
JPEG, PNG = Saved("image/jpeg"), Saved("image/png")
TEXT = Saved("text/plain")

REAL: dict[str, Runs | NotYet | Mistaken] = {
    "Krea2.json": Runs((JPEG,), changes=_arguments(**SMALL), for_part="Krea 2"),
    "LTX2I2VChained.json": Runs(
        # Of the second and the third segment of nine frames two each are trimmed.
        (Saved("video/mp4", frames=9 + 7 + 7),),
        {"width": SIDE_PX, "height": SIDE_PX, "num_frames": 9},
        for_part="LTX-2 in segments",
    ),
    "LTX2TwoStage.json": Runs(
        (Saved("video/mp4", 2 * SIDE_PX, 2 * SIDE_PX, 9),),
        {"width": SIDE_PX, "height": SIDE_PX, "num_frames": 9},
    ),
    "MiniMaxH3.json": Runs(
        (Saved("video/mp4", frames=MINIMAX_H3_FRAMES),),
        {"width": SIDE_PX, "height": SIDE_PX, "num_inference_steps": 3},
    ),
    "ZImage.json": Runs((JPEG,) * 2, {**SMALL, "num_images_per_prompt": 2}, for_part="Z-Image"),
    "archive/Allegro.json": Runs(
        (Saved("video/mp4", ALLEGRO_PX, ALLEGRO_PX, ALLEGRO_FRAMES),),
        changes=_arguments(
            width=ALLEGRO_PX, height=ALLEGRO_PX, num_frames=ALLEGRO_FRAMES, num_inference_steps=2
        ),
    ),
    "archive/CogVideoX-5b.json": Runs(
        (Saved("video/mp4", frames=9),) * 2,
        changes=_arguments(1, **SMALL, num_frames=9),
        for_part="CogVideoX",
    ),
    "archive/WanT2V1.3.json": Runs(
        (Saved("video/mp4", frames=5),),
        {"width": SIDE_PX, "height": SIDE_PX},
        _arguments(num_inference_steps=2, num_frames=5),
        for_part="Wan",
    ),
    "archive/bnb_quant.json": Runs((JPEG,), changes=_arguments(**SMALL), for_part="bitsandbytes"),
    "archive/ip-adapter.json": Runs(
        (JPEG, JPEG),
        {},
        _arguments(0, num_inference_steps=2) | _arguments(1, num_inference_steps=2),
    ),
    "archive/kandinsky.json": Runs(
        (JPEG, JPEG),
        changes={
            **_arguments(0, num_inference_steps=2),
            **{f"/steps/2/task/arguments/{side}": SIDE_PX for side in ("width", "height")},
            **_arguments(4, **SMALL),
        },
        for_part="Kandinsky 2.2",
    ),
    "archive/qr_code.json": Runs(
        (Saved("image/jpeg", 768, 768), Saved("image/jpeg", 1024, 1024), JPEG),
        {},
        _arguments(2, **SMALL),
        for_part="a ControlNet",
    ),
    "archive/sdxl.json": Runs(
        (JPEG,),
        # The base makes four fifths of the steps, the refiner the last.
        changes=_arguments(0, num_inference_steps=5) | _arguments(1, num_inference_steps=5),
        for_part="Stable Diffusion XL",
    ),
    "archive/sdxl_refiner.json": Runs((JPEG,), {}, _arguments(num_inference_steps=5)),
    "archive/txt2img2vid.json": Mistaken("steps[0].workflow.path", "There is no workflow file"),
    "attention_processors_example.json": Runs((PNG,), SMALL, for_part="an attention processor"),
    "controlnet.json": Runs((JPEG,), {}, _arguments(1, num_inference_steps=2)),
    "flux/FluxDev.json": Runs((JPEG,), SMALL, for_part="FLUX.1"),
    "flux/FluxDevFirstBlockCache.json": Runs(
        (JPEG,),
        changes=_arguments(**{**SMALL, "num_inference_steps": 4}),
        for_part="a cache of the denoiser",
    ),
    "flux/FluxFill.json": Mistaken(
        "steps[0].pipeline.arguments.image.location", "There is no variable 'image'"
    ),
    "flux/FluxGGUF.json": Runs((JPEG,), changes=_arguments(**SMALL), for_part="a GGUF file"),
    "flux/FluxInContext.json": Runs(
        (JPEG,) * 10,
        changes={
            pointer: value
            for step in range(10)
            for pointer, value in _arguments(step, **{**SMALL, "num_inference_steps": 1}).items()
        },
    ),
    "flux/FluxLora.json": Runs((JPEG,), changes=_arguments(**SMALL), for_part="a LoRA"),
    "flux/FluxOutpaint.json": Runs((JPEG,), {}, _arguments(1, **SMALL), for_part="FLUX.1 Fill"),
    "flux/FluxRedux.json": Runs(
        (JPEG,) * 2,
        {"num_images_per_prompt": 2},
        # The prior assumes the real text encoders' width where it has none; the stand-in has them.
        _arguments(0, prompt="") | _arguments(1, **SMALL),
        for_part="FLUX.1 Redux",
    ),
    "flux/img2txt2img.json": Runs(
        (TEXT, TEXT, JPEG, JPEG),
        changes={
            **{f"/steps/{step}/workflow/arguments/max_new_tokens": 5 for step in (1, 2)},
            **{f"/steps/3/workflow/arguments/{name}": value for name, value in SMALL.items()},
        },
        for_part="sub-workflows",
    ),
    "lora.json": Runs(
        (JPEG,) * 2,
        changes=_arguments(**SMALL, num_images_per_prompt=2),
        for_part="Stable Diffusion 3",
    ),
    "sd15.json": Runs(
        (JPEG,), changes=_arguments(num_inference_steps=2), for_part="Stable Diffusion"
    ),
    "tasks/CaptionToImage.json": Runs(
        (PNG,),
        {},
        _words(1) | _arguments(2, **SMALL),
        for_part="a task that runs a model",
    ),
    "tasks/ExpandAndGenerate.json": Runs((PNG,), changes=_words(0) | _arguments(1, **SMALL)),
    "tasks/ImageToText.json": Runs((TEXT,), {}, _words(1)),
    "tasks/MarigoldDepth.json": Runs(
        (PNG,), changes=_arguments(1, processing_resolution=SIDE_PX), for_part="Marigold"
    ),
    "tasks/MetadataEmbed.json": Runs(
        (PNG,), changes=_arguments(**SMALL), for_part="a picture with its record"
    ),
    "tasks/Segment.json": Runs(
        (PNG,),
        {},
        # The stand-in has no confident result.
        {"/steps/1/task/arguments/threshold": 0.0},
    ),
    "tasks/image_processors.json": Mistaken(
        "steps[9].task.command", "There is no task 'face_detector'"
    ),
}
"""By path in their folder."""
