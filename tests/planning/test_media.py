"""Images and videos in documents: by key, object or variable; by file or URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.dialect.plan_values import FileValue, ListValue, LiteralValue, RemoteValue, Value
from app.errors import BadRequest, InvalidInputs, InvalidWorkflow
from app.planning.plan_media import remote_values, with_files
from app.planning.planner import make_plan
from app.settings import UrlSettings
from tests.plan_bench import Bench, drawing, step, sub, told

URL = "https://example.org/cat.png?size=large"
OTHER = "http://example.org/dog"
PLACE = "steps[0].pipeline.arguments.ip_adapter_image"


def using(value: Any, key: str = "ip_adapter_image", **variables: Any) -> dict[str, Any]:
    """Returns a document whose step has this argument."""
    arguments = {"prompt": "variable:prompt", key: value}
    declared = {**drawing()["variables"], **variables}
    return drawing(variables=declared, steps=[step(arguments=arguments)])


def argument(bench: Bench, document: dict[str, Any], **inputs: Any) -> Value:
    arguments = bench.plan(document, **inputs).steps[0].arguments
    return next(value for name, value in arguments.items() if name != "prompt")


def url_of(value: Value) -> str:
    assert isinstance(value, RemoteValue), value
    assert value.kind == "image"
    return value.url


@pytest.mark.parametrize(
    ("document", "typed"),
    [
        (using(URL), {}),
        (using({"location": URL, "width": 64}), {}),
        (using({"media_type": "image", "location": URL}), {}),
        (using("variable:photo", photo=URL), {}),
        (using({"location": "variable:photo"}, photo=URL), {}),
        (using("variable:init_image", init_image={"location": URL}), {}),
        (using({"location": "variable:init_image"}, init_image={"location": URL}), {}),
        (using("variable:init_image", init_image={"location": OTHER}), {"init_image": URL}),
        (using("variable:init_image", init_image=None), {"init_image": URL}),
        (using({"location": "variable:photo"}, photo=OTHER), {"photo": URL}),
        (using("variable:input_image", "cross_attention_kwargs", input_image=URL), {}),
        (using("variable:input_image", "cross_attention_kwargs", input_image=OTHER),
         {"input_image": URL}),
    ],
)  # fmt: skip
def test_image_by_url_is_allowed_everywhere(
    bench: Bench, document: dict[str, Any], typed: dict[str, Any]
):
    assert url_of(argument(bench, document, **typed)) == URL


def test_image_lists_may_mix_files_and_urls(bench: Bench):
    file = bench.picture("a.png", bench.workflows)
    listed = ["a.png", URL, {"location": OTHER}, None]
    for document in (using(listed), using("variable:an_image", an_image=listed)):
        found = argument(bench, document)
        assert isinstance(found, ListValue)
        here, *urls, nothing = found.items
        assert isinstance(here, FileValue)
        assert (here.path, [url_of(url) for url in urls]) == (str(file), [URL, OTHER])
        assert nothing == LiteralValue(value=None)


def test_other_url_is_plain_text(bench: Bench):
    document = using({"page": "variable:page"}, "cross_attention_kwargs", page=URL)
    assert argument(bench, document) == LiteralValue(value={"page": URL})
    assert argument(bench, using({"location": URL}, "cross_attention_kwargs")) == LiteralValue(
        value={"location": URL}
    )


def test_image_passed_to_sub_workflow_may_be_a_location(bench: Bench):
    """The original software refuses this form, and four of its own examples with it."""
    bench.write(using({"location": "variable:an_image"}, an_image=None), "child.json")
    parent = drawing(steps=[sub("child.json", an_image=URL)])
    assert url_of(argument(bench, parent)) == URL
    bench.picture("a.png", bench.workflows)
    assert argument(bench, drawing(steps=[sub("child.json", an_image="a.png")])).kind == "image"


def test_location_may_be_a_result(bench: Bench):
    document = drawing(
        steps=[
            step(),
            step("b", arguments={"ip_adapter_image": {"location": "previous_result:draw"}}),
        ]
    )
    assert bench.plan(document).steps[1].arguments["ip_adapter_image"].type == "result"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("file:///etc/passwd", "'file:' is not fetched; http and https are."),
        ("http://localhost/a.png", "'localhost' is not the name of a public server."),
        ("http://169.254.169.254/a.png", "169.254.169.254 is not a public address."),
        ("https://me:pw@example.org/a.png",
         "The URL holds a user or a password, which would end up in records."),
    ],
)  # fmt: skip
def test_forbidden_url_is_refused_with_place(bench: Bench, url: str, sentence: str):
    assert bench.problems(using(url)) == {PLACE: sentence}
    typed = bench.refused(using("variable:an_image", an_image=None), an_image=url)
    assert isinstance(typed, InvalidInputs)
    assert told(typed) == {"inputs.an_image": sentence}


def test_unknown_media_kind_is_refused(bench: Bench):
    assert bench.problems(using({"media_type": "hologram", "location": URL})) == {
        f"{PLACE}.media_type": "'hologram' is not one of: image, video, audio."
    }


def test_url_is_refused_where_urls_are_not_allowed(bench: Bench):
    bench.paths = bench.paths.model_copy(update={"urls": UrlSettings(media_urls=False)})
    error = bench.refused(using(URL))
    assert isinstance(error, InvalidWorkflow)
    assert told(error) == {
        PLACE: "A picture from the network is not fetched by this server. Use a file."
        " The operator can allow URLs with DW_MEDIA_URLS=1."
    }


def test_misspelt_variable_is_one_problem(bench: Bench):
    document = using({"location": "variable:photo"}, phot=URL)
    assert bench.problems(document) == {
        f"{PLACE}.location": "There is no variable 'photo'. Did you mean 'phot'?"
    }


@pytest.mark.parametrize("name", ["a..b.png", "sub/../a.png", "Käse.png", "a b.png"])
def test_any_name_inside_folder_is_a_file(bench: Bench, name: str):
    (bench.workflows / "sub").mkdir()
    file = bench.picture(Path(name).name, bench.workflows)
    value = argument(bench, using(name))
    assert isinstance(value, FileValue)
    assert value.path == str(file)


def test_fetched_files_replace_all_urls(bench: Bench):
    document = drawing(
        steps=[
            step(arguments={"prompt": "a", "ip_adapter_image": [URL, {"location": OTHER}]}),
            {"name": "size", "task": {"command": "get_image_size", "arguments": {"image": URL}}},
        ]
    )
    plan = bench.plan(document)
    assert [(value.url, value.place) for value in remote_values(plan)] == [
        (URL, f"{PLACE}[0]"),
        (OTHER, f"{PLACE}[1].location"),
        (URL, "steps[1].task.arguments.image"),
    ]
    fetched = with_files(plan, lambda value: FileValue(kind="image", path=value.url, sha256="0"))
    assert remote_values(fetched) == []
    assert type(fetched).model_validate_json(fetched.model_dump_json()) == fetched


@pytest.mark.parametrize("kind", [[], {}, 3, "picture"])
def test_media_kind_is_one_of_three(bench: Bench, kind: object):
    document = drawing(
        steps=[step(arguments={"prompt": "a", "ip_adapter_image": {"location": "a.png",
                                                                   "media_type": kind}})]
    )  # fmt: skip
    assert list(bench.problems(document)) == [
        "steps[0].pipeline.arguments.ip_adapter_image.media_type"
    ]


def test_private_file_names_are_hinted_only_to_shell(bench: Bench, tmp_path: Path):
    secret = bench.media / "alice-medical"
    secret.mkdir()
    bench.picture("scan.png", secret)
    model = bench.media / "bob-model"
    model.mkdir()
    document = using("variable:photo", photo=None)
    file = bench.write(document)
    changes = {"/steps/0/pipeline/arguments/ip_adapter_image": str(secret / "scam.png")}
    for named in (
        {"changes": {"/steps/0/pipeline/arguments/ip_adapter_image": str(secret / "scam.png")}},
        {"changes": {"/steps/0/pipeline/arguments/ip_adapter_image": str(bench.media / "alice")}},
        {"inputs": {"photo": str(secret / "scam.png")}},
    ):
        with pytest.raises(BadRequest) as caught:
            make_plan(file, named.get("inputs", {}), paths=bench.paths,
                      changes=named.get("changes", {}))  # fmt: skip
        assert "Did you mean" not in str(caught.value)
        assert "scan" not in str(caught.value)
    shell = bench.paths.model_copy(update={"media": (Path("/"),)})
    with pytest.raises(BadRequest, match=r"Did you mean 'scan\.png'\?"):
        make_plan(file, {}, paths=shell, changes=changes)


# --- masks ---------------------------------------------------------------------------------------


def clear_with(path: Path, colour: str) -> None:
    picture = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    picture.paste(colour, (0, 0, 32, 32))
    picture.save(path)


@pytest.mark.parametrize(
    ("key", "is_mask"),
    [("mask_image", True), ("control_image", False), ("init_image", False)],
)
def test_mask_is_known_by_its_name(bench: Bench, key: str, is_mask: bool):
    clear_with(bench.workflows / "area.png", "white")
    document = using({key: "area.png"}, "cross_attention_kwargs")
    (value,) = argument(bench, document).entries.values()
    assert value.is_mask == is_mask


@pytest.mark.parametrize("key", ["mask_image", "mask"])
def test_ambiguous_mask_is_refused_at_its_place(bench: Bench, key: str):
    clear_with(bench.workflows / "area.png", "black")
    with pytest.raises(InvalidWorkflow, match=r"'area\.png' is ambiguous as a mask") as refused:
        bench.plan(using({key: "area.png"}, "cross_attention_kwargs"))
    assert f"cross_attention_kwargs.{key}" in str(refused.value)


def test_variable_named_as_a_mask_takes_a_mask(bench: Bench):
    clear_with(bench.workflows / "area.png", "black")
    document = using("variable:mask_image", "control_image", mask_image="area.png")
    with pytest.raises(InvalidWorkflow, match="ambiguous as a mask"):
        bench.plan(document)
