"""For every kind of model, exactly the files that a run loads are fetched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.dialect.plan import Plan
from app.models.hub import Place, held, is_text
from app.models.wanted import Wanted, bring_all
from app.planning.planner import make_plan
from app.settings import PathSettings
from tests.hub import COMMIT
from tests.standins import build_flux
from tests.standins.inversion import build_inversion
from tests.standins.ip_adapter import build_ip_adapter
from tests.standins.language import build_language_model
from tests.standins.stable_diffusion import build_controlnet
from tests.worker.bench import Document, document, step

HUB = "https://huggingface.co/test/{}/blob/main/{}"


class Cache:
    """A hub cache filled by copying from repository folders."""

    def __init__(self, repositories: Path, folder: Path) -> None:
        self._repositories = repositories
        self.place = Place(folder)
        self.brought: set[str] = set()
        """File names by repository, text files apart."""

    def bring(self, model: Wanted) -> None:
        source, choose = model
        repository = self._repositories / source.model
        root = self.place.cache / f"models--{source.model.replace('/', '--')}"
        names = [
            path.relative_to(repository).as_posix()
            for path in sorted(repository.rglob("*"))
            if path.is_file()
        ]
        for file, content in (
            (root / "refs" / "main", COMMIT),
            (
                root / "trees" / f"{COMMIT}.json",
                json.dumps({"format_version": 1, "files": {name: {} for name in names}}),
            ),
        ):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        text = [name for name in names if is_text(name)]
        chosen = [name for name in choose(names) if name in names and name not in text]
        for name in (*text, *chosen):
            target = root / "snapshots" / COMMIT / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / name, target)
        self.brought |= {f"{source.model.removeprefix('test/')}/{name}" for name in chosen}
        assert held(self.place, source.model, source.revision, choose).is_whole


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    folder = tmp_path_factory.mktemp("repositories")
    test = folder / "test"
    model = shutil.copytree(tiny, test / "tiny")
    for file in sorted(model.rglob("*.safetensors")):
        for other in (".fp16.safetensors", ".bin"):
            shutil.copy(file, file.with_suffix(other))
    shutil.copytree(model, test / "other")
    build_flux(test / "flux")
    build_controlnet(test / "controlnet")
    build_language_model(test / "writer")
    for name in ("one.safetensors", "two.safetensors", "deeper/three.safetensors"):
        (test / "loras" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(model / "vae" / "diffusion_pytorch_model.safetensors", test / "loras" / name)
    for name in ("learned_embeds", "deeper/two", "other"):
        build_inversion(test / "words" / f"{name}.safetensors", f"<{name}>")
    build_ip_adapter(model, test / "adapter" / "models", "eye.safetensors")
    (test / "files").mkdir()
    shutil.copy(model / "unet" / "diffusion_pytorch_model.safetensors", test / "files")
    return folder


def plan_of(written: Document, folder: Path) -> Plan:
    path = folder / "flow.json"
    path.write_text(json.dumps(written))
    Image.new("RGB", (8, 8)).save(folder / "eye.png")
    return make_plan(path, {}, paths=PathSettings(models=(), allow_pickles=True), seed=7)


def block(kind: str, **loading: Any) -> Document:
    return {"configuration": {"component_type": kind}, "from_pretrained_arguments": loading}


TINY = "test/tiny"
VAE = block("AutoencoderKL", model_name=TINY, subfolder="vae")
UNET_FILE = HUB.format("files", "diffusion_pytorch_model.safetensors")
MODULAR: Document = {
    "name": "draw",
    "pipeline": {
        "configuration": {"component_type": "ModularPipeline"},
        "from_pretrained_arguments": {"model_name": "test/flux"},
        "arguments": {"prompt": "a fox", "num_inference_steps": 2},
    },
    "result": {"content_type": "image/png"},
}
CHECKER, TEXT, UNET, AUTO = (
    "tiny/safety_checker/model.safetensors",
    "tiny/text_encoder/model.safetensors",
    "tiny/unet/diffusion_pytorch_model.safetensors",
    "tiny/vae/diffusion_pytorch_model.safetensors",
)
OWN = {CHECKER, TEXT, UNET, AUTO}
STEPS: dict[str, tuple[Document, ...]] = {
    "a pipeline": (step(model=TINY),),
    "a variant": (step(model=TINY, loading={"variant": "fp16"}),),
    "a component left out": (step(model=TINY, loading={"safety_checker": None}),),
    "the model's own pipeline": (
        {**step(model=TINY), "pipeline": {
            **step(model=TINY)["pipeline"],
            "configuration": {"component_type": "DiffusionPipeline"},
        }},
    ),
    "the family's pipeline": (
        {**step(model=TINY), "pipeline": {
            **step(model=TINY)["pipeline"],
            "configuration": {"component_type": "AutoPipelineForText2Image"},
        }},
    ),
    "a component of its own": (step(model=TINY, blocks={"vae": VAE}),),
    "components reused": (
        step(model=TINY, blocks={"shared_components": ["vae", "text_encoder"]}),
        step("again", model="test/other", blocks={"reused_components": ["vae", "text_encoder"]}),
    ),
    "a controlnet": (
        step(
            model=TINY,
            kind="ControlNet",
            blocks={"controlnet": block("ControlNetModel", model_name="test/controlnet")},
        ),
    ),
    "a named LoRA": (
        step(model=TINY, blocks={"loras": [
            {"model_name": "test/loras", "weight_name": "two.safetensors"},
        ]}),
    ),
    "all LoRAs of a folder": (
        step(model=TINY, blocks={"loras": [{"model_name": "test/loras"}]}),
    ),
    "textual inversions": (
        step(model=TINY, blocks={"textual_inversions": [
            {"model_name": "test/words"},
            # (The safetensors file beside a pickle.)
            {"model_name": "test/words", "subfolder": "deeper", "weight_name": "two.bin"},
        ]}),
    ),
    "an IP adapter": (
        step(model=TINY, blocks={"ip_adapter": {
            "model_name": "test/adapter", "subfolder": "models",
            "weight_name": "eye.safetensors",
        }}, ip_adapter_image={"location": "eye.png"}),
    ),
    "a component in a file": (
        step(model=TINY, blocks={"unet": block(
            "UNet2DConditionModel", from_single_file=UNET_FILE,
        )}),
    ),
    "a component in a file with a configuration": (
        step(model=TINY, blocks={"unet": block(
            "UNet2DConditionModel", from_single_file=UNET_FILE, config=TINY, subfolder="unet",
        )}),
    ),
    "a modular pipeline": (MODULAR,),
    "a task's model": (
        {
            "name": "tell",
            "task": {
                "command": "text_generation",
                "arguments": {"prompt": "a cat", "model_name": "test/writer"},
            },
            "result": {"content_type": "text/plain"},
        },
    ),
}  # fmt: skip


FILES = {
    "a pipeline": OWN,
    "a variant": {name.replace(".safetensors", ".fp16.safetensors") for name in OWN},
    "a component left out": OWN - {CHECKER},
    "the model's own pipeline": OWN,
    "the family's pipeline": OWN,
    "a component of its own": OWN,
    "components reused": OWN | {
        "other/safety_checker/model.safetensors",
        "other/unet/diffusion_pytorch_model.safetensors",
    },
    "a controlnet": OWN | {"controlnet/diffusion_pytorch_model.safetensors"},
    "a named LoRA": OWN | {"loras/two.safetensors"},
    "all LoRAs of a folder": OWN | {"loras/one.safetensors", "loras/two.safetensors"},
    "textual inversions": OWN | {
        "words/learned_embeds.safetensors", "words/deeper/two.safetensors",
    },
    "an IP adapter": OWN | {
        "adapter/models/eye.safetensors", "adapter/models/image_encoder/model.safetensors",
    },
    "a component in a file": OWN - {UNET} | {"files/diffusion_pytorch_model.safetensors"},
    "a component in a file with a configuration": (
        OWN - {UNET} | {"files/diffusion_pytorch_model.safetensors"}
    ),
    "a modular pipeline": {
        "flux/text_encoder/model.safetensors",
        "flux/text_encoder_2/model.safetensors",
        "flux/transformer/diffusion_pytorch_model.safetensors",
        "flux/vae/diffusion_pytorch_model.safetensors",
    },
    "a task's model": {"writer/model.safetensors"},
}  # fmt: skip


@pytest.mark.parametrize("case", STEPS)
def test_wanted_files_are_exactly_those_loaded(case: str, repositories: Path, tmp_path: Path):
    cache = Cache(repositories, tmp_path / "cache")
    bring_all(plan_of(document(*STEPS[case]), tmp_path), cache.bring, cache.place)
    assert cache.brought == FILES[case]
