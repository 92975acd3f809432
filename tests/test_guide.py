"""Every example of the guide is planned, matches the schema, and runs if it needs no model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from PIL import Image

from app.dialect.schema import workflow_schema
from app.settings import PROJECT
from tests.plan_bench import safetensors
from tests.worker.bench import Bench

GUIDE = (PROJECT / "docs" / "dialect.md").read_text()
EXAMPLE = re.compile(r"^```json( run)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = {
    chapter.partition("\n")[0]: (json.loads(found[2]), bool(found[1]))
    for chapter in GUIDE.split("\n## ")[1:]
    if (found := EXAMPLE.search(chapter))
}
"""By heading: the document, and whether it is run."""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    for name, colour in (("fox", "orange"), ("hen", "brown")):
        Image.new("RGB", (96, 64), colour).save(tmp_path / f"{name}.png")
    for name in ("checkpoints/dreamshaper_8", "loras/style/ink"):
        file = bench.models / f"{name}.safetensors"
        file.parent.mkdir(parents=True)
        safetensors(file, weight=4)
    return bench


def test_guide_has_one_example_per_feature():
    assert GUIDE.count("```json") == len(EXAMPLES) > 15
    for title in EXAMPLES:
        assert f"(#{title.lower().replace(' ', '-')})" in GUIDE


@pytest.mark.parametrize("title", EXAMPLES)
def test_guide_example_is_planned_without_key_warnings(bench: Bench, title: str):
    document, _ = EXAMPLES[title]
    plan = bench.plan(document, seed=None)
    assert len(plan.steps) >= len(document["steps"])
    assert not [text for text in plan.warnings if "is not known" in text]


@pytest.mark.parametrize("title", EXAMPLES)
def test_guide_example_matches_schema(title: str):
    assert list(Draft202012Validator(workflow_schema()).iter_errors(EXAMPLES[title][0])) == []


@pytest.mark.parametrize("title", [title for title, (_, runs) in EXAMPLES.items() if runs])
def test_guide_example_without_model_runs(bench: Bench, title: str):
    document: dict[str, Any] = EXAMPLES[title][0]
    finished = bench.run(document, seed=None)
    assert finished.success
    saving = [step["name"] for step in document["steps"] if "result" in step]
    assert {result.step for result in finished.results} == set(saving)
