"""A workflow of tasks through the real engine and its worker process."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from tests.engines import run, started_engine

DOCUMENT = {
    "id": "border",
    "variables": {"image": None, "width": 64},
    "steps": [
        {
            "name": "grow",
            "task": {
                "command": "add_border_and_mask",
                "arguments": {"image": "variable:image", "zoom_all": 2.0},
            },
        },
        {
            "name": "scale",
            "task": {
                "command": "resize_rescale",
                "arguments": {
                    "image": "previous_result:grow.bordered_image",
                    "width": "variable:width",
                    "height": 32,
                },
            },
            "result": {"content_type": "image/png"},
        },
        {
            "name": "size",
            "task": {
                "command": "get_image_size",
                "arguments": {"image": "previous_result:scale"},
            },
            "result": {"content_type": "application/json"},
        },
    ],
}


def test_tasks_run_in_worker_and_are_cached(tmp_path: Path):
    workflow = tmp_path / "border.json"
    workflow.write_text(json.dumps(DOCUMENT))
    upload = tmp_path / "red.png"
    Image.new("RGB", (32, 32), "red").save(upload)
    inputs = {"image": str(upload), "width": 48}
    with started_engine(tmp_path) as engine:
        finished = run(engine, workflow, inputs)
        again = run(engine, workflow, inputs, fresh=False)
        other = run(engine, workflow, {**inputs, "width": 40}, fresh=False)
    picture, data = finished.results
    assert finished.success.loaded == ()
    with Image.open(picture.path) as opened:
        assert opened.size == (48, 32)
        assert opened.convert("RGB").getpixel((24, 16)) == (255, 0, 0)
        assert opened.convert("RGB").getpixel((2, 16)) == (0, 0, 0)
    assert json.loads(Path(data.path).read_text()) == {"width": 48, "height": 32}
    assert data.text == '{"width": 48, "height": 32}'
    assert again.success.made_at is not None
    assert [result.path for result in again.results] == [picture.path, data.path]
    assert other.success.made_at is None
    assert other.results[0].width == 40
