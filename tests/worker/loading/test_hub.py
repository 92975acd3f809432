"""Hub models: only needed files are fetched, once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from app.engine import Engine
from app.protocol import Downloading, RunCancelled, RunFailed, RunStarted
from tests.engines import Finished, run
from tests.hub import Hub
from tests.standins.flux import build_flux
from tests.standins.language import build_language_model
from tests.worker.bench import SHAPES, Bench, document, same, step

UNET = "unet/diffusion_pytorch_model.safetensors"
NO_CHECKER = {"safety_checker": None}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[Hub]:
    """A hub with `test/tiny`, laid out as published repositories, and some broken ones."""
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
    for name in ("interrupted", "cancelled", "damaged", "gated", "huge", "never-asked-for",
                 "signed", "busy", "parts", "failing"):  # fmt: skip
        shutil.copytree(tiny, folder / "test" / name)
    build_flux(folder / "test" / "flux")
    build_language_model(folder / "test" / "writer")
    (folder / "test" / "writer" / "pytorch_model.bin").write_bytes(b"a pickle")
    loras = folder / "test" / "loras"
    shutil.copytree(Path(SHAPES) / "outline", loras)
    lora = next(loras.iterdir()).rename(loras / "outline.safetensors")
    shutil.copy(lora, loras / "another.safetensors")
    served = Hub(folder)
    yield served
    served.close()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A bench only to write documents."""
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
    """The first run, on a model that has to be fetched."""
    return draw(engine, Bench(tmp_path_factory.mktemp("first")), "test/tiny")


def test_hub_model_draws_same_as_local_folder(
    first: Finished, engine: Engine, bench: Bench, tiny: Path
):
    assert any(title == "unet of test/tiny (float32)" for title in first.success.loaded)
    assert same(first, draw(engine, bench, str(tiny)))


def test_hub_fetches_only_needed_files(first: Finished, hub: Hub):
    fetched = {path for path in hub.fetched if not path.endswith((".json", ".txt"))}
    assert fetched == {
        UNET,
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    }


def test_hub_is_not_asked_again_for_cached_model(
    first: Finished, engine: Engine, hub: Hub, bench: Bench
):
    asked = len(hub.requests)
    assert same(first, draw(engine, bench, "test/tiny"))
    engine.free()
    again = draw(engine, bench, "test/tiny")
    assert again.success.loaded
    assert same(first, again)
    assert hub.requests[asked:] == []


def test_hub_fetches_task_model_without_pickles(
    first: Finished, engine: Engine, hub: Hub, bench: Bench
):
    before = len(hub.requests)
    arguments = {"prompt": "a cat", "model_name": "test/writer", "max_new_tokens": 4}
    task = {"command": "text_generation", "arguments": arguments}
    result = {"content_type": "text/plain"}
    path = bench.write(document({"name": "tell", "task": task, "result": result}))
    told = run(engine, path)
    assert "model of test/writer (float32)" in told.success.loaded
    asked = hub.requests[before:]
    assert any(request.endswith("model.safetensors") for request in asked)
    assert not any("pytorch_model" in request for request in asked)
    before = len(hub.requests)
    again = run(engine, path)
    assert again.success.loaded == ()
    assert [result.text for result in again.results] == [result.text for result in told.results]
    assert hub.requests[before:] == []


def test_hub_fetches_variant_weights_if_available(
    first: Finished, engine: Engine, hub: Hub, bench: Bench
):
    hub.requests.clear()
    assert draw(engine, bench, "test/tiny", variant="fp16").success
    assert hub.fetched == {"unet/diffusion_pytorch_model.fp16.safetensors"}


def test_hub_fetches_omitted_files_for_another_workflow(
    first: Finished, engine: Engine, hub: Hub, bench: Bench
):
    hub.requests.clear()
    whole = run(engine, bench.write(document(step(model="test/tiny"))))
    assert any(title.startswith("safety_checker") for title in whole.success.loaded)
    assert hub.fetched == {"safety_checker/model.safetensors"}


def test_hub_fetches_only_the_named_lora_file(
    first: Finished, engine: Engine, hub: Hub, bench: Bench
):
    hub.requests.clear()

    def outlined(model: str, **lora: str) -> Finished:
        wanted = step(blocks={"loras": [{"model_name": model, **lora}]})
        return run(engine, bench.write(document(wanted)))

    fetched = outlined("test/loras", weight_name="outline.safetensors")
    assert hub.fetched == {"outline.safetensors"}
    assert same(fetched, outlined(str(Path(SHAPES) / "outline")))


def test_hub_fetches_single_component_alone(
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


def test_hub_fetches_components_the_worker_reports_missing(engine: Engine, hub: Hub, bench: Bench):
    """Only the blocks of a modular pipeline know which components its workflow loads."""
    hub.requests.clear()
    drawing = {
        "name": "draw",
        "pipeline": {
            "configuration": {"component_type": "ModularPipeline"},
            "from_pretrained_arguments": {"model_name": "test/flux", "workflow": "text2image"},
            "arguments": {"prompt": "a fox", "num_inference_steps": 1, "width": 64, "height": 64},
        },
        "result": {"content_type": "image/png"},
    }
    drawn = run(engine, bench.write(document(drawing)))
    assert drawn.success.loaded
    assert {path for path in hub.fetched if path.endswith(".safetensors")} == {
        "text_encoder/model.safetensors",
        "text_encoder_2/model.safetensors",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    }
    begun = [event for event in drawn.events if isinstance(event, RunStarted)]
    assert len(begun) == 2


def test_missing_hub_repository_is_a_sentence(first: Finished, engine: Engine, bench: Bench):
    error = failed(draw(engine, bench, "test/nothing")).error
    assert error.message == (
        "The model 'test/nothing' is not on this machine and could not be downloaded:"
        " the hub has no such model, or asks for a login (HF_TOKEN)."
    )
    assert "access token" in error.hint


def test_gated_hub_model_says_where_to_accept_licence(
    first: Finished, engine: Engine, hub: Hub, bench: Bench
):
    hub.gated = "test/gated"
    error = failed(draw(engine, bench, "test/gated")).error
    assert "to those only who may use it" in error.message
    assert f"{hub.address}/test/gated" in error.hint
    assert "HF_TOKEN" in error.hint


def test_too_large_download_is_refused_before_fetching(
    first: Finished, engine: Engine, hub: Hub, bench: Bench
):
    hub.claimed_bytes[UNET] = 10**18
    hub.requests.clear()
    error = failed(draw(engine, bench, "test/huge")).error
    assert "it needs 1000000000.0 GB more" in error.message
    assert "HF_HOME" in error.hint
    assert not [path for path in hub.fetched if path.endswith(".safetensors")]
    hub.claimed_bytes.clear()


def test_disk_space_check_counts_parts_of_wanted_files_only(
    first: Finished, engine: Engine, hub: Hub, bench: Bench, home: Path
):
    """A part of another file is as large as what is missing, and none of that is here."""
    blobs = home / "hub" / "models--test--parts" / "blobs"
    blobs.mkdir(parents=True)
    with (blobs / f"{'0' * 64}.incomplete").open("wb") as part:
        part.truncate(10**12)
    hub.claimed_bytes[UNET] = shutil.disk_usage(blobs).free + 10**11
    error = failed(draw(engine, bench, "test/parts")).error
    assert "more on the disk of the hub's cache" in error.message
    hub.claimed_bytes.clear()


def test_signed_address_is_requested_for_every_connection(
    first: Finished, engine: Engine, hub: Hub, bench: Bench
):
    hub.signed = "test/signed"
    assert same(first, draw(engine, bench, "test/signed"))
    assert hub.signatures[UNET] >= 2
    hub.signed = ""


def test_busy_hub_is_retried(first: Finished, engine: Engine, hub: Hub, bench: Bench):
    hub.failing[UNET] = [HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS]
    assert same(first, draw(engine, bench, "test/busy"))
    assert hub.failing[UNET] == []


def test_failing_file_is_reported_while_others_download(
    first: Finished, engine: Engine, hub: Hub, bench: Bench
):
    vae = "vae/diffusion_pytorch_model.safetensors"
    hub.held = vae
    hub.go_on.clear()
    hub.requests.clear()
    hub.failing[UNET] = [HTTPStatus.NOT_FOUND] * 9
    failed(draw(engine, bench, "test/failing"))
    asked = [request for request in hub.requests if request.startswith("GET") and vae in request]
    # A client that waits for the held file retries after a timeout.
    assert len(asked) <= 1
    hub.held = ""
    hub.go_on.set()
    hub.failing.clear()


def test_damaged_download_is_not_kept(first: Finished, engine: Engine, hub: Hub, bench: Bench):
    hub.damaged = UNET
    error = failed(draw(engine, bench, "test/damaged")).error
    assert error.message.endswith("a file of it arrived damaged.")
    hub.damaged = ""
    assert same(first, draw(engine, bench, "test/damaged"))


def test_interrupted_download_is_a_sentence_and_resumes(
    first: Finished, engine: Engine, hub: Hub, bench: Bench
):
    hub.cut_off = UNET
    error = failed(draw(engine, bench, "test/interrupted")).error
    assert "could not be downloaded: the hub does not answer" in error.message
    assert "goes on from there" in error.hint
    hub.cut_off = ""
    assert same(first, draw(engine, bench, "test/interrupted"))
    assert hub.asked_from[UNET] == half_of_the_unet(hub)


def test_download_reports_bytes_cancels_and_resumes(
    first: Finished, engine: Engine, hub: Hub, bench: Bench
):
    hub.held = UNET
    hub.go_on.clear()
    wanted = bench.write(document(step(model="test/cancelled", loading=NO_CHECKER)))
    run_id = engine.submit(wanted, {}, seed=3, fresh=True)
    told: list[Downloading] = []
    for event in engine.events(run_id):
        if isinstance(event, Downloading):
            told.append(event)
            if event.total_bytes - event.done_bytes <= half_of_the_unet(hub) + 1:
                engine.cancel(run_id)
    assert isinstance(event, RunCancelled)
    assert event.notice == ""
    assert {each.model for each in told} == {"test/cancelled"}
    sizes = [
        (hub.folder / "test" / "cancelled" / path).stat().st_size
        for path in hub.fetched
        if path.endswith(".safetensors")
    ]
    assert told[-1].total_bytes == sum(sizes)
    # Its connection is closed in the middle.
    hub.held_breaks_off, hub.held = True, ""
    hub.go_on.set()
    assert same(first, draw(engine, bench, "test/cancelled"))
    assert hub.asked_from[UNET] == half_of_the_unet(hub)
    hub.held_breaks_off = False


def half_of_the_unet(hub: Hub) -> int:
    return (hub.folder / "test" / "tiny" / UNET).stat().st_size // 2


def test_cached_models_run_without_hub_and_others_fail_with_a_sentence(
    first: Finished, engine: Engine, hub: Hub, bench: Bench
):
    hub.requests.clear()
    with hub.gone():
        assert same(first, draw(engine, bench, "test/tiny"))
        error = failed(draw(engine, bench, "test/never-asked-for")).error
    assert error.message == (
        "The model 'test/never-asked-for' is not on this machine and could not be downloaded:"
        " the hub does not answer (ConnectError)."
    )
    assert error.hint.startswith("Check the network")
    assert hub.requests == []
    assert same(first, draw(engine, bench, "test/never-asked-for"))


def test_hub_single_file_is_fetched_alone_and_used(
    engine: Engine, bench: Bench, hub: Hub, first: Finished, tiny: Path
):
    files = hub.folder / "test" / "files"
    files.mkdir(exist_ok=True)
    shutil.copy(tiny / UNET, files / "unet-v1.safetensors")
    shutil.copy(tiny / UNET, files / "another.safetensors")
    (files / "unet-v2.ckpt").write_bytes(b"a pickle")

    def drawing(name: str) -> Path:
        address = f"https://huggingface.co/test/files/blob/main/{name}"
        block = {
            "configuration": {"component_type": "UNet2DConditionModel"},
            "from_pretrained_arguments": {"from_single_file": address},
        }
        blocks = {"unet": block}
        return bench.write(document(step(model="test/tiny", loading=NO_CHECKER, blocks=blocks)))

    drawn = run(engine, drawing("unet-v1.ckpt"))
    assert same(first, drawn)
    assert "another.safetensors" not in hub.fetched
    assert "unet-v1.safetensors" in hub.fetched
    error = failed(run(engine, drawing("unet-v2.ckpt"))).error
    assert "has no file 'unet-v2.safetensors', only 'unet-v2.ckpt', which may hold code" in (
        error.message
    )
    assert "--allow-pickles" in error.hint
