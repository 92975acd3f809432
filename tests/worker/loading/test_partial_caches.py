"""Hub caches that lack files: the rest is fetched, and without the hub a sentence names it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from app.engine import Engine
from app.errors import ErrorReport
from app.protocol import RunFailed
from tests.engines import Finished, run
from tests.hub import COMMIT, Hub
from tests.worker.bench import Bench, document, same, step

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
SHARD = "unet/diffusion_pytorch_model-00002-of-00002.safetensors"
WORDS = "tokenizer/tokenizer.json"
SCHEDULER = "scheduler/scheduler_config.json"
NO_CHECKER = {"safety_checker": None}
LISTS = {"without a list": False, "with a list": True}


def sharded(folder: Path) -> None:
    """Splits the denoiser's weights into two files with an index."""
    file = folder / UNET
    tensors = load_file(file)
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        shard = f"diffusion_pytorch_model-{number:05}-of-00002.safetensors"
        kept = {name: tensors[name] for name in part}
        save_file(kept, file.with_name(shard), {"format": "pt"})
        weight_map |= dict.fromkeys(part, shard)
    file.unlink()
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{UNET}.index.json").write_text(json.dumps(index))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    model = shutil.copytree(tiny, folder / "test" / "tiny")
    for name in (UNET, VAE, TEXT):
        halved = {key: tensor.half() for key, tensor in load_file(model / name).items()}
        save_file(halved, model / name.replace(".safe", ".fp16.safe"), {"format": "pt"})
    sharded(shutil.copytree(tiny, folder / "test" / "sharded"))
    served = Hub(folder)
    yield served
    served.close()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench only to write documents."""
    return Bench(tmp_path)


def cached(hub: Hub, home: Path, name: str, lacking: set[str], *, listed: bool = False) -> None:
    """Puts the model into the cache as a hub's client lays it out, without some of its files; only
    clients of today keep a list of the files beside them."""
    repository = hub.folder / "test" / name
    root = home / "hub" / f"models--test--{name}"
    shutil.rmtree(root, ignore_errors=True)
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    files = [file for file in sorted(repository.rglob("*")) if file.is_file()]
    names = [file.relative_to(repository).as_posix() for file in files]
    assert lacking <= {*names}
    (root / "blobs").mkdir()
    for path, file in zip(names, files, strict=True):
        if path not in lacking:
            content = file.read_bytes()
            blob = root / "blobs" / hashlib.sha256(content).hexdigest()
            blob.write_bytes(content)
            link = root / "snapshots" / COMMIT / path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
    if listed:
        (root / "trees").mkdir()
        entry = {"size": 0, "blob_id": "0" * 40, "lfs": None, "xet_hash": None}
        tree = {"format_version": 1, "files": dict.fromkeys(names, entry)}
        (root / "trees" / f"{COMMIT}.json").write_text(json.dumps(tree))


def draw(engine: Engine, bench: Bench, model: str, **loading: str | None) -> Finished:
    wanted = document(step(model=model, loading={**NO_CHECKER, **loading}))
    return run(engine, bench.write(wanted))


def refused(finished: Finished) -> ErrorReport:
    assert isinstance(finished.terminal, RunFailed)
    assert finished.terminal.error.kind == "LoadError"
    return finished.terminal.error


CASES = {
    "the autoencoder's weights": ("tiny", {VAE}),
    "all but fp16 files": ("tiny", {UNET, VAE, TEXT}),
    "one of two shards": ("sharded", {SHARD}),
    "a folder": ("tiny", {SCHEDULER}),
    "a vocabulary": ("tiny", {WORDS}),
    "a configuration": ("tiny", {"unet/config.json"}),
}


@pytest.mark.parametrize("case", CASES)
def test_files_an_older_cache_lacks_are_fetched(
    case: str, engine: Engine, hub: Hub, home: Path, bench: Bench, tiny: Path
):
    name, lacking = CASES[case]
    cached(hub, home, name, lacking)
    hub.requests.clear()
    drawn = draw(engine, bench, f"test/{name}")
    assert same(drawn, draw(engine, bench, str(tiny)))
    assert {path for path in hub.fetched if path.endswith(".safetensors")} == {
        path for path in lacking if path.endswith(".safetensors")
    }
    assert lacking <= hub.fetched


def test_older_cache_with_all_files_is_used_without_asking_the_hub(
    engine: Engine, hub: Hub, home: Path, bench: Bench
):
    checker = {"safety_checker/config.json", "safety_checker/model.safetensors"}
    cached(hub, home, "tiny", {UNET, VAE, TEXT, *checker})
    hub.requests.clear()
    assert draw(engine, bench, "test/tiny", variant="fp16").success
    assert hub.requests == []


@pytest.mark.parametrize("listed", LISTS.values(), ids=[*LISTS])
@pytest.mark.parametrize("missing", [VAE, WORDS, SHARD])
def test_missing_file_is_named_where_the_hub_cannot_be_asked(
    missing: str, listed: bool, engine: Engine, hub: Hub, home: Path, bench: Bench
):
    name = "sharded" if missing == SHARD else "tiny"
    cached(hub, home, name, {missing}, listed=listed)
    with hub.gone():
        error = refused(draw(engine, bench, f"test/{name}"))
    assert error.message == (
        f"'{missing}' of the model 'test/{name}' is not on this machine and could not be"
        " downloaded: the hub does not answer (ConnectError)."
    )
    assert "Check the network" in error.hint


@pytest.mark.parametrize("listed", LISTS.values(), ids=[*LISTS])
def test_model_with_only_fp16_files_says_how_to_use_them(
    listed: bool, engine: Engine, hub: Hub, home: Path, bench: Bench
):
    cached(hub, home, "tiny", {UNET, VAE, TEXT}, listed=listed)
    with hub.gone():
        error = refused(draw(engine, bench, "test/tiny"))
    assert "of the model 'test/tiny' are not on this machine" in error.message
    assert error.hint.startswith(
        """It has fp16 files: add "variant": "fp16" beside 'model_name' to use them."""
    )


def test_model_without_the_named_variant_says_how_to_use_its_files(
    engine: Engine, hub: Hub, home: Path, bench: Bench
):
    fp16 = {name.replace(".safe", ".fp16.safe") for name in (UNET, VAE, TEXT)}
    cached(hub, home, "tiny", fp16, listed=True)
    with hub.gone():
        error = refused(draw(engine, bench, "test/tiny", variant="fp16"))
    assert error.hint.startswith("It has files without a variant: leave out 'variant' to use them.")


def test_single_file_an_older_cache_lacks_is_fetched(
    engine: Engine, hub: Hub, home: Path, bench: Bench, tiny: Path
):
    files = hub.folder / "test" / "files"
    files.mkdir(exist_ok=True)
    shutil.copy(tiny / UNET, files / "unet-v1.safetensors")
    shutil.copy(tiny / VAE, files / "another.safetensors")
    cached(hub, home, "files", {"unet-v1.safetensors"})
    hub.requests.clear()
    block = {
        "configuration": {"component_type": "UNet2DConditionModel"},
        "from_pretrained_arguments": {
            "from_single_file": "https://huggingface.co/test/files/blob/main/unet-v1.safetensors"
        },
    }
    wanted = step(model=tiny, loading=NO_CHECKER, blocks={"unet": block})
    assert run(engine, bench.write(document(wanted))).success
    assert "unet-v1.safetensors" in hub.fetched


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder"])
def test_local_model_with_only_fp16_files_says_how_to_use_them(
    name: str, bench: Bench, tiny: Path, tmp_path: Path
):
    model = shutil.copytree(tiny, tmp_path / "model")
    (file,) = (model / name).glob("*.safetensors")
    file.rename(file.with_suffix(".fp16.safetensors"))
    error = bench.refused(document(step(model=model, loading=NO_CHECKER)))
    assert error.message == f"The {name} of '{model}' has only fp16 weights."
    assert error.hint == """Add "variant": "fp16" beside 'model_name'."""


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder"])
def test_local_component_without_weights_is_refused(
    name: str, bench: Bench, tiny: Path, tmp_path: Path
):
    model = shutil.copytree(tiny, tmp_path / "model")
    (file,) = (model / name).glob("*.safetensors")
    file.unlink()
    error = bench.refused(document(step(model=model, loading=NO_CHECKER)))
    assert error.message == f"The {name} of '{model}' has no safetensors weights."
