"""Objects of a document: allowed classes and sources; everything else is refused."""

from __future__ import annotations

import importlib
from dataclasses import fields
from typing import Any

import pytest

from app.dialect.plan_values import BuiltValue, LiteralValue
from app.planning.objects import DATA_CLASSES, data_class
from app.planning.plan_media import remote_values
from tests.media.films import film, tone
from tests.plan_bench import Bench, drawing, step

H3 = "diffusers.modular_pipelines.minimax_h3"
PLACE = "steps[0].pipeline.arguments.ip_adapter_image"
URL = "https://example.org/cat.png"


def using(value: Any, **variables: Any) -> dict[str, Any]:
    arguments = {"prompt": "variable:prompt", "ip_adapter_image": value}
    declared = {**drawing()["variables"], **variables}
    return drawing(variables=declared, steps=[step(arguments=arguments)])


def built(bench: Bench, value: Any, **variables: Any) -> BuiltValue:
    found = bench.plan(using(value, **variables)).steps[0].arguments["ip_adapter_image"]
    assert isinstance(found, BuiltValue)
    return found


@pytest.mark.parametrize("name", DATA_CLASSES)
def test_parsed_fields_equal_fields_of_class(name: str):
    library = getattr(importlib.import_module(f"diffusers.{DATA_CLASSES[name]}"), name)
    known = data_class(name)
    assert known.fields == tuple(field.name for field in fields(library))
    assert known.kind == getattr(library, "kind", None)
    assert (known.kind is not None) == hasattr(library, "from_file")


@pytest.mark.parametrize(
    ("name", "make", "kind"),
    [
        ("Image", lambda bench: bench.picture("a.png", bench.workflows), "image"),
        ("Video", lambda bench: film(bench.workflows / "a.mp4"), "video"),
        ("Audio", lambda bench: tone(bench.workflows / "a.wav"), "audio"),
    ],
)
def test_object_from_file(bench: Bench, name: str, make: Any, kind: str):
    file = make(bench)
    found = built(bench, {"reference_type": f"{H3}.MiniMaxH3{name}Reference",
                          "from_file": file.name})  # fmt: skip
    assert found.class_name == f"MiniMaxH3{name}Reference"
    assert found.media is not None
    assert (found.media.kind, found.media.path) == (kind, str(file))


def test_object_from_url_with_fields(bench: Bench):
    document = using(
        {"any_type": "MiniMaxH3VideoReference", "from_file": "variable:clip", "fps": 24},
        clip="https://example.org/clip.mp4",
    )
    plan = bench.plan(document)
    (remote,) = remote_values(plan)
    assert (remote.kind, remote.url) == ("video", "https://example.org/clip.mp4")
    found = plan.steps[0].arguments["ip_adapter_image"]
    assert found.arguments == {"fps": LiteralValue(value=24)}
    assert type(plan).model_validate_json(plan.model_dump_json()) == plan


def test_object_from_arguments_with_files_and_results(bench: Bench):
    bench.picture("a.png", bench.workflows)
    condition = {
        "condition_type": "diffusers.pipelines.ltx2.pipeline_ltx2_condition.LTX2VideoCondition",
        "from_arguments": {"frames": "variable:start_image", "index": -1, "strength": 0.5},
    }
    found = built(bench, [condition][0], start_image="a.png")
    assert found.arguments["frames"].kind == "image"
    of_result = {
        "condition_type": "LTX2VideoCondition", "from_arguments": {"frames": "previous_result:draw"}
    }  # fmt: skip
    document = drawing(steps=[step(), step("b", arguments={"ip_adapter_image": [of_result]})])
    (reference,) = bench.plan(document).steps[1].references
    assert reference.step == "draw"


def test_object_from_result_depends_on_its_step(bench: Bench):
    """The original software drops that result before it is used."""
    reference = {"reference_type": "MiniMaxH3ImageReference", "from_previous_result": "draw"}
    document = drawing(steps=[step(), step("b", arguments={"ip_adapter_image": [reference]})])
    (found,) = bench.plan(document).steps[1].references
    assert (found.step, found.property) == ("draw", "")
    wrong = drawing(steps=[step("drew"), step("b", arguments={"ip_adapter_image": [reference]})])
    assert bench.problems(wrong) == {
        "steps[1].pipeline.arguments.ip_adapter_image[0].from_previous_result":
            "There is no earlier step 'draw'. Did you mean 'drew'?"
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", ["subprocess.Popen", "os.system", "builtins.eval", "diffusers.StableDiffusionPipeline",
             "torch.load", "Popen", "diffusers.utils.os.system"],
)  # fmt: skip
@pytest.mark.parametrize(
    "way",
    [{"from_arguments": {"args": ["touch", "/tmp/pwned"]}}, {"from_file": URL},
     {"from_previous_result": "draw"}],
    ids=lambda way: next(iter(way)),
)  # fmt: skip
def test_other_classes_are_refused(bench: Bench, name: str, way: dict[str, Any]):
    """The original software runs this command."""
    for value, variables in (
        ({"x_type": name, **way}, {}),
        ("variable:hidden", {"hidden": {"x_type": name, **way}}),
    ):
        ((place, sentence),) = bench.problems(using(value, **variables)).items()
        assert place == f"{PLACE}.x_type"
        assert f"'{name}' is none of the classes that a document may have objects of." in sentence


def test_typed_value_cannot_be_an_object(bench: Bench):
    typed = {"x_type": "subprocess.Popen", "from_arguments": {"args": "id"}}
    document = using({"a": "variable:given"}, given={})
    found = bench.plan(document, given=typed).steps[0].arguments["ip_adapter_image"]
    assert found == LiteralValue(value={"a": typed})
    chosen = using({"x_type": "variable:cls", "from_file": URL}, cls="MiniMaxH3ImageReference")
    assert bench.problems(chosen, cls="subprocess.Popen") == {
        "inputs.cls": "An input cannot choose a class."
    }


@pytest.mark.parametrize(
    ("value", "place", "sentence"),
    [
        ({"x_type": "LTX2VideoCondition", "from_arguments": {"frames": URL, "indx": 1}},
         ".from_arguments.indx", "LTX2VideoCondition has no 'indx'. Did you mean 'index'?"),
        ({"x_type": "LTX2VideoCondition", "from_arguments": {"index": 1}},
         ".from_arguments", "'frames' is missing."),
        ({"x_type": "LTX2VideoCondition", "from_arguments": {"frames": 1}, "index": 1},
         ".index", "'index' belongs into from_arguments."),
        ({"x_type": "LTX2VideoCondition", "from_arguments": [1]},
         ".from_arguments", "An object with the arguments is needed, not [1]."),
        ({"x_type": "LTX2VideoCondition", "from_file": URL},
         ".from_file",
         "LTX2VideoCondition cannot be built from a file or a result. Use from_arguments."),
        ({"x_type": "MiniMaxH3VideoReference", "from_file": URL, "fsp": 24},
         ".fsp", "MiniMaxH3VideoReference has no 'fsp'. Did you mean 'fps'?"),
        ({"x_type": "MiniMaxH3ImageReference", "from_file": "previous_result:draw"},
         ".from_file", "A picture file is needed. Use from_previous_result."),
        ({"x_type": "MiniMaxH3ImageReference", "from_file": "/etc/passwd"},
         ".from_file",
         "The picture '/etc/passwd' lies outside the folders it may come from."),
        ({"x_type": "MiniMaxH3ImageReference", "from_previous_result": 5},
         ".from_previous_result", "The name of an earlier step is needed, not 5."),
        ({"x_type": "MiniMaxH3ImageReference", "y_type": "b", "from_file": URL},
         "", "An object has one key that ends in '_type' and names its class,"
         " and one of from_file, from_previous_result, from_arguments."),
        ({"from_arguments": {}},
         "", "An object has one key that ends in '_type' and names its class,"
         " and one of from_file, from_previous_result, from_arguments."),
    ],
)  # fmt: skip
def test_wrong_object_is_refused_with_place(
    bench: Bench, value: dict[str, Any], place: str, sentence: str
):
    problems = bench.problems(using(value))
    assert problems.get(f"{PLACE}{place}") == sentence, problems


def test_from_file_without_class_is_an_ordinary_key(bench: Bench):
    found = bench.plan(using({"a": {"from_file": "x"}})).steps[0].arguments["ip_adapter_image"]
    assert found == LiteralValue(value={"a": {"from_file": "x"}})
