"""Components by kind of input; in their own process, as Gradio leaves event loops behind."""

from __future__ import annotations

import json
import subprocess
import sys

from app.settings import PROJECT

FORM = """
import json, sys
from pathlib import Path
import gradio as gr
from gradio.data_classes import FileData
from app.settings import PathSettings
from app.ui.form import build_form, read_form
from app.dialect.document import InputBlock
from app.dialect.inputs import input_specs

variables = {"start_video": {"location": "https://example.org/cat"}, "an_image": None, "music": ""}
asked = input_specs(variables, {name: InputBlock() for name in variables}
                    | {"music": InputBlock(kind="audio")})
with gr.Blocks():
    fields = build_form(asked, {})
    beyond = input_specs({"steps": 99}, {"steps": InputBlock(minimum=1, maximum=50)})
    number = build_form(beyond, {})
    ranged = input_specs({"steps": 9}, {"steps": InputBlock(minimum=1, maximum=50)})
    slider = build_form(ranged, {})[0].component
print(json.dumps({
    # Gradio's own would raise for both.
    "typed": [slider.preprocess(None), slider.preprocess(99)],
    "beyond": [type(field.component).__name__ for field in number],
    "kinds": [type(field.component).__name__ for field in fields],
    # What lies behind the URL is not fetched to be shown.
    "values": [field.component.value for field in fields],
    "uploads": [field.component.preprocess(FileData(path="/up/a.bin")) for field in fields],
    "read": read_form(fields, ["/up/a.mp4", None, "/up/a.wav"], PathSettings(media=(Path("/up"),))),
}))
"""


def test_file_is_upload_and_default_beyond_limits_is_number_field():
    run = subprocess.run(
        [sys.executable, "-c", FORM], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == {
        "typed": [None, 99],
        "beyond": ["Number"],
        "kinds": ["Video", "Image", "Audio"],
        "values": [None, None, None],
        "uploads": ["/up/a.bin"] * 3,
        "read": {"start_video": "/up/a.mp4", "music": "/up/a.wav"},
    }
