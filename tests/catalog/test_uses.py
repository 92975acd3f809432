"""What a workflow makes, and which input feeds which argument."""

from __future__ import annotations

from typing import Any

from app.catalog.uses import fed_arguments, result_type
from app.dialect.loader import read_document
from tests.plan_bench import Bench, drawing, step, sub


def type_of(bench: Bench, steps: list[dict[str, Any]], **document: Any) -> str:
    return result_type(read_document(bench.write({"id": "x", "steps": steps, **document})))


def result(kind: str, **more: Any) -> dict[str, Any]:
    return {"result": {"content_type": kind, **more}}


def test_last_step_that_saves_tells_the_type(bench: Bench) -> None:
    first = {"name": "draw", **result("image/png")}
    assert type_of(bench, [first, {"name": "say"}]) == "image/png"
    assert type_of(bench, [first, {"name": "film", **result("video/mp4")}]) == "video/mp4"
    assert type_of(bench, [first, {"name": "film", **result("video/mp4", save=False)}]) == (
        "image/png"
    )
    assert type_of(bench, [{"name": "say"}]) == ""


def test_type_may_be_a_variable(bench: Bench) -> None:
    steps = [{"name": "draw", **result("variable:kind")}]
    assert type_of(bench, steps, variables={"kind": "image/webp"}) == "image/webp"
    assert type_of(bench, steps, variables={"kind": 7}) == ""
    assert type_of(bench, steps) == ""


def test_sub_workflow_without_result_block_tells_its_own_type(bench: Bench) -> None:
    bench.write(drawing(), "child.json")
    assert type_of(bench, [sub("child.json")]) == "image/png"
    assert type_of(bench, [sub("missing.json")]) == ""
    bench.write({"id": "x", "steps": [sub("own.json")]}, "own.json")
    assert type_of(bench, [sub("own.json")]) == ""


def test_first_step_tells_what_feeds_an_argument() -> None:
    steps = [
        step(arguments={"prompt": "variable:words", "width": 64}),
        step(arguments={"prompt": "variable:others", "height": "variable:h"}),
        {"name": "task", "task": {"command": "resize", "arguments": {"width": "variable:w"}}},
    ]
    assert fed_arguments({"steps": steps}) == {"prompt": "words", "height": "h"}


def test_document_without_steps_has_neither(bench: Bench) -> None:
    assert fed_arguments({"steps": "x"}) == {}
    assert type_of(bench, "x") == ""  # type: ignore[arg-type]
