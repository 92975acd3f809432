"""A folder with a model and images, where a test writes documents and plans them."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.dialect.plan import Plan
from app.errors import BadRequest
from app.planning.planner import make_plan
from app.settings import PathSettings

Document = dict[str, Any]
MODEL = "../models/tiny"


class Bench:
    """Workflows in one folder, one model, and a folder of uploaded images."""

    def __init__(self, root: Path) -> None:
        self.workflows = root / "workflows"
        self.model = root / "models" / "tiny"
        self.media = root / "media"
        for folder in (self.workflows, self.model, self.media):
            folder.mkdir(parents=True)
        self.consists_of({})
        self.paths = PathSettings(
            workflows=(self.workflows,),
            models=(root / "models",),
            media=(self.media,),
            outputs=root / "outputs",
        )

    def consists_of(self, parts: Mapping[str, list[str | None]]) -> None:
        """Sets the components in the model's index, each by its library and class."""
        index = {"_class_name": "StableDiffusionPipeline", **parts}
        (self.model / "model_index.json").write_text(json.dumps(index))

    def write(self, document: object, name: str = "flow.json") -> Path:
        """Writes the document (text unchanged, all else as JSON) under this name."""
        file = self.workflows / name
        file.write_text(document if isinstance(document, str) else json.dumps(document))
        return file

    def picture(self, name: str = "upload.png", folder: Path | None = None) -> Path:
        file = (folder or self.media) / name
        Image.new("RGB", (8, 8), "red").save(file)
        return file

    def plan(self, document: object, seed: int | None = None, **inputs: Any) -> Plan:
        return make_plan(self.write(document), inputs, paths=self.paths, seed=seed)

    def refused(self, document: object, **inputs: Any) -> BadRequest:
        """Returns the error of planning this document."""
        with pytest.raises(BadRequest) as caught:
            self.plan(document, **inputs)
        return caught.value

    def problems(self, document: object, **inputs: Any) -> dict[str, str]:
        """Returns the problems of this document, by place."""
        return told(self.refused(document, **inputs))


def safetensors(file: Path, **sizes: int) -> Path:
    """Writes a safetensors file with byte tensors of these sizes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, size in sizes.items():
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    return file


def told(error: BadRequest) -> dict[str, str]:
    """Returns message and hint of every problem, by place."""
    return {found.place: f"{found.message} {found.hint}".strip() for found in error.problems}


def drawing(**changes: Any) -> Document:
    """Returns a document of one step; `changes` replaces top-level keys."""
    document: Document = {
        "id": "drawing",
        "variables": {"prompt": "a red circle", "steps": 20},
        "steps": [step()],
    }
    return {**document, **changes}


def step(name: str = "draw", **changes: Any) -> Document:
    """Returns a pipeline step; `changes` replaces keys of its pipeline block."""
    pipeline = {
        "configuration": {"component_type": "StableDiffusionPipeline"},
        "from_pretrained_arguments": {"model_name": MODEL},
        "arguments": {"prompt": "variable:prompt", "num_inference_steps": "variable:steps"},
    }
    return {
        "name": name,
        "pipeline": {**pipeline, **changes},
        "result": {"content_type": "image/png"},
    }


def sub(path: str, name: str = "sub", **arguments: Any) -> Document:
    """Returns a step that runs another workflow."""
    return {"name": name, "workflow": {"path": path, "arguments": arguments}}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A folder with a model and images, where documents are planned."""
    return Bench(tmp_path)


@pytest.fixture
def component(tmp_path: Path) -> Path:
    """The folder of a component with configuration and weights."""
    folder = tmp_path / "unet"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    safetensors(folder / "diffusion_pytorch_model.safetensors", a=10, b=6)
    return folder
