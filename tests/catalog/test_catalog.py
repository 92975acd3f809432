"""The catalog: which workflows exist, their inputs, and their readiness."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from app.catalog.catalog import Catalog, CatalogEntry
from app.errors import UnknownWorkflow
from app.settings import PROJECT, SHIPPED_WORKFLOWS, PathSettings
from tests.corpus.shipped import NEEDS_PACKAGE
from tests.plan_bench import MODEL, Bench, drawing, step, sub

SHAPES = PROJECT / "models" / "shapes"
VARIABLES = {"prompt": "a red circle", "steps": 20}
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


@pytest.fixture
def catalog(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    """Returns a catalog of the bench's workflows, with an empty hub cache."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return Catalog(bench.paths)


PARTS = ("feature_extractor", "image_encoder")


def only(catalog: Catalog) -> CatalogEntry:
    (entry,) = catalog.entries()
    return entry


def loading(model: Any) -> dict[str, Any]:
    return drawing(steps=[step(from_pretrained_arguments={"model_name": model})])


def test_workflow_is_named_after_its_file(catalog: Catalog, bench: Bench):
    file = bench.write(
        drawing(description="Draws.", inputs={"steps": {"label": "Steps"}}), "My Flow.json"
    )
    entry = only(catalog)
    assert (entry.name, entry.description, entry.path) == ("my-flow", "Draws.", str(file.resolve()))
    assert [spec.name for spec in entry.inputs] == ["prompt", "steps"]
    assert entry.problem is None


def test_names_are_unique_over_all_folders(bench: Bench, tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    bench.write(drawing(), "flow.json")
    bench.write(drawing(), "a b.json")
    bench.write(drawing(), "a-b.json")
    for name in ("a_b.json", "flow.json"):
        (other / name).write_text(json.dumps(drawing()))
    catalog = Catalog(PathSettings(workflows=(bench.workflows, other)))
    names = {entry.path: entry.name for entry in catalog.entries()}
    assert len(set(names.values())) == 5
    assert names[str((bench.workflows / "flow.json").resolve())] == "flow"
    with pytest.raises(UnknownWorkflow, match="Files with similar names are listed as a-b-"):
        catalog.find("a-b")


def test_name_stays_with_its_file_when_another_is_added(catalog: Catalog, bench: Bench):
    first = bench.write(drawing(), "!.json")
    name = only(catalog).name
    bench.write(drawing(), "?.json")
    bench.write(drawing(), "\N{CJK UNIFIED IDEOGRAPH-732B}.json")
    assert catalog.find(name).path == str(first.resolve())
    assert catalog.find("\N{CJK UNIFIED IDEOGRAPH-732B}").problem is None


def test_folder_named_twice_is_listed_once(bench: Bench):
    bench.write(drawing(), "flow.json")
    catalog = Catalog(PathSettings(workflows=(bench.workflows, bench.workflows)))
    assert only(catalog).name == "flow"


def test_workflow_is_found_by_name_or_nearest_is_suggested(catalog: Catalog, bench: Bench):
    bench.write(drawing(), "lighthouse.json")
    assert catalog.find("lighthouse").name == "lighthouse"
    with pytest.raises(UnknownWorkflow) as caught:
        catalog.find("ligthouse")
    assert str(caught.value) == ("There is no workflow 'ligthouse'. Did you mean 'lighthouse'?")
    with pytest.raises(UnknownWorkflow, match="There are: lighthouse"):
        catalog.find("zzz")


def test_changed_added_and_removed_files_are_noticed(catalog: Catalog, bench: Bench):
    file = bench.write(drawing(description="old"), "flow.json")
    assert only(catalog).description == "old"
    file.write_text(json.dumps(drawing(description="newer")))
    assert only(catalog).description == "newer"
    bench.write(drawing(), "second.json")
    assert len(catalog.entries()) == 2
    file.unlink()
    assert only(catalog).name == "second"


def test_workflow_with_local_model_is_ready(catalog: Catalog, bench: Bench):
    bench.write(loading(MODEL))
    assert (only(catalog).ready, only(catalog).availability) == (True, "ready")
    assert only(catalog).models == (MODEL,)


def test_workflow_that_planning_refuses_is_not_ready(catalog: Catalog, bench: Bench):
    block = {
        "configuration": {"component_type": "UNet2DConditionModel"},
        "from_pretrained_arguments": {"from_single_file": "page.safetensors"},
    }
    page = bench.workflows / "page.safetensors"
    page.write_text("<html>not found</html>")
    bench.write(drawing(steps=[step(unet=block)]))
    assert not only(catalog).ready
    assert only(catalog).availability == "cannot run as it stands"
    header = b"{}"
    page.write_bytes(len(header).to_bytes(8, "little") + header)
    assert only(catalog).ready


@pytest.mark.parametrize(
    "wrong", [{"strength": "much"}, {"num_inference_steps": 0}, {"no_such_argument": 1}]
)
def test_workflow_with_a_wrong_argument_is_not_ready(
    catalog: Catalog, bench: Bench, wrong: dict[str, Any]
):
    bench.write(drawing(steps=[step(arguments={"prompt": "a fox", **wrong})]))
    assert not only(catalog).ready


def test_workflow_that_waits_for_an_input_is_not_judged(catalog: Catalog, bench: Bench):
    asks = drawing(
        variables={"steps": None}, steps=[step(arguments={"num_inference_steps": "variable:steps"})]
    )
    bench.write(asks)
    assert only(catalog).ready


def in_a_file(named: str) -> dict[str, Any]:
    return {
        "configuration": {"component_type": "UNet2DConditionModel"},
        "from_pretrained_arguments": {"from_single_file": named},
    }


ON_THE_HUB = "https://huggingface.co/owner/files/blob/main/{}"
GONE: dict[str, dict[str, Any]] = {
    "a local file": {"unet": in_a_file("gone.safetensors")},
    "a LoRA": {"loras": [{"model_name": "../models/tiny", "weight_name": "gone.safetensors"}]},
    "a LoRA by its file": {"loras": [{"model_name": "../models/tiny/gone.safetensors"}]},
}


@pytest.mark.parametrize("blocks", GONE.values(), ids=[*GONE])
@pytest.mark.parametrize("prompt", ["a fox", None])
def test_workflow_without_its_local_file_is_not_ready(
    catalog: Catalog, bench: Bench, blocks: dict[str, Any], prompt: str | None
):
    variables = {"prompt": prompt, "steps": 2}
    bench.write(drawing(variables=variables, steps=[step(**blocks)]))
    assert (only(catalog).ready, only(catalog).availability) == (
        False, "a file that it names is missing"
    )  # fmt: skip
    for folder in (bench.workflows, bench.model):
        (folder / "gone.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    assert only(catalog).ready


def downloaded(hub: Path, files: dict[str, bool]) -> None:
    """Puts `owner/files` into the hub's cache: its files, False for one that is not there."""
    root = hub / "models--owner--files"
    for name, is_there in files.items():
        file = root / "snapshots" / "abc" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if is_there:
            file.write_bytes((2).to_bytes(8, "little") + b"{}")
    for folder, name, text in (
        ("refs", "main", "abc"),
        ("trees", "abc.json", json.dumps({"format_version": 1, "files": dict.fromkeys(files)})),
    ):
        (root / folder).mkdir()
        (root / folder / name).write_text(text)


@pytest.mark.parametrize(
    ("named", "availability"),
    [
        ("here.safetensors", "ready"),
        ("lacking.safetensors", "downloads its model first"),
        ("gone.safetensors", "a file that it names is missing"),
    ],
)
@pytest.mark.parametrize("listed", [True, False])
def test_workflow_without_its_file_of_the_hub_is_not_ready(
    catalog: Catalog, bench: Bench, tmp_path: Path, named: str, availability: str, listed: bool
):
    downloaded(tmp_path / "hub", {"here.safetensors": True, "lacking.safetensors": False})
    if not listed:
        # As an older client of the hub left it: whether the repository has the file is not known.
        shutil.rmtree(tmp_path / "hub" / "models--owner--files" / "trees")
        availability = availability.replace(
            "a file that it names is missing", "downloads its model first"
        )
    bench.consists_of({"unet": ["diffusers", "UNet2DConditionModel"]})
    config = bench.model / "unet" / "config.json"
    config.parent.mkdir()
    config.write_text("{}")
    nothing = {"safety_checker": None, **dict.fromkeys(PARTS)}
    loading = {"model_name": MODEL, **nothing}
    blocks = {"unet": in_a_file(ON_THE_HUB.format(named))}
    bench.write(drawing(steps=[step(from_pretrained_arguments=loading, **blocks)]))
    assert only(catalog).availability == availability
    lora = {"model_name": "owner/files", "weight_name": named}
    bench.write(drawing(steps=[step(from_pretrained_arguments=loading, loras=[lora])]))
    assert only(catalog).availability == availability


def test_hub_model_in_models_folder_is_ready(catalog: Catalog, bench: Bench):
    bench.write(loading("owner/name"))
    assert not only(catalog).ready
    shutil.copytree(bench.model, bench.model.parent / "owner" / "name")
    assert only(catalog).ready


def test_model_from_variable_uses_its_default(catalog: Catalog, bench: Bench):
    bench.write(
        loading("variable:model") | {"variables": {"prompt": "", "steps": 1, "model": SDXL}}
    )
    assert only(catalog).models == (SDXL,)


@pytest.mark.parametrize(
    ("models", "availability", "size"),
    [
        ([SDXL], "downloads about 6.9 GB first", 6_900_000_000),
        ([SDXL, "black-forest-labs/FLUX.1-dev"], "downloads about 41 GB first", 40_900_000_000),
        ([SDXL, SDXL], "downloads about 6.9 GB first", 6_900_000_000),
        ([SDXL, "owner/unknown"], "downloads its model first", None),
        (["../models/gone"], "its model folder is missing", None),
    ],
)
def test_missing_model_is_listed_with_download_size(
    catalog: Catalog, bench: Bench, models: list[str], availability: str, size: int | None
):
    steps = [loading(model)["steps"][0] | {"name": str(n)} for n, model in enumerate(models)]
    bench.write(drawing(steps=steps))
    entry = only(catalog)
    assert (entry.ready, entry.availability, entry.download_bytes) == (False, availability, size)


def test_model_downloaded_meanwhile_is_ready(catalog: Catalog, bench: Bench, tmp_path: Path):
    bench.write(loading("owner/name"))
    assert not only(catalog).ready
    repository = tmp_path / "hub" / "models--owner--name"
    snapshot = repository / "snapshots" / "abc"
    for folder in (snapshot, repository / "refs", repository / "blobs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc\n")
    (snapshot / "model_index.json").write_text("{}")
    assert only(catalog).ready
    (repository / "blobs" / "123.incomplete").touch()
    assert not only(catalog).ready


def test_model_without_weights_is_not_ready(catalog: Catalog, bench: Bench, tmp_path: Path):
    """Its text files are local; its index tells what else a run loads."""
    bench.write(loading("owner/name"))
    snapshot = shutil.copytree(
        SHAPES, tmp_path / "hub" / "models--owner--name" / "snapshots" / "abc"
    )
    repository = snapshot.parents[1]
    files = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*.*")]
    for folder, name, text in (
        ("refs", "main", "abc"),
        ("trees", "abc.json", json.dumps({"format_version": 1, "files": dict.fromkeys(files)})),
    ):
        (repository / folder).mkdir()
        (repository / folder / name).write_text(text)
    assert only(catalog).ready
    (snapshot / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert only(catalog).availability == "downloads its model first"


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "", '{"id": 1}', '{"id": "x", "variables": []}', '{"id": "x", "inputs": {"a": {}}}',
     '{"id": "x", "steps": 3}', '{"id": "x", "steps": null}', '{"id": ["x"], "steps": [[[]]]}',
     "[" * 100_000, "1" * 5000, '{"id": "x", "steps": [{"model_name": "' + "x" * 300 + '"}]}',
     '{"id": "x", "description": 3, "steps": [{"model_name": "a\\u0000b"}]}'],
    ids=str.__len__,
)  # fmt: skip
def test_broken_file_hides_no_other(catalog: Catalog, bench: Bench, content: str):
    bench.write(drawing(), "good.json")
    bench.write(content, "odd.json")
    entries = {entry.name: entry for entry in catalog.entries()}
    assert set(entries) == {"good", "odd"}
    assert entries["good"].ready


def test_broken_file_is_listed_with_its_problem(catalog: Catalog, bench: Bench):
    bench.write('{"id": }')
    entry = only(catalog)
    assert (entry.ready, entry.availability) == (False, "has a mistake in its file")
    assert entry.problem is not None
    assert entry.problem.problems[0].place == "line 1, column 8"


def _link(workflows: Path, to: Path) -> Path:
    path = workflows / "odd.json"
    path.symlink_to(to)
    return path


def _outside(workflows: Path) -> Path:
    secret = workflows.parent / "secret.json"
    secret.write_text(json.dumps(drawing(description="secret")))
    return secret


def _folder(workflows: Path) -> None:
    (workflows / "odd.json").mkdir()


def _pipe(workflows: Path) -> None:
    os.mkfifo(workflows / "odd.json")


def _not_utf8(workflows: Path) -> None:
    (workflows / os.fsdecode(b"caf\xe9.json")).write_text(json.dumps(drawing()))


ODD: dict[str, tuple[Any, str]] = {
    "a link to nothing": (lambda at: _link(at, at / "gone.json"), "No such file"),
    "a link to itself": (lambda at: _link(at, at / "odd.json"), "its links lead in a circle"),
    "a link outside": (lambda at: _link(at, _outside(at)), "is a link to a file outside its"),
    "a folder": (_folder, "is no file"),
    "a pipe": (_pipe, "is no file"),
    "a name of other bytes": (_not_utf8, "is not UTF-8"),
    "an empty file": (lambda at: (at / "odd.json").touch(), "is not valid JSON"),
    "half a character": (
        lambda at: (at / "odd.json").write_text('{"id": "\\ud800", "steps": []}'),
        "holds half a character",
    ),
    "many variables": (
        lambda at: (at / "odd.json").write_text(
            json.dumps(drawing(variables={f"v{n}": 1 for n in range(1000)}))
        ),
        "declares 1000 variables",
    ),
    "large defaults": (
        lambda at: (at / "odd.json").write_text(json.dumps(drawing(variables={"a": "b" * 2**20}))),
        "hold 1,0",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "told"), ODD.values(), ids=ODD.keys())
def test_odd_file_is_listed_with_its_problem_and_hides_no_other(
    catalog: Catalog, bench: Bench, make: Any, told: str
):
    bench.write(drawing(), "good.json")
    make(bench.workflows)
    good, odd = sorted(catalog.entries(), key=lambda entry: entry.problem is not None)
    assert (good.name, good.problem) == ("good", None)
    assert odd.problem is not None
    assert told in odd.problem.sentence()
    assert "secret" not in odd.model_dump_json()
    # It is sent to pages and scripts.
    json.dumps(odd.model_dump(mode="json"), ensure_ascii=False).encode()


def test_title_is_one_line_without_bidi_characters(catalog: Catalog, bench: Bench):
    bench.write(drawing(id="a\nb\u202ec" + "d" * 200), "x.json")
    bench.write({**drawing(), "id": "x\n"}, "new\nline\u202e.json")
    titles = [entry.title for entry in catalog.entries()]
    assert sorted(map(len, titles)) == [1, 100]
    assert not any(char in title for title in titles for char in "\n\u202e")
    assert {entry.name for entry in catalog.entries()} == {"x", "new-line"}


def test_description_of_fifty_megabytes_is_cut(catalog: Catalog, bench: Bench):
    bench.write(drawing(description="x" * 50_000_000))
    assert len(only(catalog).description) == 4000


def test_document_of_ten_thousand_steps_hides_no_other(catalog: Catalog, bench: Bench):
    bench.write(drawing(), "good.json")
    bench.write(drawing(steps=[step(str(number)) for number in range(10_000)]), "odd.json")
    problems = {entry.name: entry.problem for entry in catalog.entries()}
    assert problems["good"] is None
    assert problems["odd"] is not None


def test_missing_folder_lists_no_workflows(tmp_path: Path):
    assert Catalog(PathSettings(workflows=(tmp_path / "none",))).entries() == ()


def test_rewritten_file_is_read_again(catalog: Catalog, bench: Bench):
    file = bench.write(drawing(description="one"))
    assert only(catalog).description == "one"
    before = file.stat()
    file.write_text(file.read_text().replace("one", "two"))
    # Even if its time of modification is set back; the kernel's clock may be a coarse one.
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    while file.stat().st_ctime_ns == before.st_ctime_ns:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert only(catalog).description == "two"


def test_shipped_workflows_come_first_with_descriptions(bench: Bench):
    bench.write(drawing(), "aaa.json")
    entries = Catalog(PathSettings(workflows=(bench.workflows, SHIPPED_WORKFLOWS))).entries()
    assert entries[-1].name == "aaa"
    assert len(entries) == 1 + len(list(SHIPPED_WORKFLOWS.glob("*.json")))
    assert all(entry.description for entry in entries[:-1])
    assert {entry.name for entry in entries[:-1] if entry.problem} <= NEEDS_PACKAGE
    ready = [entry.ready for entry in entries[:-1]]
    assert ready == sorted(ready, reverse=True)


def test_default_model_of_task_is_counted(catalog: Catalog, bench: Bench):
    task = {"command": "text_generation", "arguments": {"prompt": "x", "model_name": None}}
    bench.write(drawing(steps=[{"name": "tell", "task": task}]))
    entry = only(catalog)
    assert entry.models == ("Qwen/Qwen2.5-1.5B-Instruct",)
    assert (entry.ready, entry.availability) == (False, "downloads about 3.1 GB first")
    folder = bench.model.parent / "Qwen" / "Qwen2.5-1.5B-Instruct"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    (folder / "config.json").write_text("{}")
    assert only(catalog).ready


def test_task_model_may_be_default_of_variable(catalog: Catalog, bench: Bench):
    arguments = {"image": "previous_result:draw", "sam_model_name": "variable:masks"}
    task = {"command": "segment", "arguments": {"prompt": "cat", **arguments}}
    steps = [step("draw"), {"name": "cut", "task": task}]
    bench.write(drawing(variables={"masks": "owner/masks", **VARIABLES}, steps=steps))
    assert only(catalog).models == (MODEL, "IDEA-Research/grounding-dino-base", "owner/masks")


def test_models_of_a_sub_workflow_count_and_a_change_of_its_file_is_seen(
    catalog: Catalog, bench: Bench
):
    parent = bench.write(drawing(steps=[sub("part/child.json")]), "parent.json")
    (bench.workflows / "part").mkdir()
    child = bench.write(loading(SDXL), "part/child.json")
    assert only(catalog).models == (SDXL,)
    assert not only(catalog).ready
    child.write_text(json.dumps(loading(f"../{MODEL}")))
    assert only(catalog).models == (f"../{MODEL}",)
    assert only(catalog).ready
    assert parent.is_file()


def test_workflow_that_needs_inputs_is_looked_at_like_any_other(
    catalog: Catalog, bench: Bench, tmp_path: Path
):
    arguments = {"prompt": "variable:prompt", "ip_adapter_image": "variable:image"}
    asking = step(from_pretrained_arguments={"model_name": SDXL}, arguments=arguments)
    inputs = {"image": {"kind": "image", "required": True}}
    variables = {"prompt": "", "image": None}
    bench.write(drawing(variables=variables, inputs=inputs, steps=[asking]))
    assert [spec.name for spec in only(catalog).inputs if spec.required] == ["image"]
    assert only(catalog).availability == "downloads about 6.9 GB first"


@pytest.mark.parametrize(
    "step",
    [
        {"command": "depth", "arguments": {"image": "variable:image"}},
        {"command": "diffusion_upscale", "arguments": {"image": "variable:image", "prompt": ""}},
        {"command": "depth", "inputs": [{"image": {"location": "variable:image"}}]},
    ],
)
def test_model_of_a_task_that_needs_a_picture_counts(
    catalog: Catalog, bench: Bench, step: dict[str, Any]
):
    document = drawing(variables={"image": None}, steps=[{"name": "do", "task": step}])
    bench.write(document)
    entry = catalog.find("flow")
    assert not entry.ready
    assert entry.availability.startswith("downloads")


def test_workflow_without_its_package_is_not_ready(catalog: Catalog, bench: Bench):
    task = {"command": "upscale", "arguments": {"image": "variable:image", "model_name": "a/b"}}
    bench.write(drawing(variables={"image": None}, steps=[{"name": "do", "task": task}]))
    entry = catalog.find("flow")
    assert (entry.ready, entry.availability) == (False, "needs a package that is not installed")
