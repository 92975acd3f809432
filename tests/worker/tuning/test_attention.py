"""Denoiser caches, attention backends and processors apply to one step only."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import NucleusMoEImageTransformer2DModel
from diffusers.models.attention_dispatch import _AttentionBackendRegistry

from app.dialect.plan import PipelineStep
from app.dialect.setting_blocks import TextKvCache
from app.errors import InvalidWorkflow
from app.protocol import Event, RunCancelled, StepProgress
from app.worker.device import Device
from app.worker.loading.load import assemble, find_parts
from app.worker.tuning.caches import using_cache
from app.worker.tuning.loras import HeldLoras
from app.worker.tuning.tune import tuned
from tests.worker.bench import Bench, Document, document, same, step
from tests.worker.tuning.flux import with_flux

CACHES = (
    {"type": "first_block", "threshold": 100.0},
    {"type": "taylorseer", "cache_interval": 3, "max_order": 1},
    {"type": "faster"},
    {"type": "mag", "threshold": 9.0, "retention_ratio": 0.0, "mag_ratios": "FLUX"},
    {"type": "cache_dit", "threshold": 9.0, "first_blocks": 1, "warmup_steps": 2},
)


@pytest.mark.parametrize("cache", CACHES, ids=lambda cache: str(cache["type"]))
def test_denoiser_cache_is_on_for_one_run_only(bench: Bench, flux: Path, cache: dict[str, Any]):
    before = bench.run(bench.write(with_flux(flux), "plain"))
    cached = bench.run(bench.write(with_flux(flux, cache=cache), "cached"))
    after = bench.run(bench.write(with_flux(flux), "plain"))
    again = bench.run(bench.write(with_flux(flux, cache=cache), "cached"))
    assert cached.success.loaded == after.success.loaded == ()
    assert not same(before, cached)
    assert same(before, after)
    assert same(cached, again)
    assert same(cached, Bench(bench.folder).run(with_flux(flux, cache=cache)))


def test_denoiser_cache_changes_the_result_key(bench: Bench, flux: Path):
    plain = bench.run(with_flux(flux), fresh=False)
    cached = bench.run(with_flux(flux, cache=CACHES[0]), fresh=False)
    assert not same(plain, cached)


def test_cancelled_run_leaves_no_denoiser_cache(bench: Bench, flux: Path):
    before, cached = bench.run(with_flux(flux)), bench.run(with_flux(flux, cache=CACHES[0]))

    def cancel_while_denoising(event: Event) -> None:
        if isinstance(event, StepProgress) and event.done == 3:
            bench.cancel(event.run_id)

    bench.when = cancel_while_denoising
    assert isinstance(bench.run(with_flux(flux, cache=CACHES[0])).terminal, RunCancelled)
    bench.when = lambda _event: None
    assert same(before, bench.run(with_flux(flux)))
    assert same(cached, bench.run(with_flux(flux, cache=CACHES[0])))


def test_denoiser_without_cache_is_reported(bench: Bench):
    wanted = step()
    wanted["pipeline"]["configuration"]["cache"] = {"type": "first_block"}
    ended = bench.run(document(wanted)).terminal
    assert ended.type == "run_failed"
    assert ended.error.message == "The denoiser of StableDiffusionPipeline has no cache."


def test_unknown_cache_type_is_reported(bench: Bench, flux: Path):
    with pytest.raises(InvalidWorkflow) as caught:
        bench.plan(with_flux(flux, cache={"type": "sea"}))
    (problem,) = caught.value.problems
    assert problem.place == "steps[0].pipeline.configuration.cache"
    assert problem.message.startswith("There is no 'cache' of type 'sea', only")


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ({"type": "mag"}, "A 'mag' cache needs 'mag_ratios' of its model"),
        ({"type": "mag", "mag_ratios": "wan"}, "There are no ratios 'wan', only flux or a list"),
        (
            {"type": "mag", "calibrate": True, "max_skip_steps": -1},
            "-1 is too small;",
        ),
    ],
)
def test_cache_options_are_checked_while_planning(
    bench: Bench, flux: Path, cache: dict[str, Any], message: str
):
    with pytest.raises(InvalidWorkflow) as caught:
        bench.plan(with_flux(flux, cache=cache))
    (problem,) = caught.value.problems
    assert problem.place.startswith("steps[0].pipeline.configuration.cache")
    assert problem.message.startswith(message)


def test_cache_of_another_denoiser_is_reported(bench: Bench, flux: Path):
    ended = bench.run(with_flux(flux, cache={"type": "text_kv"})).terminal
    assert ended.type == "run_failed"
    assert ended.error.message == (
        "The denoiser of FluxPipeline has no cache of the kind 'text_kv'."
    )


def test_cache_that_skips_calls_computes_fewer_blocks(bench: Bench, flux: Path):
    plain, cached = with_flux(flux), with_flux(flux, cache=CACHES[0])
    bench.run(bench.write(plain, "plain"))
    (denoiser,) = (e.component for e in bench.runner.residency.entries if "transformer" in e.title)
    calls: list[object] = []
    # The module's own call is skipped, under whatever hooks it has.
    norm = denoiser.single_transformer_blocks[0].norm
    handle = norm.register_forward_hook(lambda *_: calls.append(None))
    counts = []
    for wanted in (plain, cached, plain):
        calls.clear()
        bench.run(bench.write(wanted, "cached" if wanted is cached else "plain"))
        counts.append(len(calls))
    handle.remove()
    assert counts[0] == counts[2] == 8
    assert counts[1] < 8


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
def test_text_kv_cache_computes_keys_once():
    torch.manual_seed(0)
    denoiser = NucleusMoEImageTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=8,
        axes_dims_rope=(4, 6, 6),
        moe_enabled=False,
    ).eval()
    text = torch.randn(1, 3, 8)
    calls: list[object] = []
    projection = denoiser.transformer_blocks[0].encoder_proj
    handle = projection.register_forward_hook(lambda *_: calls.append(None))

    def call() -> torch.Tensor:
        with torch.inference_mode():
            return denoiser(
                hidden_states=torch.ones(1, 4, 4),
                img_shapes=[(1, 2, 2)],
                encoder_hidden_states=text,
                encoder_hidden_states_mask=torch.ones(1, 3, dtype=torch.long),
                timestep=torch.tensor([0.5]),
            ).sample

    whole = call()
    calls.clear()
    pipeline = SimpleNamespace(transformer=denoiser)
    with using_cache(pipeline, TextKvCache(type="text_kv")):
        assert torch.equal(call(), whole)
        assert torch.equal(call(), whole)
        assert len(calls) == 1
    call()
    assert len(calls) == 2
    handle.remove()


# --- backends and processors ---------------------------------------------------------------------


def assembled(bench: Bench, wanted: Document) -> tuple[Any, Any]:
    """Returns the document's step and its pipeline over held components."""
    bench.run(wanted)
    planned = bench.plan(wanted).steps[0]
    held = {entry.key: entry.component for entry in bench.runner.residency.entries}
    return planned, assemble(planned, find_parts(planned), held)


def test_attention_backend_is_restored_after_the_step(bench: Bench, flux: Path):
    before = _AttentionBackendRegistry._active_backend
    planned, pipeline = assembled(bench, with_flux(flux, attention_backend="_native_math"))
    with tuned(pipeline, planned, find_parts(planned), Device("cpu"), HeldLoras(0)):
        assert _AttentionBackendRegistry._active_backend.value == "_native_math"
    assert _AttentionBackendRegistry._active_backend == before


def test_attention_backend_does_not_affect_next_run(bench: Bench, flux: Path):
    before = bench.run(bench.write(with_flux(flux), "plain"))
    bench.run(bench.write(with_flux(flux, attention_backend="_native_math"), "math"))
    assert same(before, bench.run(bench.write(with_flux(flux), "plain")))


def test_attention_backend_without_package_is_reported(bench: Bench, flux: Path):
    ended = bench.run(with_flux(flux, attention_backend="_flash_3")).terminal
    assert ended.type == "run_failed"
    assert ended.error.message.startswith("The attention backend '_flash_3' cannot be used here: ")


def test_attention_backend_without_package_is_reported_before_loading(bench: Bench, flux: Path):
    with pytest.raises(InvalidWorkflow) as caught:
        bench.plan(with_flux(flux, attention_backend="sage"))
    (problem,) = caught.value.problems
    assert problem.place == "steps[0].pipeline.configuration.attention_backend"
    assert problem.message == "'sage' needs sageattention, which is not installed."


def test_attention_backend_from_hub_kernels_is_replaced(bench: Bench, flux: Path):
    plan = bench.plan(with_flux(flux, attention_backend="flash_hub"))
    (planned,) = plan.steps
    assert isinstance(planned, PipelineStep)
    assert planned.attention_backend is None
    assert any("'flash_hub' would run code of the model hub" in told for told in plan.warnings)


def processing(name: str) -> Document:
    wanted = step()
    wanted["pipeline"]["configuration"]["unet"] = {"attn_processor_type": name}
    return document(wanted, id="processing")


def test_attention_processors_are_restored_after_the_step(bench: Bench):
    name = "diffusers.models.attention_processor.AttnProcessor"
    planned, pipeline = assembled(bench, processing(name))
    own = dict(pipeline.unet.attn_processors)
    with tuned(pipeline, planned, find_parts(planned), Device("cpu"), HeldLoras(0)):
        kinds = {type(processor).__name__ for processor in pipeline.unet.attn_processors.values()}
        assert kinds == {"AttnProcessor"}
    assert pipeline.unet.attn_processors == own


def test_unknown_attention_processors_are_refused(bench: Bench):
    with pytest.raises(InvalidWorkflow) as caught:
        bench.plan(processing("os.AttnProcessor"))
    (problem,) = caught.value.problems
    assert problem.place == "steps[0].pipeline.configuration.unet.attn_processor_type"
