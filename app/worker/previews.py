"""Learns maps from latents to colours for previews.

For a few families such a map is published (`preview_factors`); for the others it is fitted by least
squares to the latents after a call's last step and the decoded image. The sums over all images are
stored, so the map improves with each. It is used once it explains enough of the variance; until
then, and for latents of unknown layout, the page says that there is no preview.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, Field, FiniteFloat, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from app.errors import first_line
from app.settings import MIB
from app.tasks.media import AudioVideo
from app.worker.guards import optional_work
from app.worker.lru_cache import LruCache
from app.worker.preview_factors import published_factors
from app.worker.steps.step_output import artifacts_of

if TYPE_CHECKING:
    from app.worker.loading.parts import Parts

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

FOLDER = ".previews"
SAMPLES_PER_CHANNEL = 4
"""Minimum number of latent positions per channel."""
EXPLAINED = 0.5
"""Minimum R squared of a map; with less a preview looks like noise."""
MAP_BYTES, MAPS_BYTES = 2 * 1024, MIB
"""Maximum size of a map (of 128 channels), and of all maps in memory."""
DECODERS = ("vae", "movq")
"""Component names of the autoencoder whose latents a pipeline draws."""


class PreviewSource:
    """Previews of one pipeline's latents, and the material to learn a map."""

    def __init__(
        self, preview: LatentPreview | None, decoder: str = "", video_channels: int | None = None
    ) -> None:
        self.decoder = decoder
        """Key of the autoencoder whose map is learnt; empty if none is."""
        self.video_channels = video_channels
        """Channels of a video's latents, whose channel axis is ambiguous."""
        self.latents: torch.Tensor | None = None
        """The call's last latents, while a map is learnt."""
        self._preview = preview
        self._picture_px: tuple[int, int] | None = None

    def begin(self, arguments: Mapping[str, Any]) -> None:
        """Marks the beginning of a call with these arguments."""
        sides = arguments.get("width"), arguments.get("height")
        self.latents = None
        self._picture_px = None
        if all(isinstance(side, int) and side > 0 for side in sides):
            self._picture_px = cast("tuple[int, int]", sides)

    def knows(self, latents: Any) -> bool:
        """Returns whether these latents can be shown."""
        if self.decoder and isinstance(latents, torch.Tensor):
            self.latents = latents
        return bool(self._asked(lambda map_: map_.knows(latents, self._picture_px)))

    def render(self, latents: torch.Tensor) -> tuple[bytes, int, int] | None:
        """Returns JPEG, width and height in pixels of known latents.

        Returns None on an error, which ends previews but not the run.
        """
        return self._asked(lambda map_: map_.render(latents, self._picture_px))

    def _asked(self, question: Callable[[LatentPreview], Answer]) -> Answer | None:
        preview, self._preview = self._preview, None
        if preview is None:
            return None
        with optional_work("There are no more previews of this step"):
            answer = question(preview)
            self._preview = preview
            return answer
        return None


class _Pair(NamedTuple):
    """Latents and the image decoded from them."""

    preview_source: PreviewSource
    latents: torch.Tensor
    """The first of the batch, on the CPU."""
    image: Image.Image


class PreviewMaps:
    """Learnt maps, in memory and on disk, by the key of the autoencoder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.cache: LruCache[LatentPreview | None] = LruCache(MAPS_BYTES)
        """By decoder key; None where no map is good enough yet."""
        self._to_learn: _Pair | None = None

    def preview_source(self, pipeline: Any, parts: Parts) -> PreviewSource:
        """Returns the previews for a pipeline of these parts; never raises an Exception."""
        with optional_work("There are no previews of this run"):
            return self._preview_source(pipeline, parts)
        return PreviewSource(None)

    def _preview_source(self, pipeline: Any, parts: Parts) -> PreviewSource:
        known = find_preview(parts.folder, parts.pipeline_class.__name__)
        decoder = next((part for part in parts.parts if part.name in DECODERS), None)
        if decoder is None:
            return PreviewSource(known)
        config = getattr(pipeline, decoder.name).config
        channels = config.get("latent_channels") or config.get("z_dim")
        # A model may have another autoencoder than the rest of its family.
        if known is not None and channels in (None, known.channels):
            return PreviewSource(known)
        return PreviewSource(self.learnt(decoder.key), decoder.key, channels)

    def learnt(self, decoder: str) -> LatentPreview | None:
        """Returns the map for this autoencoder, if one is good enough."""
        if decoder not in self.cache:
            self._keep(decoder, self._sums(decoder))
        return self.cache.get(decoder)

    def _keep(self, decoder: str, sums: Mapping[str, torch.Tensor]) -> None:
        self.cache.put(decoder, _map_of(sums), MAP_BYTES)

    def note(self, preview_source: PreviewSource, returned: Sequence[Any]) -> None:
        """Stores a call's last latents and image until `learn` is called."""
        if not preview_source.decoder or preview_source.latents is None or not returned:
            return
        with optional_work("Nothing is learnt for previews of this call"):
            image = _first_image(artifacts_of(returned[0]))
            if image is not None:
                latents = preview_source.latents[:1].detach().to("cpu", torch.float32, copy=True)
                self._to_learn = _Pair(preview_source, latents, image)
        preview_source.latents = None

    def learn(self) -> None:
        """Updates the map from the newest image, while the worker is idle; logs a full disk."""
        pair, self._to_learn = self._to_learn, None
        if pair is None:
            return
        found = _as_grid(pair)
        if found is None or not found.isfinite().all():
            # NaN would stay in the sums for ever.
            return
        rows, columns, channels = found.shape
        small = pair.image.convert("RGB").resize((columns, rows), Image.Resampling.BOX)
        colours = torch.from_numpy(np.asarray(small, np.float64) / 127.5 - 1).reshape(-1, 3)
        values = found.reshape(-1, channels).double()
        samples = torch.cat([values, torch.ones(len(values), 1, dtype=torch.float64)], dim=1)
        sums = {
            "samples": samples.T @ samples,
            "products": samples.T @ colours,
            "squares": (colours**2).sum(dim=0),
        }
        before = self._sums(pair.preview_source.decoder)
        if before and before["samples"].shape == sums["samples"].shape:
            sums = {name: before[name] + added for name, added in sums.items()}
        self._keep(pair.preview_source.decoder, sums)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            save_file(sums, self._file(pair.preview_source.decoder))
        except (OSError, SafetensorError) as error:
            log.warning("A preview map could not be saved: %s", error)

    def _file(self, decoder: str) -> Path:
        return self._folder / f"{hashlib.sha256(decoder.encode()).hexdigest()[:24]}.safetensors"

    def _sums(self, decoder: str) -> dict[str, torch.Tensor]:
        """Returns the stored sums over all images; empty if there are none."""
        try:
            sums = load_file(self._file(decoder))
        except FileNotFoundError:
            return {}
        except (OSError, SafetensorError) as error:
            # A truncated file: the map is learnt again.
            log.warning("A preview map cannot be read: %s", error)
            return {}
        return sums if _are_sums(sums) else {}


def _are_sums(sums: Mapping[str, torch.Tensor]) -> bool:
    """Returns whether an untrusted file holds valid sums."""
    if sums.keys() != {"samples", "products", "squares"}:
        return False
    shapes = {name: tuple(tensor.shape) for name, tensor in sums.items()}
    rows = shapes["samples"][0] if shapes["samples"] else 0
    expected = {"samples": (rows, rows), "products": (rows, 3), "squares": (3,)}
    are_numbers = all(t.dtype == torch.float64 and t.isfinite().all() for t in sums.values())
    return rows > 1 and shapes == expected and are_numbers


def _map_of(sums: Mapping[str, torch.Tensor]) -> LatentPreview | None:
    """Returns the least-squares map, if it explains enough of the variance."""
    if not sums:
        return None
    samples, products, squares = (sums[name] for name in ("samples", "products", "squares"))
    channels, count = len(samples) - 1, samples[-1, -1]
    if count < SAMPLES_PER_CHANNEL * channels:
        return None
    weights = torch.linalg.lstsq(samples, products, driver="gelsd").solution
    fitted = 2 * weights * products - weights * (samples @ weights)
    unexplained = (squares - fitted.sum(dim=0)).sum()
    variance = (squares - products[-1] ** 2 / count).sum()
    if not variance > 0 or 1 - unexplained / variance < EXPLAINED:
        return None
    return LatentPreview(weights[:-1].float(), weights[-1].float())


def _as_grid(pair: _Pair) -> torch.Tensor | None:
    """Returns the latents of the image, or of the video's first frame."""
    latents = pair.latents
    channels = {3: latents.shape[-1], 4: latents.shape[1], 5: pair.preview_source.video_channels}
    if (found := channels.get(latents.ndim)) is None:
        return None
    return grid_of(latents, found, pair.image.size, first_frame=True)


def _first_image(artifacts: Sequence[Any]) -> Image.Image | None:
    """Returns the first image, or the first frame of the first video."""
    if not artifacts:
        return None
    first = artifacts[0].frames if isinstance(artifacts[0], AudioVideo) else artifacts[0]
    if isinstance(first, list) and first:
        first = first[0]
    if isinstance(first, np.ndarray) and first.ndim == 4 and len(first):
        first = first[0]
    if isinstance(first, np.ndarray) and first.ndim == 3 and first.shape[2] == 3:
        levels = first if first.dtype == np.uint8 else (first.clip(0, 1) * 255).round()
        return Image.fromarray(levels.astype(np.uint8))
    return first if isinstance(first, Image.Image) else None


# --- maps -----------------------------------------------------------------------------------------

MAX_EDGE_PX = 256
JPEG_QUALITY = 80
MAX_STORED_BYTES = 1_000_000
"""Limit for `preview.json`."""


class LatentPreview:
    """A linear map from one model's latents to RGB of -1 to 1."""

    def __init__(
        self,
        factors: Sequence[Sequence[float]] | torch.Tensor,
        bias: Sequence[float] | torch.Tensor = (0.0, 0.0, 0.0),
    ) -> None:
        self._factors = torch.as_tensor(factors, dtype=torch.float32)
        self._bias = torch.as_tensor(bias, dtype=torch.float32)

    @property
    def channels(self) -> int:
        """The number of channels of the latents."""
        return len(self._factors)

    def knows(self, latents: object, picture_px: tuple[int, int] | None = None) -> bool:
        """Returns whether the map fits these latents, of an image of this width and height."""
        return grid_of(latents, len(self._factors), picture_px) is not None

    @torch.no_grad()
    def render(
        self, latents: torch.Tensor, picture_px: tuple[int, int] | None = None
    ) -> tuple[bytes, int, int]:
        """Returns JPEG, width and height in pixels of the first of the latents."""
        found = grid_of(latents, len(self._factors), picture_px)
        assert found is not None
        grid = found.detach().to("cpu", torch.float32)
        rgb = ((grid @ self._factors + self._bias + 1) * 127.5).clamp(0, 255)
        image = Image.fromarray(rgb.to(torch.uint8).numpy())
        scale = max(1, min(8, MAX_EDGE_PX // max(image.size)))
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=JPEG_QUALITY)
        return buffer.getvalue(), image.width, image.height


def grid_of(
    latents: object,
    channels: int,
    picture_px: tuple[int, int] | None = None,
    *,
    first_frame: bool = False,
) -> torch.Tensor | None:
    """Returns the first of the latents as (rows, columns, channels), on their device.

    Called after every denoising step, so nothing is copied from the device: a copy would wait for
    all pending computation.

    Accepts images (n, channels, rows, columns); videos (n, channels, frames, …) or (n, frames,
    channels, …), of which it takes the middle or first frame; and packed images (n, rows x columns,
    channels) whose token count fits `picture_px` (square by default), where a token may hold 2 x 2
    positions, as in FLUX. Returns None otherwise.
    """
    if not isinstance(latents, torch.Tensor):
        return None
    shape = latents.shape
    one = latents[0] if len(shape) in (3, 4, 5) and shape[0] else None
    if one is None:
        return None
    if len(shape) == 5:
        axis = 1 if shape[1] == channels else 0
        frames = shape[axis + 1]
        one = one.select(axis, 0 if first_frame else frames // 2)
    if one.ndim == 3 and one.shape[0] == channels:
        one = one.permute(1, 2, 0)
    elif one.ndim == 2 and one.shape[1] in (channels, 4 * channels):
        rows = _rows(one.shape[0], picture_px or (1, 1))
        if rows is None:
            return None
        one = one.reshape(rows, -1, one.shape[1])
        if one.shape[2] != channels:
            one = one.reshape(rows, -1, channels, 2, 2).permute(0, 3, 1, 4, 2)
            one = one.flatten(2, 3).flatten(0, 1)
    else:
        return None
    return one


def _rows(tokens: int, picture_px: tuple[int, int]) -> int | None:
    """Returns the row count of a packed image; None if the tokens do not fit its aspect ratio."""
    width, height = picture_px
    rows = round(math.sqrt(tokens * height / width))
    fits = rows > 0 and tokens % rows == 0 and math.isclose(tokens / rows / rows, width / height,
                                                            rel_tol=0.1)  # fmt: skip
    return rows if fits else None


_Colour = tuple[FiniteFloat, FiniteFloat, FiniteFloat]


class _StoredMap(BaseModel):
    """`preview.json` in a model's folder; untrusted."""

    latent_rgb_factors: list[_Colour] = Field(min_length=1, max_length=1024)
    latent_rgb_bias: _Colour = (0.0, 0.0, 0.0)


def find_preview(folder: Path, pipeline_class: str) -> LatentPreview | None:
    """Returns the map stored with this model, else that of its family, else None.

    An invalid stored map is only logged.
    """
    stored = folder / "preview.json"
    try:
        if stored.is_file() and stored.stat().st_size <= MAX_STORED_BYTES:
            fit = _StoredMap.model_validate_json(stored.read_bytes())
            return LatentPreview(fit.latent_rgb_factors, fit.latent_rgb_bias)
    except (OSError, ValidationError) as error:
        log.warning("'%s' is not a valid preview map: %s", stored, first_line(error))
    published = published_factors(pipeline_class)
    return None if published is None else LatentPreview(published)
