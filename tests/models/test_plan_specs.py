"""A plan's component specs cross the pipe, and are current while their files stay the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from app.dialect.plan import Plan
from app.models.plan_specs import are_current, plan_specs
from app.models.specs import PLACES, StepSpecs
from app.planning.planner import make_plan
from app.planning.request_keys import request_key
from app.protocol import StartRun, decode_command, encode
from app.settings import PathSettings


@pytest.fixture
def model(tmp_path: Path, shapes_model: Path) -> Path:
    """A writable copy of the bundled model."""
    return shutil.copytree(shapes_model, tmp_path / "model")


def step(name: str, model: Path | str, **blocks: Any) -> dict[str, Any]:
    return {
        "name": name,
        "pipeline": {
            "configuration": {"component_type": "StableDiffusionPipeline"},
            "from_pretrained_arguments": {"model_name": str(model)},
            "arguments": {"prompt": "a star"},
            **blocks,
        },
        "result": {"content_type": "image/png"},
    }


def planned(folder: Path, *steps: dict[str, Any]) -> Plan:
    path = folder / "flow.json"
    path.write_text(json.dumps({"id": "flow", "steps": list(steps)}))
    return make_plan(path, {}, paths=PathSettings(), seed=1)


def test_specs_are_the_same_on_the_other_side_of_the_pipe(tmp_path: Path, model: Path):
    sharing = step("one", model, shared_components=["vae"])
    specs = plan_specs(
        planned(tmp_path, sharing, step("two", model, reused_components=["vae"])).steps
    )
    sent = StartRun(run_id="1", plan=planned(tmp_path, sharing), specs=specs)
    data = encode(sent)
    received = decode_command(data)
    assert isinstance(received, StartRun)
    assert received.specs == specs
    assert [each.key for each in received.specs.components] == [
        each.key for each in specs.components
    ]
    assert [each.shared_by for each in specs.components].count("one") == 1
    assert len(data) < 16_000


CHANGES: dict[str, Callable[[Path], Any]] = {
    "index": lambda model: (model / "model_index.json").write_text(
        (model / "model_index.json").read_text() + "\n"
    ),
    "config": lambda model: (model / "vae" / "config.json").touch(),
    "weights": lambda model: next((model / "unet").glob("*.safetensors")).touch(),
    "another file": lambda model: (model / "unet" / "more.json").write_text("{}"),
    "a file less": lambda model: (model / "scheduler" / "scheduler_config.json").unlink(),
    "a folder less": lambda model: shutil.rmtree(model / "tokenizer"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_specs_are_no_longer_current_when_a_file_has_changed(
    tmp_path: Path, model: Path, shapes_model: Path, change: str
):
    specs = plan_specs(planned(tmp_path, step("one", model), step("two", shapes_model)).steps)
    assert are_current(specs)
    CHANGES[change](model)
    assert not are_current(specs)


def test_step_that_cannot_be_resolved_is_left_out_with_those_that_reuse_of_it(
    tmp_path: Path, model: Path
):
    broken = shutil.copytree(model, tmp_path / "broken")
    plan = planned(
        tmp_path,
        step("broken", broken, shared_components=["vae"]),
        step("reusing", model, reused_components=["vae"]),
        step("alone", model),
    )
    (broken / "model_index.json").write_text("[]")
    specs = plan_specs(plan.steps)
    assert set(specs.steps) == {"alone"}
    assert not specs.is_whole
    assert specs.weight_bytes is None


@pytest.mark.parametrize("named", [True, False])
def test_specs_are_no_longer_current_when_a_lora_has_changed(
    tmp_path: Path, model: Path, shapes_model: Path, named: bool
):
    """Also when another file appears in the folder of a LoRA without a file name."""
    lora = tmp_path / "lora"
    lora.mkdir()
    file = next((shapes_model / "outline").glob("*.safetensors"))
    shutil.copy(file, lora / "outline.safetensors")
    weights = {"weight_name": "outline.safetensors"} if named else {}
    loras = [{"model_name": str(lora), **weights}]
    specs = plan_specs(planned(tmp_path, step("one", model, loras=loras)).steps)
    assert [each.name for each in specs.steps["one"].loras[0].files] == ["outline.safetensors"]
    assert are_current(specs)
    if named:
        (lora / "outline.safetensors").touch()
    else:
        shutil.copy(file, lora / "other.safetensors")
    assert not are_current(specs)


def test_models_of_which_files_are_missing_are_named(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
):
    """A LoRA too; the other steps are resolved."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    plan = planned(
        tmp_path,
        step("with a lora", model, loras=[{"model_name": "owner/lora"}]),
        step("elsewhere", "owner/model"),
        step("here", model),
    )
    specs = plan_specs(plan.steps)
    assert [source.model for source in specs.missing] == ["owner/lora", "owner/model"]
    assert set(specs.steps) == {"here"}
    assert not specs.is_whole


# --- the key of a request ------------------------------------------------------------------------


def test_request_key_is_made_of_what_the_steps_load(tmp_path: Path, model: Path):
    """A text beside the model, which no step reads, does not change the key."""
    plan = planned(tmp_path, step("one", model))

    def key() -> str:
        return request_key(plan, "cpu", plan_specs(plan.steps))

    before = key()
    (model / "README.md").write_text("A model.")
    assert key() == before
    (model / "vae" / "config.json").touch()
    assert key() != before


def test_every_field_of_a_steps_specs_identifies_it_unless_it_says_where_they_were_read():
    @dataclass(frozen=True)
    class Grown(StepSpecs):
        new: str = "a"

    plain: dict[str, Any] = {"class_name": "a", "folder": Path("a"), "components": ()}
    assert Grown(**plain).identity != Grown(**plain, new="b").identity
    assert {each.name for each in fields(StepSpecs)} == {*Grown(**plain).identity, *PLACES} - {
        "new"
    }
