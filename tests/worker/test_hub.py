"""A model of the hub: fetched once, only what is needed of it, then never asked for again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from app.engine import Engine
from app.protocol import RunFailed
from tests.engines import Finished, run, started_engine
from tests.worker.bench import SHAPES, Bench, document, same, step
from tests.worker.hub import Hub

UNET = "unet/diffusion_pytorch_model.safetensors"
NO_CHECKER = {"safety_checker": None}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[Hub]:
    """`test/tiny`, which holds all that published repositories hold; and some that are broken."""
    folder = tmp_path_factory.mktemp("hub")
    model = shutil.copytree(tiny, folder / "test" / "tiny")
    weights = load_file(model / UNET)
    halved = {name: tensor.half() for name, tensor in weights.items()}
    save_file(halved, model / UNET.replace(".safe", ".fp16.safe"), {"format": "pt"})
    save_file(halved, model / UNET.replace(".safe", ".non_ema.safe"), {"format": "pt"})
    save_file(weights, model / "tiny-v1.safetensors")
    (model / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    (model / "unet" / "custom.py").write_text("raise SystemExit('code of a model was run')")
    (model / "pytorch_model.ckpt").write_bytes(b"a pickle")
    shutil.copytree(tiny, folder / "test" / "interrupted")
    shutil.copytree(tiny, folder / "test" / "never-asked-for")
    loras = folder / "test" / "loras"
    shutil.copytree(Path(SHAPES) / "outline", loras)
    lora = next(loras.iterdir()).rename(loras / "outline.safetensors")
    shutil.copy(lora, loras / "another.safetensors")
    served = Hub(folder)
    yield served
    served.close()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, hub: Hub) -> Iterator[Engine]:
    """An engine whose worker knows only this hub, and has an empty cache for it."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_ENDPOINT", hub.address)
        environment.setenv("HF_HOME", str(tmp_path_factory.mktemp("home")))
        environment.setenv("HF_HUB_OFFLINE", "0")
        environment.delenv("HF_HUB_CACHE", raising=False)
        with started_engine(tmp_path_factory.mktemp("outputs")) as started:
            yield started


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Only to write documents."""
    return Bench(tmp_path)


def draw(engine: Engine, bench: Bench, model: str, **loading: str | None) -> Finished:
    wanted = document(step(model=model, loading={**NO_CHECKER, **loading}))
    return run(engine, bench.write(wanted))


def failed(finished: Finished) -> RunFailed:
    assert isinstance(finished.terminal, RunFailed)
    assert finished.terminal.error.kind == "LoadError"
    return finished.terminal


@pytest.fixture(scope="module")
def first(engine: Engine, hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The first run of all, on a model that has to be fetched."""
    return draw(engine, Bench(tmp_path_factory.mktemp("first")), "test/tiny")


def test_a_model_of_the_hub_draws_what_the_same_model_in_a_folder_draws(
    first: Finished, engine: Engine, bench: Bench, tiny: Path
):
    assert any(title == "unet of test/tiny (float32)" for title in first.success.loaded)
    assert same(first, draw(engine, bench, str(tiny)))


def test_only_what_is_needed_was_fetched(first: Finished, hub: Hub):
    fetched = {path for path in hub.fetched if not path.endswith((".json", ".txt"))}
    assert fetched == {
        UNET,
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    }


def test_a_second_run_and_one_after_freeing_ask_the_hub_nothing(
    first: Finished, engine: Engine, hub: Hub, bench: Bench
):
    asked = len(hub.requests)
    assert same(first, draw(engine, bench, "test/tiny"))
    engine.free()
    again = draw(engine, bench, "test/tiny")
    assert again.success.loaded
    assert same(first, again)
    assert hub.requests[asked:] == []


def test_a_variant_fetches_its_own_weights_where_there_are_any(
    first: Finished, engine: Engine, hub: Hub, bench: Bench
):
    hub.requests.clear()
    assert draw(engine, bench, "test/tiny", variant="fp16").success
    assert hub.fetched == {"unet/diffusion_pytorch_model.fp16.safetensors"}


def test_what_one_workflow_leaves_out_is_fetched_when_another_wants_it(
    first: Finished, engine: Engine, hub: Hub, bench: Bench
):
    hub.requests.clear()
    whole = run(engine, bench.write(document(step(model="test/tiny"))))
    assert any(title.startswith("safety_checker") for title in whole.success.loaded)
    assert hub.fetched == {"safety_checker/model.safetensors"}


def test_of_a_repository_of_loras_only_the_named_file_is_fetched(
    first: Finished, engine: Engine, hub: Hub, bench: Bench
):
    hub.requests.clear()

    def outlined(model: str, **lora: str) -> Finished:
        wanted = step(blocks={"loras": [{"model_name": model, **lora}]})
        return run(engine, bench.write(document(wanted)))

    fetched = outlined("test/loras", weight_name="outline.safetensors")
    assert hub.fetched == {"outline.safetensors"}
    assert same(fetched, outlined(str(Path(SHAPES) / "outline")))


def test_a_component_of_its_own_is_fetched_alone(
    first: Finished, engine: Engine, hub: Hub, bench: Bench
):
    hub.requests.clear()
    block = {
        "configuration": {"component_type": "AutoencoderKL"},
        "from_pretrained_arguments": {"model_name": "test/interrupted", "subfolder": "vae"},
    }
    wanted = step(model="test/tiny", loading=NO_CHECKER, blocks={"vae": block})
    assert run(engine, bench.write(document(wanted))).success
    weights = {path for path in hub.fetched if path.endswith(".safetensors")}
    assert weights == {"vae/diffusion_pytorch_model.safetensors"}


def test_a_repository_that_does_not_exist_is_a_sentence(
    first: Finished, engine: Engine, bench: Bench
):
    error = failed(draw(engine, bench, "test/nothing")).error
    assert error.message == (
        "The model 'test/nothing' is not on this machine and could not be downloaded."
    )
    assert "access token" in error.hint


def test_a_download_that_is_cut_off_is_a_sentence_and_goes_on_next_time(
    first: Finished, engine: Engine, hub: Hub, bench: Bench
):
    hub.cut_off = Path(UNET).name
    error = failed(draw(engine, bench, "test/interrupted")).error
    assert "could not be downloaded" in error.message
    hub.cut_off = ""
    assert same(first, draw(engine, bench, "test/interrupted"))


def test_with_the_hub_gone_what_is_here_still_runs_and_what_is_not_is_a_sentence(
    first: Finished, engine: Engine, hub: Hub, bench: Bench
):
    hub.requests.clear()
    with hub.gone():
        assert same(first, draw(engine, bench, "test/tiny"))
        error = failed(draw(engine, bench, "test/never-asked-for")).error
    assert error.message == (
        "The model 'test/never-asked-for' is not on this machine and could not be downloaded."
    )
    assert error.hint.startswith("Check the network")
    assert hub.requests == []
    assert same(first, draw(engine, bench, "test/never-asked-for"))
