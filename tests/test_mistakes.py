"""Pydantic's errors are reported in the project's own words."""

from __future__ import annotations

from typing import Any, Literal, get_args

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_core.core_schema import ErrorType

from app.mistakes import in_words


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: int
    word: Literal["a", "b"] = "a"
    pair: tuple[int, int] = (1, 2)


@pytest.mark.parametrize(
    ("given", "sentences"),
    [
        ({"size": "x"}, ["A whole number is needed, not 'x'."]),
        ({"size": 1e400}, ["A finite number is needed, not Infinity."]),
        ({"size": 1.5}, ["A whole number is needed, not 1.5."]),
        ({"size": 1, "other": 2}, ["'other' is not a known key."]),
        ({}, ["It is missing."]),
        ({"size": 1, "word": "c"}, ["'c' is not one of 'a' or 'b'."]),
        ({"size": 1, "pair": [1, 2, 3]}, ["2 items fit, not 3."]),
    ],
)
def test_mistake_is_a_sentence(given: Any, sentences: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        Closed.model_validate(given)
    assert [in_words(each)[0] for each in caught.value.errors()] == sentences


@pytest.mark.parametrize("kind", sorted(get_args(ErrorType)))
def test_mistakes_contain_no_pydantic_wording(kind: str) -> None:
    context: dict[str, Any] = {
        "expected": "'a'", "ge": 1, "gt": 1, "le": 1, "lt": 1, "error": ValueError("this is wrong"),
        "pattern": "a+", "max_length": 1, "actual_length": 2,
    }  # fmt: skip
    details = ErrorDetails(
        type=kind, loc=("x",), input="text", ctx=context, msg="Input should be a valid dictionary"
    )
    message, hint = in_words(details)
    assert "Input should be" not in message + hint
    assert message.endswith(".")


def test_own_mistake_keeps_message_and_hint() -> None:
    error = PydanticCustomError("own", "this is no {what}", {"what": "picture", "hint": "Paint."})
    details = ErrorDetails(
        type=error.type, loc=(), input=None, ctx=error.context or {}, msg=error.message()
    )
    assert in_words(details) == ("this is no picture.", "Paint.")
