"""Components changed at load time are separate components; the unchanged one stays intact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import T5Config, T5EncoderModel

from app.dialect.plan import PipelineStep
from app.dialect.plan_settings import ComponentChanges, LayerwiseCasting
from app.errors import LoadError
from app.models.needs import weighed_specs
from app.worker.loading.changes import change
from app.worker.loading.load import find_parts
from app.worker.loading.parts import Parts
from app.worker.residency import Entry
from tests.engines import Finished
from tests.standins import build_flux
from tests.worker.bench import SHAPES, Bench, Document, document, same, step

CUT = {"text_encoder": {"truncate_layers": {"encoder.layers": 2}}}
CAST = {"storage_dtype": "torch.float8_e4m3fn", "compute_dtype": "torch.float32"}
compiling = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
"""Deprecation warnings that torch's own compiler triggers."""
PLAIN = document(step(), id="plain")


def configured(**configuration: Any) -> Document:
    wanted = step()
    wanted["pipeline"]["configuration"].update(configuration)
    return document(wanted, id="configured")


def ran(bench: Bench, wanted: Document) -> Finished:
    """Runs the document from a file of its own, since a changed file would drop its components."""
    return bench.run(bench.write(wanted, wanted["id"]))


def parts_of(bench: Bench, wanted: Document) -> tuple[PipelineStep, Parts]:
    (planned,) = bench.plan(wanted).steps
    assert isinstance(planned, PipelineStep)
    return planned, find_parts(planned)


def held(bench: Bench, name: str) -> dict[str, Entry]:
    """Returns the held components of this name, by title."""
    entries = bench.runner.residency.entries
    return {entry.title: entry for entry in entries if entry.title.startswith(f"{name} of")}


# --- cut -----------------------------------------------------------------------------------------


def test_truncated_encoder_layers_return_identical_values():
    torch.manual_seed(0)
    config = T5Config(vocab_size=8, d_model=16, d_kv=4, d_ff=16, num_layers=4, num_heads=2)
    whole = T5EncoderModel(config).eval()
    cut = T5EncoderModel(config).eval()
    cut.load_state_dict(whole.state_dict())
    change(cut, ComponentChanges(kept_layers={"encoder.block": 3}), "t5")
    assert len(cut.encoder.block) == 3
    tokens = torch.tensor([[1, 2, 3, 4]])
    states = [model(tokens, output_hidden_states=True).hidden_states for model in (whole, cut)]
    for before, after in zip(states[0][:3], states[1][:3], strict=True):
        assert torch.equal(before, after)


def test_truncated_encoder_is_a_separate_smaller_component(bench: Bench):
    before = ran(bench, PLAIN)
    cut = ran(bench, configured(components=CUT))
    assert len(cut.success.loaded) == 1
    encoders = held(bench, "text_encoder")
    whole_title, cut_title = (
        "text_encoder of shapes (float32)",
        "text_encoder of shapes (float32, cut)",
    )
    assert set(encoders) == {whole_title, cut_title}
    assert len(encoders[cut_title].component.encoder.layers) == 2
    assert len(encoders[whole_title].component.encoder.layers) == 3
    layer = encoders[whole_title].component.encoder.layers[2]
    layer_bytes = sum(parameter.nbytes for parameter in layer.parameters())
    whole_bytes = encoders[whole_title].weight_bytes
    assert encoders[cut_title].weight_bytes == whole_bytes - layer_bytes
    assert not same(before, cut)
    assert same(before, ran(bench, PLAIN))
    assert same(cut, ran(bench, configured(components=CUT)))


def test_truncated_size_is_estimated_before_loading(bench: Bench):
    planned, parts = parts_of(bench, configured(components=CUT))
    said = {each.name: each.weight_bytes for each in weighed_specs(planned).components}
    ran(bench, configured(components=CUT))
    (encoder,) = held(bench, "text_encoder").values()
    assert said["text_encoder"] == encoder.weight_bytes
    (part,) = (part for part in parts.parts if part.name == "text_encoder")
    assert part.weight_bytes == encoder.weight_bytes


def test_truncated_encoder_reloads_truncated(bench: Bench):
    cut = ran(bench, configured(components=CUT))
    bench.free()
    assert same(cut, ran(bench, configured(components=CUT)))
    (encoder,) = held(bench, "text_encoder").values()
    assert len(encoder.component.encoder.layers) == 2


def test_truncating_to_too_many_layers_warns(bench: Bench, caplog: pytest.LogCaptureFixture):
    every = {"text_encoder": {"truncate_layers": {"encoder.layers": 30}}}
    assert same(ran(bench, configured(components=every)), ran(bench, PLAIN))
    assert "has only 3 layers in 'encoder.layers': all stay" in caplog.text


def test_removed_module_passes_input_through(bench: Bench):
    removed = {"text_encoder.encoder": {"remove_modules": ["layers.1.mlp"]}}
    assert ran(bench, configured(components=removed)).success
    (encoder,) = held(bench, "text_encoder").values()
    assert type(encoder.component.encoder.layers[1].mlp) is torch.nn.Identity
    assert (
        encoder.weight_bytes
        < 0.9 * (Path(SHAPES) / "text_encoder/model.safetensors").stat().st_size
    )


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        (
            {"truncate_layers": {"encoder.layer": 2}},
            "The text_encoder of shapes (float32, cut) has no module 'encoder.layer'.",
            "Did you mean 'encoder.layers'?",
        ),
        (
            {"truncate_layers": {"encoder": 2}},
            "'encoder' of the text_encoder of shapes (float32, cut) is a CLIPEncoder and no list of"
            " layers.",
            "'truncate_layers' needs the path of such a list, as 'encoder.block' of a T5.",
        ),
        (
            {"remove_modules": ["final_layer_nrom"]},
            "The text_encoder of shapes (float32, cut) has no module 'final_layer_nrom'.",
            "Did you mean 'final_layer_norm'?",
        ),
        (
            {"compile": {"repeated_blocks": True}},
            "The text_encoder of shapes (float32, compiled) declares no repeated blocks.",
            "Leave 'repeated_blocks' out to compile all of it.",
        ),
    ],
)
def test_unknown_component_module_is_reported(
    bench: Bench, settings: Document, message: str, hint: str
):
    error = bench.refused(configured(components={"text_encoder": settings}))
    assert (error.message, error.hint) == (message, hint)


# --- precision and layout ------------------------------------------------------------------------


def test_layerwise_casting_quarters_denoiser_and_leaves_no_trace(bench: Bench):
    before = ran(bench, PLAIN)
    cast = ran(bench, configured(enable_layerwise_casting=CAST))
    denoisers = held(bench, "unet")
    stored = denoisers["unet of shapes (float32, stored as float8_e4m3fn)"]
    whole = denoisers["unet of shapes (float32)"]
    assert 0.25 * whole.weight_bytes < stored.weight_bytes < 0.3 * whole.weight_bytes
    assert not same(before, cast)
    assert same(before, ran(bench, PLAIN))
    bench.free()
    assert same(cast, ran(bench, configured(enable_layerwise_casting=CAST)))


def test_layerwise_casting_works_for_transformers_models():
    encoder = T5EncoderModel(
        T5Config(vocab_size=8, d_model=16, d_kv=4, d_ff=16, num_heads=2)
    ).eval()
    casting = LayerwiseCasting(storage_dtype="float8_e4m3fn", compute_dtype="float32")
    change(encoder, ComponentChanges(casting=casting), "t5")
    assert encoder.encoder.block[0].layer[0].SelfAttention.q.weight.dtype == torch.float8_e4m3fn
    assert encoder(torch.tensor([[1, 2]])).last_hidden_state.isfinite().all()


def test_memory_format_is_part_of_the_key(bench: Bench):
    before = ran(bench, PLAIN)
    assert ran(bench, configured(vae={"channels_last": True})).success
    autoencoders = held(bench, "vae")
    last = autoencoders["vae of shapes (float32, channels last)"].component
    plain = autoencoders["vae of shapes (float32)"].component
    weights = [module.decoder.conv_in.weight for module in (last, plain)]
    assert [w.is_contiguous(memory_format=torch.channels_last) for w in weights] == [True, False]
    assert same(before, ran(bench, PLAIN))


def test_component_dtype_applies_to_that_component_only(bench: Bench):
    wanted = configured(vae={"torch_dtype": "torch.bfloat16"})
    pipeline = bench.assembled(wanted)
    assert (pipeline.vae.dtype, pipeline.unet.dtype) == (torch.bfloat16, torch.float32)
    planned, parts = parts_of(bench, wanted)
    said = {each.name: each for each in weighed_specs(planned).components}
    plain = {part.name: part for part in parts_of(bench, PLAIN)[1].parts}
    assert said["vae"].weight_bytes == plain["vae"].weight_bytes / 2
    keys = {part.name: part.key for part in parts.parts}
    assert keys["vae"] != plain["vae"].key
    assert keys["unet"] == plain["unet"].key


# --- compiled ------------------------------------------------------------------------------------


@compiling
def test_compiled_denoiser_is_compiled_once_and_separate(bench: Bench):
    compiled = configured(components={"unet": {"compile": {"fullgraph": True}}})
    torch._dynamo.reset()
    stats = torch._dynamo.utils.counters["stats"]
    stats.clear()
    # Traces and guards as usual, without the minute that torch's own backend takes.
    with torch.compiler.set_stance("default", force_backend="eager"):
        before = ran(bench, PLAIN)
        for wanted in (compiled, compiled, PLAIN, compiled):
            assert same(before, ran(bench, wanted))
    assert stats["unique_graphs"] == 1
    denoisers = held(bench, "unet")
    has_own = {title: "forward" in vars(entry.component) for title, entry in denoisers.items()}
    assert has_own == {
        "unet of shapes (float32)": False,
        "unet of shapes (float32, compiled)": True,
    }


@compiling
def test_repeated_blocks_option_compiles_blocks_only(bench: Bench, tmp_path: Path):
    build_flux(tmp_path / "flux")
    wanted = step(model="flux", width=16, height=16)
    wanted["pipeline"]["configuration"] = {
        "component_type": "FluxPipeline",
        "components": {"transformer": {"compile": {"repeated_blocks": True, "fullgraph": True}}},
    }
    with torch.compiler.set_stance("force_eager"):
        assert bench.run(document(wanted)).success
    (denoiser,) = held(bench, "transformer").values()
    compiled = {
        type(module).__name__
        for module in denoiser.component.modules()
        if module._compiled_call_impl is not None
    }
    assert compiled == {"FluxTransformerBlock", "FluxSingleTransformerBlock"}


# --- what only the model itself tells ------------------------------------------------------------


def test_settings_for_missing_hub_component_are_reported(bench: Bench):
    (planned,) = bench.plan(PLAIN).steps
    changes = {"text_encodr": ComponentChanges(removed=("lm_head",))}
    with pytest.raises(LoadError) as caught:
        find_parts(planned.model_copy(update={"changes": changes}))
    assert "has no component 'text_encodr'" in caught.value.message
    assert caught.value.hint == "Did you mean 'text_encoder'?"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("unet", True, "A UNet2DConditionModel has no tiling."),
        (
            "vae",
            {"tile_size": 64},
            "The tiling of a AutoencoderKL takes no 'tile_size', which"
            " steps[0].pipeline.configuration.components.vae.enable_tiling names.",
        ),
    ],
)
def test_unsupported_tiling_is_reported_before_loading(
    bench: Bench, name: str, arguments: Any, message: str
):
    ended = ran(bench, configured(components={name: {"enable_tiling": arguments}})).terminal
    assert ended.type == "run_failed"
    assert ended.error.message == message
    assert not bench.runner.residency.entries
