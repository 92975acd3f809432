"""Chat messages, mappings, and sections of text."""

from __future__ import annotations

import pytest

from tests.tasks.calling import call, wrong


def test_chat_message_has_system_and_user_part():
    made = call("format_chat_message", system_prompt="Be brief.", user_message="Hello")
    assert made == {
        "text_inputs": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
        ]
    }


def test_dict_value_is_read_by_key():
    assert call("get_dict_value", dict={"a": [1, 2]}, key="a") == [1, 2]
    assert call("get_dict_value", dict={"a": 1}, key="b") is None
    assert wrong("get_dict_value", dict="a", key=1, kye="a") == {
        "dict": "An object is needed, not 'a'.",
        "key": "A text is needed, not 1.",
        "kye": "get_dict_value takes no 'kye'. Did you mean 'key'?",
    }


ANSWER = """Here you go.

style: oil on canvas
with thick paint

SUBJECT: a fox
style: again, because models start over

In short, a fox."""


def test_sections_are_kept_once_in_declared_order():
    made = call("extract_sections", text=ANSWER, sections=["Subject", "style", "mood"])
    assert made == "Here you go.\n\nSubject: a fox\n\nstyle: oil on canvas\nwith thick paint"


def test_preamble_can_be_dropped():
    made = call("extract_sections", text=ANSWER, sections=["subject"], keep_preamble=False)
    assert made == "subject: a fox\nstyle: again, because models start over"


def test_section_ends_at_the_next_one():
    made = call("extract_sections", text="a: 1\nb: 2\n\nrest", sections=["a", "b"])
    assert made == "a: 1\n\nb: 2"


@pytest.mark.parametrize("sections", [[], ["mood"]])
def test_text_without_sections_is_unchanged(sections: list[str]):
    assert call("extract_sections", text=f"\n{ANSWER}\n", sections=sections) == ANSWER


def test_section_label_is_not_a_pattern():
    assert call("extract_sections", text="a.b: 1\n\nacb: 2", sections=["a.b"]) == "a.b: 1"
