"""Third-party documents with images behind URLs."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import InvalidWorkflow
from app.planning.plan_media import remote_values
from app.planning.planner import make_plan
from app.settings import PathSettings


@pytest.mark.parametrize(
    ("workflow", "urls"),
    [
        ("archive/ip-adapter", 2),
        ("archive/qr_code", 1),
        ("archive/sdxl_refiner", 1),
        ("flux/FluxOutpaint", 1),
        ("flux/FluxRedux", 1),
        ("tasks/MarigoldDepth", 1),
    ],
)
def test_images_by_url_are_planned_without_fetching(real_workflows: Path, workflow: str, urls: int):
    plan = make_plan(real_workflows / f"{workflow}.json", {}, paths=PathSettings())
    assert len(remote_values(plan)) == urls


def test_misspelt_variable_is_one_problem(real_workflows: Path):
    with pytest.raises(InvalidWorkflow) as caught:
        make_plan(real_workflows / "flux" / "FluxFill.json", {}, paths=PathSettings())
    (problem,) = caught.value.problems
    assert problem.place == "steps[0].pipeline.arguments.image.location"
    assert str(problem).endswith("There is no variable 'image'. Did you mean 'mage'?")
