"""Weights are freed and restored bit-identical."""

from __future__ import annotations

import itertools
import resource
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file

from app.protocol import DropComponents, Loading, PhaseChanged
from app.worker.loading.origins import find_origin, strip_weights
from tests.engines import Finished
from tests.standins import STANDINS
from tests.standins.parts import TEXT_WIDTH
from tests.worker.bench import Bench, document, same, step

KINDS = {
    "sd15": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sdxl-turbo": "StableDiffusionXLPipeline",
    "sd35-medium": "StableDiffusion3Pipeline",
    "flux-dev": "FluxPipeline",
    "flux-schnell": "FluxPipeline",
    "z-image-turbo": "ZImagePipeline",
    "qwen-image": "QwenImagePipeline",
    "wan21-t2v": "WanPipeline",
}
DTYPES = ("float32", "bfloat16")
# Parts of these stay in float32 whatever dtype is requested.
MIXED = [("flux-dev", "float16"), ("wan21-t2v", "float16")]


def drawing(stem: str, dtype: str) -> dict[str, Any]:
    """Returns a document that draws a small image or video with the stand-in in `model`."""
    drawn = step(model="model", width=64, height=64)
    pipeline = drawn["pipeline"]
    pipeline["configuration"]["component_type"] = KINDS[stem]
    pipeline["from_pretrained_arguments"]["torch_dtype"] = f"torch.{dtype}"
    if stem == "wan21-t2v":
        pipeline["arguments"]["num_frames"] = 5
        drawn["result"]["content_type"] = "video/mp4"
    return document(drawn)


def modules(bench: Bench) -> dict[str, torch.nn.Module]:
    """Returns held components with weights, by title."""
    return {
        entry.title: entry.component
        for entry in bench.runner.residency.entries
        if isinstance(entry.component, torch.nn.Module)
    }


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Returns copies of all weights and buffers."""
    held = {**module.state_dict(), **dict(module.named_buffers())}
    return {name: tensor.clone() for name, tensor in held.items()}


def mapped(folder: Path) -> set[Path]:
    """Returns files below this folder that this process has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    paths = {Path(line.split(maxsplit=5)[5]) for line in lines if line.endswith(".safetensors")}
    return {path for path in paths if path.is_relative_to(folder)}


def ties(module: torch.nn.Module) -> set[frozenset[str]]:
    """Returns names that stand for one parameter."""
    names: dict[int, set[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return {frozenset(tied) for tied in names.values() if len(tied) > 1}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert torch.equal(tensor, other[name]), name


def frames(finished: Finished) -> list[np.ndarray]:
    assert finished.success
    (result,) = finished.results
    if result.content_type != "video/mp4":
        with Image.open(result.path) as picture:
            return [np.asarray(picture)]
    with av.open(result.path) as video:
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]


# diffusers' schedulers build tables in a way that numpy 2 has deprecated.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(("stem", "dtype"), [*itertools.product(STANDINS, DTYPES), *MIXED])
def test_freed_weights_reload_bit_identical(stem: str, dtype: str, tmp_path: Path):
    STANDINS[stem](tmp_path / "model")
    bench = Bench(tmp_path)
    first = bench.run(drawing(stem, dtype))
    bench.runner.clean_up()
    before = {title: (state(module), ties(module)) for title, module in modules(bench).items()}
    shells = list(modules(bench).values())
    assert len(shells) == len({path.parent for path in mapped(tmp_path)}) > 1
    bench.free()
    assert mapped(tmp_path) == set()
    assert all(tensor.is_meta for shell in shells for tensor in shell.state_dict().values())

    again = bench.run(drawing(stem, dtype))
    assert again.success.loaded
    assert all(np.array_equal(*pair) for pair in zip(frames(first), frames(again), strict=True))
    assert list(modules(bench).values()) == shells, "a module was constructed again"
    for title, module in modules(bench).items():
        assert_equal(state(module), before[title][0])
        assert ties(module) == before[title][1]


# --- what is kept, and what is not ----------------------------------------------------------------


NO_CHECKER = {"safety_checker": None}


def plain(**loading: Any) -> dict[str, Any]:
    return document(step(model="model", loading={**NO_CHECKER, **loading}))


def component(bench: Bench, name: str) -> Any:
    (entry,) = [e for e in bench.runner.residency.entries if e.title.startswith(f"{name} of ")]
    return entry.component


def test_reload_is_reported_as_a_load(bench: Bench, model: Path):
    first = bench.run(plain())
    bench.free()
    again = bench.run(plain())
    assert again.success.loaded == first.success.loaded
    told = [e.component for e in first.events if isinstance(e, Loading)]
    assert [e.component for e in again.events if isinstance(e, Loading)] == told
    assert same(first, again)


def test_dropped_component_reloads_into_its_shell(bench: Bench, model: Path):
    first = bench.run(plain())
    unet = component(bench, "unet")
    (key,) = [e.key for e in bench.runner.residency.entries if e.component is unet]
    bench.runner.drop(DropComponents(keys=(key,), reason="somebody asked for it"))
    assert {path.parent.name for path in mapped(model)} == {"vae", "text_encoder"}
    again = bench.run(plain())
    assert component(bench, "unet") is unet
    assert same(first, again)


def test_tokenizers_stay_when_memory_is_freed(bench: Bench, model: Path):
    bench.run(plain())
    tokenizer = component(bench, "tokenizer")
    bench.free()
    bench.run(plain())
    assert component(bench, "tokenizer") is tokenizer


def test_changed_files_do_not_reload_into_the_old_shell(bench: Bench, model: Path):
    first = bench.run(plain())
    unet = component(bench, "unet")
    bench.free()
    path = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights = {name: tensor * 0.5 for name, tensor in load_file(path).items()}
    path.unlink()
    save_file(weights, path, {"format": "pt"})
    again = bench.run(plain())
    assert component(bench, "unet") is not unet
    assert not same(first, again)


def test_changed_module_is_not_kept_as_shell(bench: Bench, model: Path):
    first = bench.run(plain())
    unet = component(bench, "unet")
    unet.conv_in.register_parameter("adapter", torch.nn.Parameter(torch.zeros(3)))
    bench.free()
    assert same(first, bench.run(plain()))
    assert component(bench, "unet") is not unet


def test_recast_module_reloads_in_its_own_dtype(bench: Bench, model: Path):
    first = bench.run(plain())
    component(bench, "vae").to(torch.bfloat16)
    bench.free()
    assert same(first, bench.run(plain()))


def test_weights_in_no_file_stay_in_the_shell(bench: Bench, model: Path):
    bench.run(plain())
    module = component(bench, "unet")
    own = torch.nn.Parameter(module.conv_in.bias.detach().clone())
    module.conv_in.bias = own
    origin = find_origin(module, (model / "unet").glob("*.safetensors"))
    assert origin.private_bytes == own.nbytes
    strip_weights(module, origin)
    held = [name for name, tensor in module.state_dict().items() if not tensor.is_meta]
    assert held == ["conv_in.bias"]
    assert torch.equal(module.conv_in.bias, own)


def test_shell_files_are_known_by_identity(bench: Bench, model: Path):
    """As in the hub's cache: names are links to files named by a hash."""
    blobs = model / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(model.rglob("*.safetensors"))):
        path.rename(blobs / f"{number:064x}")
        path.symlink_to(blobs / f"{number:064x}")
    bench.run(plain())
    for entry in bench.runner.residency.entries:
        assert entry.file_backed_bytes == entry.weight_bytes


def test_cancelled_video_leaves_no_frames_in_the_shell(tmp_path: Path):
    STANDINS["wan21-t2v"](tmp_path / "model")
    bench = Bench(tmp_path)
    film = drawing("wan21-t2v", "float32")
    assert bench.run(film).success
    vae = component(bench, "vae")
    second_run = "20260101-000000-000001"
    hook = vae.decoder.conv_out.register_forward_pre_hook(lambda *_: bench.cancel(second_run))
    assert bench.run(film).terminal.type == "run_cancelled"
    hook.remove()
    lists = [value for value in vars(vae).values() if isinstance(value, list)]
    assert not any(isinstance(item, torch.Tensor) for held in lists for item in held)


# --- nothing is loaded ----------------------------------------------------------------------------


def test_warm_run_reads_no_weights(bench: Bench, model: Path):
    """Measured until the denoiser is called, since computation is no part of loading."""
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(128, 384),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=8,
    )
    unet.save_pretrained(model / "unet")
    run = bench.write(document(step(model="model", loading=NO_CHECKER, width=64, height=64)))
    bench.run(run)
    bench.run(run)
    weights_bytes = sum(entry.weight_bytes for entry in bench.runner.residency.entries)
    assert weights_bytes > 100_000_000
    addresses = [p.data_ptr() for m in modules(bench).values() for p in m.parameters()]
    faulted: list[int] = []

    def note(event: Any) -> None:
        if isinstance(event, PhaseChanged) and event.phase == "denoising":
            faulted.append(faulted_bytes())

    bench.when = note
    faulted_before, read_before = faulted_bytes(), read_bytes()
    warm = bench.run(run)
    assert read_bytes() - read_before < 1_000_000
    assert faulted[0] - faulted_before < 0.02 * weights_bytes
    assert not any(isinstance(event, Loading) for event in warm.events)
    assert [p.data_ptr() for m in modules(bench).values() for p in m.parameters()] == addresses


def faulted_bytes() -> int:
    """Returns the memory this process has touched for the first time since it began."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt * resource.getpagesize()


def read_bytes() -> int:
    """Returns the bytes this process has read since it began."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])
