"""A practitioner's model folder, of A1111 or ComfyUI: every file works by its bare name, offline,
and draws what stock diffusers draws with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from app.errors import InvalidWorkflow
from app.models.inventory import list_models
from app.protocol import Noticed
from app.settings import PathSettings
from tests.engines import Finished
from tests.standins.parts import quiet
from tests.standins.webui import A1111, FILES, build_folder, link_as_comfyui
from tests.worker.bench import Bench, Document, document, pixels, step

SIZE = {"width": 64, "height": 64}
SEED = 7
PROMPT = "a red circle"
KINDS = {"dream": "", "realistic_xl": "XL"}
"""The checkpoints, and the middle of their pipelines' names."""


@pytest.fixture(scope="module")
def webui(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as A1111 lays it out. Read-only."""
    root = tmp_path_factory.mktemp("webui")
    build_folder(root)
    return root


@pytest.fixture(scope="module")
def bench(webui: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A runner over the folder."""
    bench = Bench(tmp_path_factory.mktemp("a1111"))
    bench.models = webui / "models"
    return bench


def drawing(checkpoint: str, prompt: str = PROMPT, **blocks: Any) -> Document:
    """Returns a document that draws with the checkpoint of this name; blocks are by bare name."""
    named = {name: blocks.pop(name) for name in ("vae", "controlnet") if name in blocks}
    classes = {"vae": "AutoencoderKL", "controlnet": "ControlNetModel"}
    parts = {
        name: {
            "configuration": {"component_type": classes[name]},
            "from_pretrained_arguments": {"from_single_file": file},
        }
        for name, file in named.items()
    }
    kind = KINDS[checkpoint] + "ControlNet" * ("controlnet" in named)
    image = {"image": "a.png"} if "controlnet" in named else {}
    wanted = step(kind=kind, blocks={**blocks, **parts}, **SIZE, **image, prompt=prompt)
    wanted["pipeline"]["from_pretrained_arguments"] = {"from_single_file": checkpoint}
    return document(wanted)


def lora(name: str, scale: float = 0.8) -> Document:
    return {"loras": [{"model_name": name, "scale": scale}]}


def run(bench: Bench, wanted: Document) -> Finished:
    control_image().save(bench.folder / "a.png")
    with quiet():
        return bench.run(wanted)


def drawn(bench: Bench, wanted: Document) -> np.ndarray:
    """Returns the picture of a run that left nothing out."""
    finished = run(bench, wanted)
    [picture] = pixels(finished)
    assert [e.sentence for e in finished.events if isinstance(e, Noticed)] == []
    return picture


def control_image() -> Image.Image:
    return Image.linear_gradient("L").resize((64, 64)).convert("RGB")


# --- stock diffusers -----------------------------------------------------------------------------


@pytest.fixture
def place(webui: Path) -> dict[str, Path]:
    """The files, by their bare names."""
    return {
        name.rpartition("/")[2]: webui / A1111[kind] / f"{name}.safetensors"
        for kind, names in FILES.items()
        for name in names
    }


def config_for(bench: Bench, beginning: str) -> Path:
    """Returns the folder of a configuration that a run of the bench has written."""
    [folder] = (bench.folder / "outputs" / ".configs").glob(f"{beginning}-*")
    return folder


def stock(bench: Bench, place: dict[str, Path], checkpoint: str, **parts: Any) -> Any:
    """Returns stock diffusers' pipeline of the checkpoint."""
    kind = KINDS[checkpoint] + "ControlNet" * ("controlnet" in parts)
    pipeline = getattr(diffusers, f"StableDiffusion{kind}Pipeline").from_single_file(
        str(place[checkpoint]),
        config=str(config_for(bench, "sdxl" if KINDS[checkpoint] else "sd15")),
        local_files_only=True,
        **({"add_watermarker": None} if KINDS[checkpoint] else {}),
        **parts,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawn_by(pipeline: Any, prompt: str = PROMPT, **arguments: Any) -> np.ndarray:
    generator = torch.Generator().manual_seed(SEED)
    with quiet():
        made = pipeline(prompt, num_inference_steps=2, generator=generator, **SIZE, **arguments)
    return np.asarray(made.images[0])


# --- in documents --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(bench: Bench) -> dict[str, np.ndarray]:
    """The picture of each checkpoint alone."""
    return {name: drawn(bench, drawing(name)) for name in KINDS}


@pytest.mark.parametrize("checkpoint", KINDS)
def test_checkpoint_draws_as_stock_diffusers(
    bench: Bench, place: dict[str, Path], plain: dict[str, np.ndarray], checkpoint: str
):
    assert np.array_equal(plain[checkpoint], drawn_by(stock(bench, place, checkpoint)))


@pytest.mark.parametrize(
    ("name", "checkpoint"), [("ink", "dream"), ("chalk", "dream"), ("ink_xl", "realistic_xl")]
)
def test_lora_draws_as_stock_diffusers(
    bench: Bench,
    place: dict[str, Path],
    plain: dict[str, np.ndarray],
    name: str,
    checkpoint: str,
):
    changed = drawn(bench, drawing(checkpoint, **lora(name)))
    pipeline = stock(bench, place, checkpoint)
    pipeline.load_lora_weights(str(place[name]), adapter_name="a")
    pipeline.set_adapters(["a"], [0.8])
    assert np.array_equal(changed, drawn_by(pipeline))
    assert not np.array_equal(changed, plain[checkpoint])
    assert np.array_equal(drawn(bench, drawing(checkpoint)), plain[checkpoint])


@pytest.mark.parametrize("name", ["pastel_loha", "paper_lokr", "glow_dora"])
def test_file_that_stock_diffusers_cannot_load_changes_the_picture(
    bench: Bench, plain: dict[str, np.ndarray], name: str
):
    assert not np.array_equal(drawn(bench, drawing("dream", **lora(name))), plain["dream"])
    assert np.array_equal(drawn(bench, drawing("dream")), plain["dream"])


def test_embedding_draws_as_stock_diffusers(
    bench: Bench, place: dict[str, Path], plain: dict[str, np.ndarray]
):
    prompt = f"{PROMPT}, badhands"
    wanted = drawing("dream", prompt, textual_inversions=[{"model_name": "badhands"}])
    changed = drawn(bench, wanted)
    pipeline = stock(bench, place, "dream")
    assert not np.array_equal(changed, drawn_by(pipeline, prompt))
    pipeline.load_textual_inversion(str(place["badhands"]), token="badhands")
    assert np.array_equal(changed, drawn_by(pipeline, prompt))
    assert np.array_equal(drawn(bench, drawing("dream")), plain["dream"])


def test_embedding_for_two_encoders_draws_as_stock_diffusers(bench: Bench, place: dict[str, Path]):
    prompt = f"{PROMPT}, badhands_xl"
    wanted = drawing("realistic_xl", prompt, textual_inversions=[{"model_name": "badhands_xl"}])
    changed = drawn(bench, wanted)
    pipeline = stock(bench, place, "realistic_xl")
    assert not np.array_equal(changed, drawn_by(pipeline, prompt))
    vectors = load_file(place["badhands_xl"])
    for end, name in (("", "clip_l"), ("_2", "clip_g")):
        pipeline.load_textual_inversion(
            {name: vectors[name]},
            token="badhands_xl",
            text_encoder=getattr(pipeline, f"text_encoder{end}"),
            tokenizer=getattr(pipeline, f"tokenizer{end}"),
        )
    assert np.array_equal(changed, drawn_by(pipeline, prompt))


def test_vae_draws_as_stock_diffusers(
    bench: Bench, place: dict[str, Path], plain: dict[str, np.ndarray]
):
    changed = drawn(bench, drawing("dream", vae="bright"))
    vae = diffusers.AutoencoderKL.from_single_file(
        str(place["bright"]), config=str(config_for(bench, "sd15") / "vae")
    )
    assert np.array_equal(changed, drawn_by(stock(bench, place, "dream", vae=vae)))
    assert not np.array_equal(changed, plain["dream"])


@pytest.mark.parametrize(
    ("name", "checkpoint"),
    [
        ("control_sd15_canny", "dream"),
        ("canny_bare", "dream"),
        ("canny_xl", "realistic_xl"),
    ],
)
def test_controlnet_draws_as_stock_diffusers(
    bench: Bench,
    place: dict[str, Path],
    plain: dict[str, np.ndarray],
    name: str,
    checkpoint: str,
):
    changed = drawn(bench, drawing(checkpoint, controlnet=name))
    family = "sdxl" if KINDS[checkpoint] else "sd15"
    controlnet = diffusers.ControlNetModel.from_single_file(
        str(place[name]), config=str(config_for(bench, f"controlnet-{family}"))
    )
    pipeline = stock(bench, place, checkpoint, controlnet=controlnet)
    assert np.array_equal(changed, drawn_by(pipeline, image=control_image()))
    assert not np.array_equal(changed, plain[checkpoint])


EVERYTHING: dict[str, Document] = {
    "dream": {
        "loras": [{"model_name": name, "scale": 0.3} for name in (
            "ink", "chalk", "glow_dora", "pastel_loha", "paper_lokr",
        )],
        "textual_inversions": [{"model_name": "badhands"}],
        "vae": "bright",
        "controlnet": "control_sd15_canny",
    },
    "realistic_xl": {
        **lora("ink_xl"),
        "textual_inversions": [{"model_name": "badhands_xl"}],
        "controlnet": "canny_xl",
    },
}  # fmt: skip


@pytest.mark.parametrize("checkpoint", KINDS)
def test_same_files_in_comfyuis_folders_draw_the_same(
    bench: Bench, webui: Path, tmp_path: Path, checkpoint: str
):
    link_as_comfyui(webui, tmp_path)
    [word] = (each["model_name"] for each in EVERYTHING[checkpoint]["textual_inversions"])
    wanted = drawing(checkpoint, f"{PROMPT}, {word}", **EVERYTHING[checkpoint])
    assert np.array_equal(drawn(bench, wanted), drawn(Bench(tmp_path), wanted))


# --- what does not fit ---------------------------------------------------------------------------


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
