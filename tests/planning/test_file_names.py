"""File names as people have them: blanks, brackets, dots, and Windows' separator."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.plan_bench import MODEL, Bench, drawing, safetensors, step, sub

NAMES = [
    "my style v1.2 (final).safetensors",
    "[anime] line+wash, v2.safetensors",
    "ink..2.safetensors",
    "猫 & 犬 #3.safetensors",
    "styles/old one/ink (1).safetensors",
]


@pytest.fixture
def loras(bench: Bench) -> Path:
    folder = bench.workflows / "loras"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        safetensors(folder / name, a=10)
    return folder


def with_lora(name: str) -> dict[str, Any]:
    return drawing(steps=[step(loras=[{"model_name": "./loras", "weight_name": name}])])


@pytest.mark.parametrize("name", NAMES)
def test_lora_file_of_any_printable_name_is_planned(bench: Bench, loras: Path, name: str):
    (lora,) = bench.plan(with_lora(name)).steps[0].loras
    assert lora.weight_name == name


@pytest.mark.parametrize(
    "name",
    ["../a.safetensors", "a/../../b.safetensors", "/a.safetensors", "C:\\a.safetensors",
     "..\\a.safetensors", ".hidden.safetensors", "a/.b/c.safetensors", "a//b.safetensors",
     "-a.safetensors", "a\n.safetensors", " a.safetensors", f"{'a' * 256}.safetensors"],
)  # fmt: skip
def test_lora_name_that_leads_elsewhere_is_refused(bench: Bench, loras: Path, name: str):
    (problem,) = bench.problems(with_lora(name)).values()
    assert problem == "A plain name ending in .safetensors is needed."


def test_windows_separator_works_for_models_and_loras(bench: Bench, loras: Path):
    folder = bench.workflows / "deep" / "model"
    shutil.copytree(bench.workflows / MODEL, folder)
    lora = {"model_name": ".\\loras", "weight_name": "styles\\old one\\ink (1).safetensors"}
    drawn = step(from_pretrained_arguments={"model_name": "deep\\model"}, loras=[lora])
    (planned,) = bench.plan(drawing(steps=[drawn])).steps
    assert planned.source.folder == str(folder)
    assert planned.loras[0].weight_name == "styles/old one/ink (1).safetensors"


def test_windows_separator_works_for_media(bench: Bench):
    (bench.workflows / "pictures").mkdir()
    file = bench.picture("in 1.png", bench.workflows / "pictures")
    drawn = step(
        configuration={"component_type": "StableDiffusionImg2ImgPipeline"},
        arguments={"prompt": "a star", "image": "pictures\\in 1.png"},
    )
    (planned,) = bench.plan(drawing(steps=[drawn])).steps
    assert planned.arguments["image"].path == str(file)


def test_windows_separator_works_for_sub_workflows(bench: Bench):
    child = bench.write(drawing(), "child.json")
    (bench.workflows / "flows").mkdir()
    text = child.read_text().replace(MODEL, f"../{MODEL}")
    (bench.workflows / "flows" / "child.json").write_text(text)
    child.unlink()
    (planned,) = bench.plan(drawing(steps=[sub("flows\\child.json")])).steps
    assert planned.name == "sub/draw"


def test_windows_separator_does_not_lead_outside_for_a_sub_workflow(bench: Bench):
    problems = bench.problems(drawing(steps=[sub("..\\outside.json")]))
    assert "lies outside" in next(iter(problems.values()))
