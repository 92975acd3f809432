"""Component settings apply to one step only."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, StableDiffusionPipeline, UNetSpatioTemporalConditionModel
from diffusers.models.attention_dispatch import _AttentionBackendRegistry

from app.dialect.plan import PipelineStep
from app.dialect.plan_settings import Tuning
from app.errors import LoadError
from app.worker.device import Device
from app.worker.loading.load import assemble, find_parts
from app.worker.tuning.component_tuning import using_component_settings
from app.worker.tuning.loras import HeldLoras
from app.worker.tuning.tune import tuned
from tests.doubles.accelerator import Accelerator
from tests.standins import build_flux
from tests.worker.bench import Bench, Document, document, pixels, same, step

PLAIN = document(step(), id="plain")


@pytest.fixture(scope="session")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Flux of random weights. Read-only."""
    folder = tmp_path_factory.mktemp("models") / "flux"
    build_flux(folder)
    return folder


def configured(**configuration: Any) -> Document:
    wanted = step()
    wanted["pipeline"]["configuration"].update(configuration)
    return document(wanted, id="configured")


def with_flux(flux: Path, **configuration: Any) -> Document:
    wanted = step(model=flux, width=16, height=16)
    wanted["pipeline"]["configuration"] = {"component_type": "FluxPipeline", **configuration}
    return document(wanted, id="flux")


def assembled(bench: Bench, wanted: Document) -> tuple[PipelineStep, Any]:
    """Returns the document's step and its pipeline over held components."""
    assert bench.run(wanted).success
    (planned,) = bench.plan(wanted).steps
    assert isinstance(planned, PipelineStep)
    held = {entry.key: entry.component for entry in bench.runner.residency.entries}
    return planned, assemble(planned, find_parts(planned), held)


def tuned_step(bench: Bench, **tunings: Tuning) -> PipelineStep:
    (planned,) = bench.plan(PLAIN).steps
    assert isinstance(planned, PipelineStep)
    return planned.model_copy(update={"tunings": tunings})


def test_attention_slicing_changes_no_pixel_and_leaves_no_trace(bench: Bench):
    before = pixels(bench.run(PLAIN))[0]
    wanted = configured(enable_attention_slicing=True)
    planned, pipeline = assembled(bench, wanted)
    own = dict(pipeline.unet.attn_processors)
    with tuned(pipeline, planned, find_parts(planned), Device("cpu"), HeldLoras(0)):
        kinds = {type(processor).__name__ for processor in pipeline.unet.attn_processors.values()}
        assert kinds == {"SlicedAttnProcessor"}
    assert pipeline.unet.attn_processors == own
    sliced = pixels(bench.run(wanted))[0]
    np.testing.assert_allclose(before.astype(int), sliced.astype(int), atol=1)
    assert np.array_equal(before, pixels(bench.run(PLAIN))[0])


def test_attention_processors_of_transformer_are_restored(bench: Bench, flux: Path):
    name = "diffusers.models.transformers.transformer_flux.FluxAttnProcessor"
    planned, pipeline = assembled(bench, with_flux(flux, transformer={"attn_processor_type": name}))
    own = pipeline.transformer.attn_processors
    with tuned(pipeline, planned, find_parts(planned), Device("cpu"), HeldLoras(0)):
        inside = pipeline.transformer.attn_processors
        assert {type(each).__name__ for each in inside.values()} == {"FluxAttnProcessor"}
        assert not set(map(id, inside.values())) & set(map(id, own.values()))
    assert pipeline.transformer.attn_processors == own


def test_component_attention_backend_affects_that_component_only(bench: Bench, flux: Path):
    before = _AttentionBackendRegistry._active_backend
    components = {"transformer": {"attention_backend": "_native_math"}}
    planned, pipeline = assembled(bench, with_flux(flux, components=components))

    def backends() -> set[Any]:
        return {each._attention_backend for each in pipeline.transformer.attn_processors.values()}

    own = backends()
    with tuned(pipeline, planned, find_parts(planned), Device("cpu"), HeldLoras(0)):
        assert {backend.value for backend in backends()} == {"_native_math"}
        assert _AttentionBackendRegistry._active_backend == before
    assert backends() == own == {None}


def test_component_attention_backend_without_package_is_reported(bench: Bench, flux: Path):
    components = {"transformer": {"attention_backend": "_flash_3"}}
    ended = bench.run(with_flux(flux, components=components)).terminal
    assert ended.type == "run_failed"
    assert ended.error.message.startswith("The attention backend '_flash_3' cannot be used here: ")


def test_forward_chunking_changes_nothing_and_is_undone(bench: Bench):
    torch.manual_seed(0)
    unet = UNetSpatioTemporalConditionModel(
        sample_size=8,
        block_out_channels=(32, 32),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        layers_per_block=1,
        num_attention_heads=2,
        cross_attention_dim=8,
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=12,
    ).eval()
    blocks = [module for module in unet.modules() if hasattr(module, "set_chunk_feed_forward")]
    own = [(block._chunk_size, block._chunk_dim) for block in blocks]
    assert own

    def call() -> torch.Tensor:
        latents, seen, ids = torch.ones(1, 2, 8, 8, 8), torch.ones(1, 1, 8), torch.ones(1, 3)
        with torch.inference_mode():
            return unet(latents, 1, seen, ids).sample

    whole = call()
    pipeline = SimpleNamespace(unet=unet)
    with using_component_settings(pipeline, tuned_step(bench, unet=Tuning(forward_chunking=True))):
        assert {block._chunk_size for block in blocks} == {1}
        torch.testing.assert_close(call(), whole)
    assert [(block._chunk_size, block._chunk_dim) for block in blocks] == own


def test_denoiser_without_forward_chunking_is_reported(bench: Bench):
    ended = bench.run(configured(unet={"enable_forward_chunking": True})).terminal
    assert ended.type == "run_failed"
    assert ended.error.message == "A UNet2DConditionModel has no forward chunking."
    assert ended.error.hint == ("Remove what asks for it from steps[0].pipeline.configuration.")


def test_tile_sizes_apply_to_the_step(bench: Bench):
    vae = AutoencoderKLWan(base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval()
    own = {name: value for name, value in vars(vae).items() if "tile" in name or "tiling" in name}
    tuning = Tuning(tiling={"tile_sample_min_height": 64})
    with using_component_settings(SimpleNamespace(vae=vae), tuned_step(bench, vae=tuning)):
        assert (vae.use_tiling, vae.tile_sample_min_height) == (True, 64)
    after = {name: value for name, value in vars(vae).items() if name in own}
    assert after == own
    assert vae.use_tiling is False


def test_unknown_module_of_component_is_reported(bench: Bench):
    tuning = Tuning(attention_backend="native")
    pipeline = SimpleNamespace(unet=torch.nn.Sequential(torch.nn.Linear(1, 1)))
    wanted = tuned_step(bench).model_copy(update={"tunings": {"unet.down": tuning}})
    with pytest.raises(LoadError, match=r"The unet has no module 'down'\."):
        using_component_settings(pipeline, wanted).__enter__()


def test_component_settings_change_the_result_key(bench: Bench):
    plain = bench.run(PLAIN, fresh=False)
    sliced = bench.run(configured(enable_attention_slicing=True), fresh=False)
    assert sliced.success.made_at is None
    assert plain.success.made_at is None


# --- places --------------------------------------------------------------------------------------


def test_sequential_offload_exclusions_affect_one_pipeline_only(bench: Bench):
    own = list(StableDiffusionPipeline._exclude_from_cpu_offload)
    planned, pipeline = assembled(
        bench, configured(offload="sequential", exclude_from_cpu_offload=["vae"])
    )
    sequential = planned.model_copy(update={"offload": "sequential"})
    with tuned(pipeline, sequential, find_parts(planned), Device("cpu"), HeldLoras(0)):
        assert not hasattr(pipeline.vae.decoder.conv_in, "_hf_hook")
        assert hasattr(pipeline.unet.conv_in, "_hf_hook")
        assert StableDiffusionPipeline._exclude_from_cpu_offload == own
    assert not hasattr(pipeline.unet.conv_in, "_hf_hook")


def test_sequential_offload_exclusions_are_file_backed_afterwards(tmp_path: Path):
    device = Accelerator()
    bench = Bench(tmp_path, device)
    bench.run(PLAIN)
    (planned,) = bench.plan(PLAIN).steps
    assert isinstance(planned, PipelineStep)
    left = planned.model_copy(update={"offload": "sequential", "never_offloaded": ("vae",)})
    device.moves.clear()
    bench.runner.placement.restore(left, find_parts(left))
    assert device.moves == [("AutoencoderKL", "ram")]


def test_component_places_in_document_do_not_change_result(bench: Bench):
    groups = {"offload_type": "leaf_level", "use_stream": True}
    placed = configured(
        device="cuda",
        components={
            "unet": {"group_offload": groups},
            "vae": {"device": "cuda", "residency": "on_demand"},
        },
    )
    assert same(bench.run(PLAIN), bench.run(placed))
