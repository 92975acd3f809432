"""Workflows that make images, for interfaces with fixed parameters: which one is meant, and the
inputs for an image's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.catalog.catalog import Catalog, CatalogEntry
from app.dialect.inputs import InputSpec
from app.errors import UnknownWorkflow, nearest, shortened

OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "num_inference_steps": ("steps",),
    "guidance_scale": ("true_cfg_scale", "cfg_scale"),
    "mask_image": ("mask",),
}
"""Further names of a pipeline's arguments, and of the inputs for them."""
BY_KIND = {"prompt": "text", "image": "image", "mask_image": "mask"}
"""Arguments that the first input of this kind feeds, if none does by its name."""


def makes_images(entry: CatalogEntry) -> bool:
    """Returns True for a workflow whose results are images."""
    return entry.problem is None and entry.content_type.startswith("image/")


class ImageWorkflow:
    """A workflow that makes images, by the arguments of a pipeline: `prompt`, `width`, …"""

    def __init__(self, entry: CatalogEntry) -> None:
        self.entry = entry
        self._specs = {spec.name: spec for spec in entry.inputs}

    def input_for(self, argument: str) -> InputSpec | None:
        """Returns the input for this argument; None where the workflow has none."""
        for name in (argument, *OTHER_NAMES.get(argument, ())):
            spec = self._specs.get(self.entry.feeds.get(name, name))
            if spec is not None:
                return spec
        kind = BY_KIND.get(argument)
        return next((spec for spec in self.entry.inputs if spec.kind == kind), None)

    def inputs(self, wished: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Returns the inputs for these arguments, and the arguments without an input."""
        found: dict[str, Any] = {}
        lacking: list[str] = []
        for argument, value in wished.items():
            spec = self.input_for(argument)
            if spec is None:
                lacking.append(argument)
            else:
                several = isinstance(spec.default, list) and not isinstance(value, list)
                found[spec.name] = [value] if several else value
        return found, lacking

    def takes(self, *, image: bool, mask: bool) -> bool:
        """Returns True if it has inputs for exactly these, beside a prompt."""
        found = [self.input_for(name) is not None for name in ("prompt", "image", "mask_image")]
        return found == [True, image, mask]

    def runs_with(self, *, image: bool, mask: bool) -> bool:
        """Returns True if a pipeline draws from a prompt and exactly these, and nothing else is
        needed. A workflow that enlarges or captions an image takes the same inputs."""
        sent = ["prompt", *["image"] * image, *["mask_image"] * mask]
        if not self.takes(image=image, mask=mask) or not self.entry.feeds.keys() >= {*sent}:
            return False
        own = [self.input_for(argument) for argument in sent]
        return all(spec in own for spec in self.entry.inputs if _is_needed(spec))


def chosen(
    catalog: Catalog, name: str | None, *, image: bool = False, mask: bool = False
) -> ImageWorkflow:
    """Returns the workflow of this name; without one the first that is ready and draws from these.

    Reads the disk. Raises UnknownWorkflow.
    """
    if name:
        entry = catalog.find(name)
        if entry.problem is None and not makes_images(entry):
            others = [each.name for each in catalog.entries() if makes_images(each)]
            raise UnknownWorkflow(
                f"The workflow '{shortened(name)}' makes no images.", hint=nearest(name, others)
            )
        return ImageWorkflow(entry)
    for entry in catalog.entries():
        workflow = ImageWorkflow(entry)
        if entry.ready and makes_images(entry) and workflow.runs_with(image=image, mask=mask):
            return workflow
    given = " and ".join(["a prompt", *["an image"] * image, *["a mask"] * mask])
    raise UnknownWorkflow(f"No workflow that is ready draws from {given}.", hint="Name one.")


def _is_needed(spec: InputSpec) -> bool:
    return spec.default in (None, "") and (spec.required or spec.media is not None)
