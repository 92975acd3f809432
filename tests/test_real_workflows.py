"""Sharing of components in third-party documents."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from app.dialect.plan import Plan
from app.planning.planner import make_plan
from app.protocol import Loading
from app.settings import PathSettings
from tests.corpus.real import REAL, Runs
from tests.site import with_pictures
from tests.standins import StandIns
from tests.worker.bench import Bench, pixels

COMPONENTS = (
    "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "transformer", "vae",
)  # fmt: skip
# A worker ignores deprecations inside its libraries; pytest would not.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def planned(name: str, real_workflows: Path, stand_ins: StandIns, media: Path) -> Plan:
    """Returns the plan of the document, reduced as its line in the corpus says."""
    line = REAL[name]
    assert isinstance(line, Runs)
    stand_ins.add_named(json.loads((real_workflows / name).read_text()))
    plan = make_plan(
        real_workflows / name,
        line.inputs,
        paths=PathSettings(models=(stand_ins.folder,)),
        seed=1,
        changes=line.changes,
    )
    return with_pictures(plan, media)


def test_ten_steps_of_one_model_load_components_once(
    real_workflows: Path, stand_ins: StandIns, bench: Bench
):
    """The original software loads this model ten times for this document."""
    plan = planned("flux/FluxInContext.json", real_workflows, stand_ins, bench.folder)
    finished = bench.run(plan)
    assert len({picture.tobytes() for picture in pixels(finished)}) == 10
    loads = [event for event in finished.events if isinstance(event, Loading)]
    # Each load has two events: when it begins, and when its bytes are there.
    assert Counter(event.component for event in loads) == dict.fromkeys(COMPONENTS, 2)
    assert {event.step for event in loads} == {"couple"}


def test_refiner_shares_components_of_base(real_workflows: Path, stand_ins: StandIns, bench: Bench):
    plan = planned("archive/sdxl.json", real_workflows, stand_ins, bench.folder)
    loaded = [title for title in bench.run(plan).success.loaded if "refiner" in title]
    assert loaded
    assert not any(title.startswith(("vae", "text_encoder_2")) for title in loaded)


def test_adapters_of_two_families_load_image_encoders(
    real_workflows: Path, stand_ins: StandIns, bench: Bench
):
    plan = planned("archive/ip-adapter.json", real_workflows, stand_ins, bench.folder)
    loaded = bench.run(plan).success.loaded
    assert sum(title.startswith("image_encoder of IP-Adapter") for title in loaded) == 2


def test_sub_workflow_result_becomes_input_of_video(
    real_workflows: Path, stand_ins: StandIns, bench: Bench
):
    """Its two sub-workflows are not among the available documents; these have their names."""
    children = {
        "kandinsky3": (
            "AutoPipelineForText2Image", "kandinsky-community/kandinsky-3", "image/jpeg",
            {"prompt": "", "num_inference_steps": 2, "width": 64, "height": 64},
        ),
        "CogVideoX-5B-I2V": (
            "CogVideoXImageToVideoPipeline", "THUDM/CogVideoX-5b-I2V", "video/mp4",
            {"image": None, "prompt": "", "num_inference_steps": 2, "num_frames": 9},
        ),
    }  # fmt: skip
    for name, (kind, model, content_type, variables) in children.items():
        drawn = {
            "configuration": {"component_type": kind},
            "from_pretrained_arguments": {"model_name": model},
            "arguments": {each: f"variable:{each}" for each in variables},
        }
        result = {"content_type": content_type}
        step = {"name": "main", "pipeline": drawn, "result": result}
        bench.write({"id": name, "variables": variables, "steps": [step]}, name)
        stand_ins.add(model)
    path = bench.folder / "txt2img2vid.json"
    path.write_bytes((real_workflows / "archive" / path.name).read_bytes())
    small = {"width": 64, "height": 64, "image_num_inference_steps": 2}
    plan = make_plan(
        path,
        {**small, "video_num_inference_steps": 2},
        paths=PathSettings(models=(stand_ins.folder,)),
        seed=1,
    )
    finished = bench.run(plan)
    kinds = [result.content_type for result in finished.results if finished.success]
    assert kinds == ["image/jpeg", "image/jpeg", "video/mp4", "video/mp4"]
