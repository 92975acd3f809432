"""Compares the estimates of `app/models/activations.py` with the memory runs really use.

    python -m benchmarks.peak [--smallest]

Prints two tables. In the first the bundled model runs, in a process for each size, and the growth
of its peak resident set is compared. In the second, networks of published sizes are built on
torch's `meta` device, and the bytes of tensors alive at once are counted.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from app.dialect.plan_settings import DType
from app.models.activations import Size, decode_bytes, denoise_bytes
from app.models.fit import Mode, Need, working_bytes
from app.units import size as in_words
from benchmarks.options import options_parser

SHAPES = Path(__file__).resolve().parents[1] / "models" / "shapes"
RUN = """
import json, resource, sys
import psutil, torch
from diffusers import StableDiffusionPipeline

folder, side, pictures, tiling = json.loads(sys.argv[1])
torch.set_grad_enabled(False)
pipe = StableDiffusionPipeline.from_pretrained(folder)
pipe.set_progress_bar_config(disable=True)
if tiling:
    pipe.vae.enable_tiling()
ask = dict(num_inference_steps=1, guidance_scale=2.5, output_type="np")
pipe("a red circle", height=64, width=64, **ask)
for weights in pipe.components.values():
    if isinstance(weights, torch.nn.Module):
        sum(float(tensor.float().sum()) for tensor in weights.parameters())
before = psutil.Process().memory_info().rss
made = pipe("a red circle", height=side, width=side, num_images_per_prompt=pictures, **ask)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)
"""


class Compared(NamedTuple):
    """One measurement beside its estimate."""

    what: str
    estimated_bytes: int
    measured_bytes: int

    @property
    def ratio(self) -> float:
        """Estimate / measurement."""
        return self.estimated_bytes / self.measured_bytes


def main(arguments: Sequence[str] | None = None) -> None:
    smallest = options_parser(__doc__).parse_args(arguments).smallest
    first = 1 if smallest else None
    for title, rows in (("measured on this CPU", really()), ("counted", counted())):
        print(f"{title:>46}   {'estimate':>9} {'found':>9}   ratio")
        for row in itertools.islice(rows, first):
            print(
                f"{row.what:>46}   {in_words(row.estimated_bytes):>9}"
                f" {in_words(row.measured_bytes):>9}   {row.ratio:.2f}"
            )


# --- measured ------------------------------------------------------------------------------------


def really() -> Iterator[Compared]:
    """Runs the bundled model in several sizes, each in its own process."""
    for side_px, pictures, tiling in (
        (256, 1, 0),
        (512, 1, 0),
        (512, 4, 0),
        (1024, 1, 0),
        (1024, 1, 1),
    ):
        yield run_shapes(side_px, pictures, tiling=bool(tiling))


def run_shapes(side_px: int, pictures: int, *, tiling: bool = False) -> Compared:
    """Runs the bundled model with so many images of this size at once."""
    arguments = json.dumps([str(SHAPES), side_px, pictures, tiling])
    ran = subprocess.run(
        [sys.executable, "-c", RUN, arguments], capture_output=True, text=True, check=True
    )
    unet, vae = (
        json.loads((SHAPES / part / "config.json").read_text()) for part in ("unet", "vae")
    )
    asked = Size(side_px, side_px, batch=pictures, guided=True)
    decoding = decode_bytes(vae, asked, "float32")
    denoising = denoise_bytes(unet, vae, asked, "float32")
    assert decoding is not None
    assert denoising is not None
    need = Need("", (), denoise_bytes=denoising, decode=decoding)
    estimate = working_bytes(Mode(vae_tiling=tiling), need, on_cpu=True)
    what = f"shapes, {pictures} of {side_px} px" + ", tiled" * tiling
    return Compared(what, estimate, int(ran.stdout.split()[-1]))


# --- counted -------------------------------------------------------------------------------------

KL = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8}
SDXL = {
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": [5, 10, 20],
    "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
}
"""Without the size embeddings beside the prompt, which need hardly any memory."""
FLUX = {"num_layers": 2, "num_single_layers": 2, "guidance_embeds": True}
"""Two blocks of each kind need as much memory at once as all of them."""
WAN = {"num_layers": 2, "num_attention_heads": 12, "ffn_dim": 8960}


def counted() -> Iterator[Compared]:
    """Counts the memory of networks of published sizes."""
    import diffusers
    import torch

    half, full = torch.float16, torch.bfloat16
    vae = _built(diffusers.AutoencoderKL, KL, half)
    for side_px in (512, 1024):
        yield _decoded("decoder of SD and SDXL", vae, Size(side_px, side_px), 4)
    vae.enable_tiling()
    yield _decoded("the same in tiles", vae, Size(2048, 2048), 4, tiling=True)
    wan_vae = _built(diffusers.AutoencoderKLWan, {}, full)
    for frames in (1, 5, 17):
        yield _decoded("decoder of Wan", wan_vae, Size(832, 480, frames=frames), 16)

    for name, config, width in (("SD 1.5", SD15, 768), ("SDXL", SDXL, 2048)):
        unet = _built(diffusers.UNet2DConditionModel, config, half)
        for side_px in (512, 1024):
            asked = Size(side_px, side_px, guided=True)
            latents, text = (
                _empty(half, 2, 4, side_px // 8, side_px // 8),
                _empty(half, 2, 77, width),
            )
            yield _denoised(
                f"denoiser of {name}", unet, vae, asked,
                partial(unet, latents, _empty(half), text),
            )  # fmt: skip

    flux, flux_vae = (
        _built(diffusers.FluxTransformer2DModel, FLUX, full),
        {**KL, "latent_channels": 16},
    )
    for side_px in (512, 1024):
        tokens = (side_px // 16) ** 2
        yield _denoised(
            "denoiser of FLUX.1", flux, flux_vae, Size(side_px, side_px),
            partial(
                flux,
                hidden_states=_empty(full, 1, tokens, 64),
                encoder_hidden_states=_empty(full, 1, 512, 4096),
                pooled_projections=_empty(full, 1, 768),
                timestep=_empty(full, 1),
                guidance=_empty(full, 1),
                img_ids=_empty(full, tokens, 3),
                txt_ids=_empty(full, 512, 3),
            ),
        )  # fmt: skip
    wan = _built(diffusers.WanTransformer3DModel, WAN, full)
    yield _denoised(
        "denoiser of Wan 1.3B, 81 frames", wan, wan_vae, Size(832, 480, frames=81),
        lambda: wan(
            hidden_states=_empty(full, 1, 16, 21, 60, 104),
            timestep=torch.empty(1, device="meta", dtype=torch.long),
            encoder_hidden_states=_empty(full, 1, 512, 4096),
        ),
    )  # fmt: skip


def _decoded(what: str, vae: Any, asked: Size, channels: int, *, tiling: bool = False) -> Compared:
    latent_frames = (1 + (asked.frames - 1) // 4,) if channels == 16 else ()
    latents = _empty(
        vae.dtype, 1, channels, *latent_frames, asked.height_px // 8, asked.width_px // 8
    )
    found = counted_bytes(lambda: vae.decode(latents, return_dict=False), vae)
    decoding = decode_bytes(_plain(vae.config), asked, _name(vae.dtype))
    assert decoding is not None
    return Compared(
        f"{what}, {_words(asked)}", decoding.needed(slicing=False, tiling=tiling), found
    )


def _denoised(what: str, model: Any, vae: Any, asked: Size, call: Callable[[], Any]) -> Compared:
    found = counted_bytes(call, model)
    autoencoder = vae if isinstance(vae, dict) else _plain(vae.config)
    denoising = denoise_bytes(_plain(model.config), autoencoder, asked, _name(model.dtype))
    assert denoising is not None
    return Compared(f"{what}, {_words(asked)}", denoising, found)


def counted_bytes(call: Callable[[], Any], model: Any) -> int:
    """Returns the peak bytes of tensors alive during this call, without the model's own."""
    import torch
    import torch.nn.functional as functional
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Attention(TorchFunctionMode):
        """Attention without its score matrix; the `meta` device has no such kernel."""

        def __torch_function__(
            self, function: Any, _types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if function is functional.scaled_dot_product_attention:
                named = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
                query, value = named["query"], named["value"]
                return query.new_empty(*query.shape[:-1], value.shape[-1])
            return function(*args, **(kwargs or {}))

    class Living(TorchDispatchMode):  # type: ignore[no-untyped-call]
        """Counts storages from their creation to their release."""

        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            tensors = (*model.parameters(), *model.buffers())
            self.bytes_of = {tensor.untyped_storage()._cdata: 0 for tensor in tensors}
            self.now: int = 0
            self.most: int = 0

        def __torch_dispatch__(
            self, function: Any, _types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            made = function(*args, **(kwargs or {}))
            for tensor in tree_leaves(made):
                if isinstance(tensor, torch.Tensor):
                    self._note(tensor.untyped_storage())
            return made

        def _note(self, storage: Any) -> None:
            key = storage._cdata
            if key not in self.bytes_of:
                self.bytes_of[key] = storage.nbytes()
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._forget, key)

        def _forget(self, key: int) -> None:
            self.now -= self.bytes_of.pop(key)

    with torch.inference_mode(), Attention(), Living() as living:
        call()
    most: int = living.most
    return most


def _built(kind: Any, config: dict[str, Any], dtype: Any) -> Any:
    import torch

    with torch.device("meta"):
        return kind(**config).to(dtype).eval()


def _empty(dtype: Any, *shape: int) -> Any:
    import torch

    return torch.empty(shape, dtype=dtype, device="meta")


def _plain(config: Any) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(dict(config)))
    return plain


def _name(dtype: Any) -> DType:
    names: dict[str, DType] = {
        "torch.float16": "float16", "torch.bfloat16": "bfloat16", "torch.float32": "float32",
    }  # fmt: skip
    return names[str(dtype)]


def _words(asked: Size) -> str:
    frames = f"x{asked.frames}" if asked.frames > 1 else ""
    return f"{asked.width_px}x{asked.height_px}{frames}"


if __name__ == "__main__":
    main()
