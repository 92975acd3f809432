"""What does not fit is refused while it is planned, with names and families."""

from __future__ import annotations

import pytest

from app.errors import InvalidWorkflow
from app.models.inventory import list_models
from app.settings import PathSettings
from tests.models_folder.drawing import control_image, drawing, lora
from tests.worker.bench import Bench, Document


def problem(bench: Bench, wanted: Document) -> str:
    """Returns the only problem of a document that is refused while it is planned."""
    with pytest.raises(InvalidWorkflow) as caught:
        bench.plan(wanted)
    [found] = caught.value.problems
    return f"{found.message} {found.hint}".strip()


@pytest.mark.parametrize(
    ("checkpoint", "name", "families"),
    [
        ("dream", "ink_xl", ("SDXL", "SD 1.5")),
        *(
            ("realistic_xl", name, ("SD 1.5 or 2.x", "SDXL"))
            for name in ("ink", "chalk", "glow_dora", "pastel_loha", "paper_lokr")
        ),
    ],
)
def test_lora_of_another_family_is_refused(
    bench: Bench, checkpoint: str, name: str, families: tuple[str, str]
):
    made_for, needed = families
    assert problem(bench, drawing(checkpoint, **lora(name))) == (
        f"The LoRA '{name}.safetensors' was made for {made_for}, but the family of"
        f" '{checkpoint}.safetensors' is {needed}. Take one that was made for {needed}."
    )


@pytest.mark.parametrize(
    ("checkpoint", "name", "families"),
    [
        ("dream", "canny_xl", ("SDXL", "SD 1.5")),
        ("realistic_xl", "control_sd15_canny", ("SD 1.5", "SDXL")),
    ],
)
def test_controlnet_of_another_family_is_refused(
    bench: Bench, checkpoint: str, name: str, families: tuple[str, str]
):
    made_for, needed = families
    control_image().save(bench.folder / "a.png")
    assert problem(bench, drawing(checkpoint, controlnet=name)) == (
        f"The ControlNet '{name}.safetensors' was made for {made_for}, but the family of"
        f" '{checkpoint}.safetensors' is {needed}. Take one that was made for {needed}."
    )


@pytest.mark.parametrize(
    ("checkpoint", "name", "why"),
    [
        ("dream", "badhands_xl", "for the two text encoders of Stable Diffusion XL; this model"),
        ("realistic_xl", "badhands", "for one text encoder; this model has 2, for which a file"),
    ],
)
def test_embedding_of_another_family_is_refused(bench: Bench, checkpoint: str, name: str, why: str):
    told = problem(bench, drawing(checkpoint, textual_inversions=[{"model_name": name}]))
    assert told.startswith(f"'{name}.safetensors' has embeddings {why}")


@pytest.mark.parametrize(
    ("blocks", "nearest"),
    [
        (lora("Ink"), "'ink'"),
        (lora("pastel_lora"), "'pastel_loha'"),
        ({"vae": "brigth"}, "'bright'"),
        ({"controlnet": "control_sd15_cany"}, "'control_sd15_canny'"),
        ({"textual_inversions": [{"model_name": "badhand"}]}, "'badhands'"),
    ],
)
def test_wrong_name_is_refused_with_the_nearest(bench: Bench, blocks: Document, nearest: str):
    control_image().save(bench.folder / "a.png")
    told = problem(bench, drawing("dream", **blocks))
    assert told.startswith("There is no file '")
    assert f"Did you mean {nearest}" in told


def test_every_file_is_listed_with_its_family(bench: Bench):
    listed = [*list_models(PathSettings(models=(bench.models,)))]
    assert {each.name: each.family for each in listed} == {
        "dream": "SD 1.5", "xl/realistic_xl": "SDXL", "bright": "SD 1.5, SD 2.x or SDXL",
        **dict.fromkeys(
            ("ink", "chalk", "glow_dora", "pastel_loha", "paper_lokr"), "SD 1.5 or 2.x"
        ),
        "ink_xl": "SDXL", "control_sd15_canny": "SD 1.5", "canny_bare": "", "canny_xl": "SDXL",
        "badhands": "", "badhands_xl": "SDXL",
    }  # fmt: skip
    assert [each.problem for each in listed if each.problem] == []
