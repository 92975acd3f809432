"""Files are chosen without torch before a run is ready: exactly those that the worker reads."""

from __future__ import annotations

import json
import shutil
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.settings import PathSettings
from app.worker.device import Device
from app.worker.loading.components import ip_adapter_folder
from app.worker.loading.load import find_parts
from app.worker.loading.local_files import NotHere
from app.worker.loading.parts import StepParts
from app.worker.loading.task_parts import find_task_parts
from app.worker.tuning.tune import lora_files
from app.workflow.models.hub import TEXT_FILES, Place, held
from app.workflow.models.wanted import exactly, wanted
from app.workflow.plan import PipelineStep, Plan, TaskStep
from app.workflow.plan_sources import ModelSource
from app.workflow.planning.planner import make_plan
from tests.hub import COMMIT
from tests.standins import build_flux
from tests.standins.checkpoint import build_checkpoint
from tests.standins.ip_adapter import build_ip_adapter
from tests.standins.language import build_language_model
from tests.standins.stable_diffusion import build_controlnet
from tests.worker.bench import Document, document, step

Names = set[tuple[str, str]]
"""Repositories and files of theirs."""
HUB = "https://huggingface.co/test/{}/blob/main/{}"


class Cache:
    """A hub's cache into which files are copied from the folders of repositories."""

    def __init__(self, repositories: Path, folder: Path) -> None:
        self._repositories = repositories
        self.place = Place(folder)
        self.brought: Names = set()

    def bring(self, source: ModelSource, choose: Any) -> None:
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
        text = [name for name in names if any(fnmatchcase(name, each) for each in TEXT_FILES)]
        chosen = [name for name in choose(names) if name in names]
        for name in (*text, *chosen):
            target = root / "snapshots" / COMMIT / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / name, target)
        self.brought |= {(source.model, name) for name in chosen}


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
    build_ip_adapter(model, test / "adapter" / "models", "eye.safetensors")
    (test / "files").mkdir()
    build_checkpoint(model, test / "files" / "whole.safetensors")
    shutil.copy(model / "unet" / "diffusion_pytorch_model.safetensors", test / "files")
    return folder


def plan_of(written: Document, folder: Path) -> Plan:
    path = folder / "flow.json"
    path.write_text(json.dumps(written))
    Image.new("RGB", (8, 8)).save(folder / "eye.png")
    return make_plan(path, {}, paths=PathSettings(models=(), allow_pickles=True), seed=7)


def chosen_before(plan: Plan, cache: Cache) -> Names:
    """What is brought before the run is ready."""
    for model in wanted(plan, cache.place):
        cache.bring(*model)
        source = model.source
        assert held(cache.place, source.model, source.revision, model.choose).is_whole
    return cache.brought


def read_by_the_worker(plan: Plan, cache: Cache) -> Names:
    """What the worker finds missing, one model after the other."""
    for _ in range(30):
        try:
            _look(plan)
        except NotHere as missing:
            cache.bring(missing.source, exactly(missing.names))
        else:
            return cache.brought
    raise AssertionError("The worker still misses files.")


def _look(plan: Plan) -> None:
    needed: dict[str, StepParts] = {}
    for each in plan.steps:
        if isinstance(each, TaskStep):
            needed[each.name] = find_task_parts(each, Device("cpu"))
        if isinstance(each, PipelineStep):
            needed[each.name] = find_parts(each, needed)
            for lora in each.loras:
                lora_files(lora)
            if each.ip_adapter is not None:
                ip_adapter_folder(each.ip_adapter)


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
CASES: dict[str, tuple[Document, ...]] = {
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


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("steps", CASES.values(), ids=CASES)
def test_files_chosen_before_the_run_are_those_the_worker_reads(
    steps: tuple[Document, ...],
    repositories: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    plan = plan_of(document(*steps), tmp_path)
    before, worker = (Cache(repositories, tmp_path / name) for name in ("before", "worker"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "worker"))
    assert chosen_before(plan, before) == read_by_the_worker(plan, worker)
    assert worker.brought
    assert not [name for _, name in worker.brought if name.endswith(".bin")]
