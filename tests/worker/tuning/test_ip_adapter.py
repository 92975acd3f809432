"""IP-adapters apply to one step only."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from app.errors import InvalidWorkflow
from app.protocol import Event, RunCancelled, StepProgress
from tests.standins import build_flux
from tests.standins.ip_adapter import build_flux_ip_adapter, build_ip_adapter
from tests.worker.bench import SHAPES, Bench, Document, document, pixels, same, step

PLAIN = document(step(), id="plain")
PLACE = "steps[0].pipeline.ip_adapter"


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter for the bundled model. Read-only."""
    folder = tmp_path_factory.mktemp("adapters") / "models"
    build_ip_adapter(Path(SHAPES), folder, "eye.safetensors")
    return folder.parent


@pytest.fixture(autouse=True)
def pictures(bench: Bench) -> None:
    for colour in ("red", "blue"):
        Image.new("RGB", (16, 16), colour).save(bench.folder / f"{colour}.png")


def looking(adapter: Path, picture: str = "red", **block: Any) -> Document:
    """Returns the plain document with an IP-adapter."""
    wanted = {"model_name": str(adapter), "subfolder": "models", "weight_name": "eye.safetensors"}
    image = {"location": f"{picture}.png"}
    drawn = step(blocks={"ip_adapter": {**wanted, **block}}, ip_adapter_image=image)
    return document(drawn, id="looking")


def test_ip_adapter_is_loaded_for_one_run_only(bench: Bench, adapter: Path):
    before = bench.run(bench.write(PLAIN, "plain"))
    with_adapter = bench.run(bench.write(looking(adapter), "looking"))
    assert any(title.startswith("image_encoder") for title in with_adapter.success.loaded)
    after = bench.run(bench.write(PLAIN, "plain"))
    again = bench.run(bench.write(looking(adapter), "looking"))
    assert after.success.loaded == again.success.loaded == ()
    assert not same(before, with_adapter)
    assert same(before, after)
    assert same(with_adapter, again)
    assert same(with_adapter, Bench(bench.folder).run(looking(adapter)))


def test_ip_adapter_restores_the_denoiser(bench: Bench, adapter: Path):
    bench.run(bench.write(PLAIN, "plain"))
    (entry,) = (e for e in bench.runner.residency.entries if e.title.startswith("unet"))
    unet, names = entry.component, set(entry.component.state_dict())
    processors = dict(unet.attn_processors)
    bench.run(bench.write(looking(adapter), "looking"))
    assert unet.attn_processors == processors
    assert set(unet.state_dict()) == names
    assert unet.encoder_hid_proj is None
    assert unet.config.encoder_hid_dim_type is None


def test_ip_adapter_depends_on_scale_and_image(bench: Bench, adapter: Path):
    whole, half, none = (bench.run(looking(adapter, scale=scale)) for scale in (1.0, 0.5, 0.0))
    assert not same(whole, half)
    assert same(none, bench.run(PLAIN))
    assert not same(whole, bench.run(looking(adapter, "blue")))


def test_ip_adapter_changes_the_result_key(bench: Bench, adapter: Path):
    wanted = [PLAIN, looking(adapter), looking(adapter, scale=0.5)]
    once = [bench.run(each, fresh=False) for each in wanted]
    assert len({picture.tobytes() for ran in once for picture in pixels(ran)}) == 3
    for first, each in zip(once, wanted, strict=True):
        assert same(first, bench.run(each, fresh=False))


def test_ip_adapter_is_identified_by_its_weights(bench: Bench, adapter: Path):
    shutil.copytree(adapter, bench.folder / "mine")
    before = bench.run(looking(bench.folder / "mine"), fresh=False)
    file = bench.folder / "mine" / "models" / "eye.safetensors"
    save_file({name: tensor * 2 for name, tensor in load_file(file).items()}, file)
    after = bench.run(looking(bench.folder / "mine"), fresh=False)
    assert not same(before, after)


def test_ip_adapter_with_lora_leaves_no_trace(bench: Bench, adapter: Path):
    before = bench.run(PLAIN)
    both = looking(adapter)
    both["steps"][0]["pipeline"]["loras"] = [{"model_name": str(Path(SHAPES) / "outline")}]
    assert not same(bench.run(looking(adapter)), bench.run(both))
    assert same(before, bench.run(PLAIN))


def test_cancelled_run_leaves_no_ip_adapter(bench: Bench, adapter: Path):
    before = bench.run(PLAIN)

    def cancel_while_denoising(event: Event) -> None:
        if isinstance(event, StepProgress):
            bench.cancel(event.run_id)

    bench.when = cancel_while_denoising
    assert isinstance(bench.run(looking(adapter)).terminal, RunCancelled)
    bench.when = lambda _event: None
    assert same(before, bench.run(PLAIN))


def test_ip_adapter_of_wrong_kind_is_reported(bench: Bench, adapter: Path):
    before = bench.run(PLAIN)
    shutil.copytree(adapter, bench.folder / "mine")
    file = bench.folder / "mine" / "models" / "eye.safetensors"
    weights = load_file(file)
    save_file({n: t for n, t in weights.items() if not n.startswith("ip_adapter.1.")}, file)
    ended = bench.run(looking(bench.folder / "mine")).terminal
    assert ended.type == "run_failed"
    assert ended.error.kind == "LoadError"
    assert ended.error.message.endswith("could not be applied in step 'draw'.")
    assert same(before, bench.run(PLAIN))


def test_ip_adapter_prefers_safetensors_over_pickle(bench: Bench, adapter: Path):
    assert same(bench.run(looking(adapter, weight_name="eye.bin")), bench.run(looking(adapter)))


@pytest.mark.parametrize(
    ("block", "place", "message"),
    [
        ({"weight_name": "eya.bin"}, "weight_name", "has no eya.safetensors."),
        ({"weight_name": "../eye.bin"}, "weight_name", "A plain name ending in .safetensors"),
        ({"image_encoder_folder": "../x"}, "image_encoder_folder", "is not a plain name."),
        ({"weight": 1}, "weight", "is not a known key."),
    ],
)
def test_ip_adapter_mistakes_are_reported_before_loading(
    bench: Bench, adapter: Path, block: dict[str, Any], place: str, message: str
):
    with pytest.raises(InvalidWorkflow) as caught:
        bench.plan(looking(adapter, **block))
    (problem,) = caught.value.problems
    assert problem.place == f"{PLACE}.{place}"
    assert message in problem.message


def test_ip_adapter_requires_an_image(bench: Bench, adapter: Path):
    blind = looking(adapter)
    del blind["steps"][0]["pipeline"]["arguments"]["ip_adapter_image"]
    with pytest.raises(InvalidWorkflow) as caught:
        bench.plan(blind)
    assert [found.place for found in caught.value.problems] == ["steps[0].pipeline.arguments"]


def test_ip_adapter_does_not_affect_next_step(bench: Bench, adapter: Path):
    ran = bench.run(document(*looking(adapter)["steps"], step("second"), id="two"))
    seen, plain = pixels(ran)
    assert np.array_equal(plain, pixels(bench.run(PLAIN))[0])
    assert not np.array_equal(seen, plain)


# --- Flux ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Flux, an adapter for it and the adapter's encoder. Read-only."""
    folder = tmp_path_factory.mktemp("flux")
    build_flux(folder / "model")
    build_flux_ip_adapter(folder / "model", folder / "adapter", folder / "clip", "eye.safetensors")
    return folder


def with_flux(flux: Path, picture: str | None, **block: Any) -> Document:
    wanted = step(model=flux / "model", width=32, height=32)
    wanted["pipeline"]["configuration"] = {"component_type": "FluxPipeline"}
    if picture is not None:
        wanted["pipeline"]["arguments"]["ip_adapter_image"] = {"location": f"{picture}.png"}
        wanted["pipeline"]["ip_adapter"] = {
            "model_name": str(flux / "adapter"),
            "weight_name": "eye.safetensors",
            "image_encoder_pretrained_model_name_or_path": str(flux / "clip"),
            **block,
        }
    return document(wanted, id=f"flux-{picture}")


def test_ip_adapter_works_for_flux_with_another_encoder(bench: Bench, flux: Path):
    before = bench.run(bench.write(with_flux(flux, None), "plain"))
    red = bench.run(bench.write(with_flux(flux, "red"), "red"))
    blue = bench.run(bench.write(with_flux(flux, "blue"), "blue"))
    assert not same(before, red)
    assert not same(red, blue)
    assert same(before, bench.run(bench.write(with_flux(flux, None), "plain")))
    assert same(red, bench.run(bench.write(with_flux(flux, "red"), "red")))
    assert same(red, Bench(bench.folder).run(with_flux(flux, "red")))
    unseen = bench.run(bench.write(with_flux(flux, "red", scale=0.0), "unseen"))
    assert same(before, unseen)


def test_ip_adapter_without_encoder_is_reported_while_planning(bench: Bench, flux: Path):
    wanted = with_flux(flux, "red", image_encoder_pretrained_model_name_or_path="./missing")
    with pytest.raises(InvalidWorkflow) as caught:
        bench.plan(wanted)
    (problem,) = caught.value.problems
    assert problem.place == f"{PLACE}.image_encoder_pretrained_model_name_or_path"
