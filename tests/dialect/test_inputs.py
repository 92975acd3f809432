"""Inputs of a workflow, and the check of given values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dialect.document import InputBlock
from app.dialect.inputs import MAX_TEXT_LENGTH, InputSpec, check_inputs, input_specs
from app.dialect.references import place
from app.errors import Problem, shortened
from tests.plan_bench import Bench, drawing

NOWHERE: tuple[Path, ...] = ()

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
defaults = st.sampled_from([None, True, 3, 0.5, "text", ["a"], {"a": 1}])
blocks = st.builds(
    InputBlock,
    minimum=st.none() | st.floats(-10, 0),
    maximum=st.none() | st.floats(0, 10),
    choices=st.lists(st.text(max_size=3) | st.integers(0, 9), max_size=3).map(tuple),
    required=st.booleans(),
    kind=st.sampled_from([None, "image", "mask", "text", "slider"]),
)


WHOLE_SENTENCE = (
    "The value holds a whole number outside -9223372036854775808 to 18446744073709551615."
)


def spec(default: Any, name: str = "x", **block: Any) -> InputSpec:
    (made,) = input_specs({name: default}, {name: InputBlock(**block)})
    return made


def taken(default: Any, value: Any, **block: Any) -> Any:
    """Returns the converted value for a variable with this default; it must fit."""
    values, problems = check_inputs((spec(default, **block),), {"x": value}, NOWHERE)
    assert problems == []
    return values["x"]


def refusal(default: Any, value: Any, **block: Any) -> str:
    values, problems = check_inputs((spec(default, **block),), {"x": value}, NOWHERE)
    assert values == {}
    (found,) = problems
    assert found.place == "inputs.x"
    return found.message


# --- what is asked for ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "default", "block", "kind"),
    [
        ("prompt", "a", {}, "text"),
        ("steps", 20, {}, "integer"),
        ("steps", 20, {"minimum": 1, "maximum": 50}, "slider"),
        ("scale", 4.0, {}, "number"),
        ("fast", True, {}, "checkbox"),
        ("size", "small", {"choices": ("small", "large")}, "choice"),
        ("image", None, {}, "image"),
        ("first_image", None, {}, "image"),
        ("mask_image", None, {"mask_of": "image"}, "mask"),
        ("seed", 7, {}, "seed"),
        ("steps", 20, {"kind": "text"}, "text"),
    ],
)
def test_kind_of_input_follows_from_name_and_default(
    name: str, default: Any, block: dict[str, Any], kind: str
):
    assert spec(default, name, **block).kind == kind


def test_default_label_is_name_in_words():
    assert spec(1, "num_images-per_prompt").label == "Num images per prompt"
    assert spec(1, "n", label="Pictures").label == "Pictures"


def test_inputs_keep_order_of_declaration():
    assert [made.name for made in input_specs({"b": 1, "a": 2, "c": 3}, {})] == ["b", "a", "c"]


# --- what fits -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("default", "value", "expected"),
    [
        ("text", "other", "other"),
        ("text", 3, "3"),
        (20, 30, 30),
        (20, "30", 30),
        (20, " +30 ", 30),
        (20, 30.0, 30),
        (20, 20.0, 20),
        (1, "1", 1),
        (20, str(2**63 - 1), 2**63 - 1),
        (20, 1234567890123456789, 1234567890123456789),
        (20, "1234567890123456789", 1234567890123456789),
        (20, "1234567890123456789.0", 1234567890123456789),
        (20, "1.234567890123456789e18", 1234567890123456789),
        (20, 2**53 + 1, 2**53 + 1),
        (20, -(2**53) - 1, -(2**53) - 1),
        (20, 2**64 - 1, 2**64 - 1),
        (20, 2.0**53, 2**53),
        (0.5, 2**60, 2.0**60),
        (0.5, "1e23", 1e23),
        (None, 1234567890123456789, 1234567890123456789),
        ("text", 1234567890123456789, "1234567890123456789"),
        ({"a": 1}, {"b": 1234567890123456789}, {"b": 1234567890123456789}),
        ({"a": 1}, '{"b": 1234567890123456789}', {"b": 1234567890123456789}),
        (0.5, "1.5", 1.5),
        (0.5, 1, 1.0),
        (1.0, 1, 1.0),
        (True, "no", False),
        (True, "ON", True),
        (False, 1, True),
        (False, 0, False),
        (["a"], "x, y ,z", ["x", "y", "z"]),
        (["a"], ["b", 1], ["b", 1]),
        ({"a": 1}, {"b": 2}, {"b": 2}),
        (None, "anything", "anything"),
    ],
)
def test_value_is_converted_to_type_of_variable(default: Any, value: Any, expected: Any):
    result = taken(default, value)
    assert (result, type(result)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("default", "value", "sentence"),
    [
        (20, "many", "A whole number is needed, not 'many'."),
        (20, 1.5, "A whole number is needed, not 1.5."),
        (20, True, "A whole number is needed, not true."),
        (1, True, "A whole number is needed, not true."),
        (20, None, "A whole number is needed, not null."),
        (20, [1], "A whole number is needed, not [1]."),
        (0.5, "high", "A number is needed, not 'high'."),
        (0.5, float("nan"), "The value holds NaN, which is no number in JSON."),
        (None, [float("-inf")], "The value holds -Infinity, which is no number in JSON."),
        (20, 2**64, WHOLE_SENTENCE),
        (20, str(2**64), WHOLE_SENTENCE),
        (None, {"a": [2**64]}, WHOLE_SENTENCE),
        (20, -(2**63) - 1, WHOLE_SENTENCE),
        (
            20,
            1.2345678901234568e18,
            "1.2345678901234568e+18 may have been rounded on its way here: numbers with a point or"
            " an exponent hold whole numbers exactly up to 9007199254740992. Write all its digits.",
        ),
        (
            0.5,
            1234567890123456789,
            "1234567890123456789 cannot be held exactly as a number with a point; whole numbers up"
            " to 9007199254740992 can.",
        ),
        (20, "1e400", "A finite number is needed, not '1e400'."),
        (0.5, "inf", "A finite number is needed, not 'inf'."),
        (True, "maybe", "'maybe' is neither true nor false."),
        (True, 2, "2 is neither true nor false."),
        ("text", True, "A text is needed, not true."),
        ("text", ["a"], 'A text is needed, not ["a"].'),
        ("text", None, "A text is needed, not null."),
        (["a"], 3, "A list is needed, not 3."),
        ({"a": 1}, 3, "An object is needed, not 3."),
        ("text", "a\x00b", "The text holds a control character; remove it."),
        ("text", "x" * (MAX_TEXT_LENGTH + 1), "The text has 10001 characters; 10000 fit."),
    ],
)
def test_value_of_wrong_type_is_refused(default: Any, value: Any, sentence: str):
    assert refusal(default, value) == sentence


def test_newlines_and_tabs_are_kept_in_text():
    assert taken("", "two\nlines\tand a tab\r\n") == "two\nlines\tand a tab\r\n"


@pytest.mark.parametrize("whole", [10**400, -(10**400), "1" + "0" * 400])
def test_huge_number_is_refused(whole: Any):
    assert re.search("number is needed|holds a whole number outside", refusal(1, whole))


@pytest.mark.parametrize(
    ("limits", "value", "sentence"),
    [
        ({"minimum": 1, "maximum": 50}, 0, "0 is outside 1 to 50."),
        ({"minimum": 1, "maximum": 50}, "51", "51 is outside 1 to 50."),
        ({"minimum": 1}, -3, "-3 is less than 1."),
        ({"maximum": 50}, 51, "51 is more than 50."),
        ({"maximum": 2000000}, 12345678, "12345678 is more than 2000000."),
    ],
)
def test_number_out_of_range_is_refused_with_range(
    limits: dict[str, Any], value: Any, sentence: str
):
    assert refusal(20, value, **limits) == sentence


def test_limits_are_inclusive():
    assert [taken(20, n, minimum=1, maximum=50) for n in (1, 50)] == [1, 50]


def test_unknown_choice_is_refused_with_nearest():
    sentence = refusal("small", "lrge", choices=("small", "large"))
    assert sentence == "'lrge' is not one of: small, large. Did you mean 'large'?"
    assert taken("small", "large", choices=("small", "large")) == "large"


def test_image_must_be_an_upload(tmp_path: Path):
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    (picture,) = input_specs({"image": None}, {})
    inside, outside = str(uploads / "a.png"), str(tmp_path / "a.png")
    assert check_inputs((picture,), {"image": inside}, (uploads,)) == ({"image": inside}, [])
    for path in (outside, "/etc/passwd", f"{uploads}/../a.png", f"{uploads}-b/a.png", "a.png"):
        assert check_inputs((picture,), {"image": path}, (uploads,)) == (
            {},
            [
                Problem(
                    place="inputs.image",
                    message="The picture for Image has to be uploaded; a path is not taken.",
                )
            ],
        )


# --- all at once, at its place -------------------------------------------------------------------


def test_all_wrong_inputs_are_reported(bench: Bench):
    document = drawing(
        variables={"prompt": "a", "steps": 20, "image": None, "size": "small"},
        inputs={
            "prompt": {"required": True},
            "steps": {"minimum": 1, "maximum": 50},
            "image": {"label": "Picture", "required": True},
            "size": {"choices": ["small", "large"]},
        },
    )
    assert bench.problems(document, promt="b", prompt="", steps=500, size="big") == {
        "inputs.promt": "This workflow has no variable 'promt'. Did you mean 'prompt'?",
        "inputs.prompt": "Prompt is needed.",
        "inputs.steps": "500 is outside 1 to 50.",
        "inputs.image": "Picture is needed.",
        "inputs.size": "'big' is not one of: small, large.",
    }


def test_unknown_variable_lists_known_ones():
    (found,) = check_inputs((spec(1),), {"quality": 1}, NOWHERE)[1]
    assert found.hint == "It has: x."
    (found,) = check_inputs((), {"quality": 1}, NOWHERE)[1]
    assert found.hint == "It has: none."


def test_inputs_block_is_checked_with_places(bench: Bench):
    document = drawing(
        inputs={"prompt": {"kind": "poem", "lines": 0, "labell": "x"}, "promt": {}, "steps": []}
    )
    problems = bench.problems(document)
    assert set(problems) == {
        "inputs.prompt.kind",
        "inputs.prompt.lines",
        "inputs.prompt.labell",
        "inputs.promt",
        "inputs.steps",
    }
    assert problems["inputs.promt"] == "There is no variable 'promt'. Did you mean 'prompt'?"


@pytest.mark.parametrize("name", ["", "9lives", "a b", "a.b", "x" * 101, "a\n"])
def test_variable_name_is_plain(bench: Bench, name: str):
    problems = bench.problems(drawing(variables={"prompt": "a", "steps": 1, name: "x"}))
    assert list(problems) == [place(("variables", name))]
    (told,) = problems.values()
    assert told.startswith(f"'{shortened(name)}' is not a name for a variable. A name has letters,")


@pytest.mark.parametrize("key", ["variables", "inputs"])
def test_variables_and_inputs_must_be_objects(bench: Bench, key: str):
    assert bench.problems(drawing(**{key: ["prompt"]}))[key] == "An object is needed."


# --- whatever is given ---------------------------------------------------------------------------


@given(
    default=defaults,
    block=blocks,
    given_values=st.dictionaries(st.sampled_from(["x", "y"]), json_values),
)
def test_any_value_is_accepted_or_refused_at_its_place(
    default: Any, block: InputBlock, given_values: dict[str, Any]
):
    specs = input_specs({"x": default}, {"x": block})
    values, problems = check_inputs(specs, given_values, NOWHERE)
    assert all(found.place in ("inputs.x", "inputs.y") and found.message for found in problems)
    assert {*values, *(found.place.removeprefix("inputs.") for found in problems)} >= {
        *given_values
    }


@given(default=st.sampled_from([True, 3, 0.5, "text", ["a"]]), value=json_values)
def test_accepted_value_has_type_of_default(default: Any, value: Any):
    values, _ = check_inputs((spec(default),), {"x": value}, NOWHERE)
    assert all(type(taken_value) is type(default) for taken_value in values.values())


@given(default=defaults, value=json_values)
def test_accepted_value_is_accepted_again_unchanged(default: Any, value: Any):
    specs = (spec(default),)
    values, problems = check_inputs(specs, {"x": value}, NOWHERE)
    if not problems:
        again = check_inputs(specs, values, NOWHERE)
        assert repr(again) == repr((values, []))


# --- how much is told ----------------------------------------------------------------------------


def test_many_unknown_inputs_are_reported_up_to_limit():
    specs = input_specs({f"variable_{n}": n for n in range(200)}, {})
    given = {f"variabel_{n}": n for n in range(30_000)}
    values, problems = check_inputs(specs, given, NOWHERE)
    assert values == {}
    assert len(problems) == 21
    assert problems[0].hint == "Did you mean 'variable_0'?"
    assert problems[-1].message == "29980 more inputs are no variables of this workflow."
    assert sum(len(str(problem)) for problem in problems) < 10_000
