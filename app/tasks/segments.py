"""Segmentation of images: by class, by text, and of everything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from PIL import Image
from pydantic import Field

from app.tasks.ade20k import palette
from app.tasks.edges import Resolution, at_resolution, size_at
from app.tasks.resize import ImageArguments
from app.tasks.task import OPENCV, Loaded, Loads, Task

if TYPE_CHECKING:
    from torch import Tensor

UPERNET = "openmmlab/upernet-convnext-small"
GROUNDING_DINO, SAM_2 = "IDEA-Research/grounding-dino-base", "facebook/sam2-hiera-large"
SAM = "facebook/sam-vit-base"
TEXT_THRESHOLD = 0.25
"""Minimum similarity of a box and a word of the text."""
POINTS_AT_A_TIME = 64
OVERLAP = 0.7
"""Box IoU above which two masks show the same object."""
Named = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Segmentation(ImageArguments):
    model_name: Named = UPERNET


class Segment(ImageArguments):
    prompt: Named
    """What to find; several things are separated by full stops."""
    model_name: Named = GROUNDING_DINO
    sam_model_name: Named = SAM_2
    threshold: Share = 0.3
    invert: bool = False


class Sam(ImageArguments):
    detect_resolution: Resolution = 512
    image_resolution: Resolution = 512
    points_per_side: Annotated[int, Field(ge=1, le=128)] = 32
    """Points of the prompt grid along each side."""
    pred_iou_thresh: Share = 0.88
    """Minimum of SAM's own score of a mask."""
    stability_score_thresh: Share = 0.95
    """Minimum ratio of a mask's areas at thresholds of one logit above and below."""
    model_name: Named = SAM


def segmentation(arguments: Segmentation, loaded: Loaded) -> Image.Image:
    """Returns the class colour of every pixel, in the image's own size."""
    import numpy as np
    import torch

    image, model = arguments.image.convert("RGB"), loaded.components["model"]
    seen = loaded.components["image_processor"](image, return_tensors="pt")
    logits = model(seen["pixel_values"].to(loaded.device, model.dtype)).logits.float()
    grown = torch.nn.functional.interpolate(
        logits, (image.height, image.width), mode="bilinear", align_corners=False
    )
    kinds = grown[0].argmax(0).cpu().numpy()
    colours = np.array(palette(), np.uint8)
    return Image.fromarray(colours[kinds % len(colours)])


def segment(arguments: Segment, loaded: Loaded) -> Image.Image:
    """Returns a mask (L): white for objects named by the text, black elsewhere."""
    import numpy as np

    image = arguments.image.convert("RGB")
    found = np.zeros((image.height, image.width), bool)
    boxes = _boxes(image, arguments, loaded)
    if len(boxes):
        found = _masks_in(image, boxes, loaded).any(0).cpu().numpy()
    return Image.fromarray(np.where(found != arguments.invert, 255, 0).astype(np.uint8))


def sam(arguments: Sam, loaded: Loaded) -> Image.Image:
    """Returns all objects in different colours, small ones on top; black where SAM finds none."""
    import numpy as np

    pixels = at_resolution(arguments.image, arguments.detect_resolution)
    painted = np.zeros_like(pixels)
    colours = palette()
    masks = _all_masks(Image.fromarray(pixels), arguments, loaded)
    for number, mask in enumerate(sorted(masks, key=lambda mask: -int(mask.sum()))):
        painted[mask.cpu().numpy()] = colours[number % len(colours)]
    size = size_at(arguments.image_resolution, pixels.shape)
    return Image.fromarray(painted).resize(size, Image.Resampling.NEAREST)


# --- by text -------------------------------------------------------------------------------------


def _boxes(image: Image.Image, arguments: Segment, loaded: Loaded) -> Tensor:
    """Returns boxes of the objects named by the text: (count, 4), x1, y1, x2, y2 in pixels."""
    from transformers import GroundingDinoProcessor

    detector = loaded.components["detector"]
    processor = GroundingDinoProcessor(
        image_processor=loaded.components["image_processor"],
        tokenizer=loaded.components["tokenizer"],
    )
    # The model expects lower-case categories, each with a full stop.
    text = arguments.prompt.strip().lower().rstrip(".") + "."
    seen = processor(images=image, text=text, return_tensors="pt").to(loaded.device)
    seen["pixel_values"] = seen["pixel_values"].to(detector.dtype)
    output = detector(**seen)
    (found,) = processor.post_process_grounded_object_detection(
        output,
        seen["input_ids"],
        threshold=arguments.threshold,
        text_threshold=TEXT_THRESHOLD,
        target_sizes=[(image.height, image.width)],
    )
    boxes: Tensor = found["boxes"].float()
    return boxes


def _masks_in(image: Image.Image, boxes: Tensor, loaded: Loaded) -> Tensor:
    """Returns SAM 2's masks for these boxes: (count, height, width) of bool."""
    import torch

    model = loaded.components["segmenter"]
    seen = loaded.components["segmenter_image_processor"](image, return_tensors="pt")
    pixels = seen["pixel_values"].to(loaded.device, model.dtype)
    height, width = pixels.shape[-2:]
    scale = torch.tensor([width / image.width, height / image.height] * 2, device=boxes.device)
    output = model(
        pixel_values=pixels,
        input_boxes=(boxes * scale)[None].to(model.dtype),
        multimask_output=False,
    )
    masks = torch.nn.functional.interpolate(
        output.pred_masks[0].float(),
        (image.height, image.width),
        mode="bilinear",
        align_corners=False,
    )
    found: Tensor = masks[:, 0] > 0
    return found


# --- everything ----------------------------------------------------------------------------------


def _all_masks(image: Image.Image, arguments: Sam, loaded: Loaded) -> list[Tensor]:
    """Returns masks (height, width) of all objects, without duplicates.

    Follows Segment Anything's automatic mask generator, with its thresholds.
    """
    import torch

    model, processor = loaded.components["model"], loaded.components["image_processor"]
    seen = processor(image, return_tensors="pt")
    sizes, reshaped = seen["original_sizes"], seen["reshaped_input_sizes"]
    embedded = model.get_image_embeddings(seen["pixel_values"].to(loaded.device, model.dtype))
    height, width = (int(side) for side in reshaped[0])
    steps = (torch.arange(arguments.points_per_side) + 0.5) / arguments.points_per_side
    grid = torch.cartesian_prod(steps * width, steps * height)
    masks: list[Tensor] = []
    scores: list[float] = []
    parts: tuple[Tensor, ...] = torch.split(grid, POINTS_AT_A_TIME)
    for number, points in enumerate(parts, start=1):
        output = model(
            image_embeddings=embedded,
            input_points=points[None, :, None].to(loaded.device, model.dtype),
            multimask_output=True,
        )
        found = output.iou_scores.float().flatten()
        good = found > arguments.pred_iou_thresh
        if good.any():
            small = output.pred_masks.float().flatten(0, 2)[good]
            (logits,) = processor.post_process_masks(
                [small[:, None]], sizes, reshaped, binarize=False
            )
            for mask, score in zip(logits[:, 0], found[good].tolist(), strict=True):
                if _stability(mask) >= arguments.stability_score_thresh:
                    masks.append(mask > 0)
                    scores.append(score)
        loaded.progress(number, len(parts))
    return _without_overlaps(masks, scores)


def _stability(logits: Tensor) -> float:
    """Returns the stability score; 0 for an empty mask."""
    tight, wide = int((logits > 1).sum()), int((logits > -1).sum())
    return tight / wide if tight else 0.0


def _without_overlaps(masks: list[Tensor], scores: list[float]) -> list[Tensor]:
    """Returns the masks after non-maximum suppression of their boxes."""
    kept: list[int] = []
    boxes = [_box(mask) for mask in masks]
    for index in sorted(range(len(masks)), key=lambda i: -scores[i]):
        if all(_overlap(boxes[index], boxes[other]) <= OVERLAP for other in kept):
            kept.append(index)
    return [masks[index] for index in kept]


def _box(mask: Tensor) -> tuple[int, int, int, int]:
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


# --- models --------------------------------------------------------------------------------------


def _upernet(values: Mapping[str, Any]) -> tuple[Loads, ...]:
    model = values["model_name"]
    return (
        Loads("model", "transformers.AutoModelForSemanticSegmentation", model),
        Loads("image_processor", "transformers.AutoImageProcessor", model),
    )


def _sam(values: Mapping[str, Any]) -> tuple[Loads, ...]:
    model = values["model_name"]
    return (
        Loads("model", "transformers.SamModel", model),
        Loads("image_processor", "transformers.AutoImageProcessor", model),
    )


def _detector_and_segmenter(values: Mapping[str, Any]) -> tuple[Loads, ...]:
    detector, segmenter = values["model_name"], values["sam_model_name"]
    return (
        Loads("detector", "transformers.AutoModelForZeroShotObjectDetection", detector),
        Loads("tokenizer", "transformers.AutoTokenizer", detector),
        Loads("image_processor", "transformers.AutoImageProcessor", detector),
        Loads("segmenter", "transformers.Sam2Model", segmenter, "sam_model_name"),
        # SAM 2's own needs torchvision. This one rescales and normalises too, with the same keys of
        # the same file.
        Loads(
            "segmenter_image_processor",
            "transformers.ViTImageProcessorPil",
            segmenter,
            "sam_model_name",
        ),
    )


SEGMENTATION = Task(Segmentation, segmentation, gives="image", loads=_upernet)
SEGMENT = Task(Segment, segment, gives="image", loads=_detector_and_segmenter)
EVERYTHING = Task(Sam, sam, gives="image", loads=_sam, packages=(OPENCV,))
