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
    "-dash and blank .safetensors",
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
     "a\n.safetensors", " a.safetensors", f"{'a' * 256}.safetensors"],
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


# --- a LoRA's file, or a folder of many ----------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    ["./loras/ink v1.2.safetensors", ".\\loras\\ink v1.2.safetensors", "own/loras/ink v1.2.ckpt"],
)
def test_lora_may_be_named_by_its_file(bench: Bench, model: str):
    folder = bench.workflows / "loras"
    folder.mkdir(exist_ok=True)
    for name in ("ink v1.2", "another"):
        safetensors(folder / f"{name}.safetensors", a=10)
    if model.startswith("own"):
        # (A folder of models has its own as `owner/name`.)
        (bench.model.parent / "own").mkdir()
        folder = Path(shutil.move(folder, bench.model.parent / "own" / "loras"))
    (lora,) = bench.plan(drawing(steps=[step(loras=[{"model_name": model}])])).steps[0].loras
    assert lora.weight_name == "ink v1.2.safetensors"
    assert lora.source.folder == str(folder.resolve())


def test_lora_beside_the_document_may_be_named_by_its_file(bench: Bench):
    safetensors(bench.workflows / "ink.safetensors", a=10)
    named = [{"model_name": "ink.safetensors"}]
    (lora,) = bench.plan(drawing(steps=[step(loras=named)])).steps[0].loras
    assert lora.weight_name == "ink.safetensors"


def test_lora_of_the_hub_may_be_named_by_its_file(bench: Bench):
    named = [{"model_name": "owner/styles/ink.safetensors"}]
    (lora,) = bench.plan(drawing(steps=[step(loras=named)])).steps[0].loras
    assert (lora.source.model, lora.weight_name) == ("owner/styles", "ink.safetensors")


def test_missing_lora_file_suggests_nearest(bench: Bench):
    safetensors(bench.workflows / "ink.safetensors", a=10)
    problems = bench.problems(drawing(steps=[step(loras=[{"model_name": "./inc.safetensors"}])]))
    (message,) = problems.values()
    assert "has no inc.safetensors. Did you mean 'ink.safetensors'?" in message


def test_folder_of_several_loras_needs_a_name(bench: Bench):
    folder = bench.workflows / "styles"
    folder.mkdir()
    for number in range(14):
        safetensors(folder / f"style {number:02}.safetensors", a=10)
    asked = drawing(steps=[step(loras=[{"model_name": "./styles"}])])
    assert bench.problems(asked) == {
        "steps[0].pipeline.loras[0].model_name": (
            "'./styles' has 14 files, and none of them is named. Name one as 'weight_name': "
            + ", ".join(f"style {number:02}.safetensors" for number in range(12))
            + ", …."
        )
    }


def test_folder_with_the_usual_file_or_one_file_needs_no_name(bench: Bench):
    folder = bench.workflows / "styles"
    folder.mkdir()
    asked = drawing(steps=[step(loras=[{"model_name": "./styles"}])])
    safetensors(folder / "ink.safetensors", a=10)
    assert bench.plan(asked).steps
    safetensors(folder / "pytorch_lora_weights.safetensors", a=10)
    assert bench.plan(asked).steps


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "'ink.safetensors' is not a safetensors file: it is empty."),
        (b"<!DOCTYPE html><html>", "it begins with '<!DOCTYPE html><html>'."),
        (b"version https://git-lfs.github.com/spec/v1", "it begins with 'version https://git-lfs."),
        (b"PK\x03\x04archive/data.pkl", "it begins with 'PK..archive/data.pkl'."),
        (None, "'ink.safetensors' is cut off: 76 of 80 bytes are here."),
    ],
    ids=["empty", "a saved page", "a pointer of Git LFS", "a pickle", "cut off"],
)
@pytest.mark.parametrize("named", [{"weight_name": "ink.safetensors"}, {}])
def test_damaged_lora_is_refused_with_its_file(
    bench: Bench, content: bytes | None, told: str, named: dict[str, str]
):
    file = bench.workflows / "loras" / "ink.safetensors"
    file.parent.mkdir()
    if content is None:
        content = safetensors(file, a=10).read_bytes()[:-4]
        told = f"'ink.safetensors' is cut off: {len(content)} of {len(content) + 4} bytes are here."
    file.write_bytes(content)
    problems = bench.problems(drawing(steps=[step(loras=[{"model_name": "./loras", **named}])]))
    (message,) = problems.values()
    assert told in message
    assert message.endswith("Download it again, or take another file.")
