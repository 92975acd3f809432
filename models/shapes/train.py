"""Train the bundled model from nothing, on scenes it draws itself.

    python -m models.shapes.train vae --minutes 20
    python -m models.shapes.train denoiser --minutes 90
    python -m models.shapes.train outline --minutes 8
    python -m models.shapes.train export

Each stage writes its checkpoint into `--work` and reads those of the stages before it; what has
none there is taken from the exported model beside this file. `--resume` goes on from the weights
there are, instead of starting anew. `export` writes the ordinary diffusers layout beside this file.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from transformers import CLIPTextConfig, CLIPTextModel

from models.shapes.scenes import (
    COLOURS,
    PLACES,
    SHAPES,
    SIZE_PX,
    Scene,
    Thing,
    draw,
    random_scene,
)
from models.shapes.tokenizer import MAX_TOKENS, build_tokenizer

HERE = Path(__file__).resolve().parent
CROP_PX = 64
LATENT_PX = SIZE_PX // 8
TEXT_WIDTH = 96
POOL_SIZE = 3072
FRESH_PER_STEP = 2
BATCH = 32
CAPTION_DROPOUT = 0.1
"""Share of training captions left empty, so that guidance has something to guide away from."""
TRAINING_PAIR_SHARE = 0.5
"""Two objects are the hardest, so they are drawn more often than they are asked for."""
COMPREHENSION_WEIGHT = 0.1
"""Of the text encoder's own loss beside the denoiser's, which is about 0.05 when training ends."""


def new_vae() -> AutoencoderKL:
    """An untrained autoencoder: 8 times smaller latents with 4 channels, 0.9 M parameters."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE_PX,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def new_unet() -> UNet2DConditionModel:
    """An untrained denoiser, 4.3 M parameters.

    It hears the caption twice: word by word, by attention on its lower level (8x8), and as a
    whole, by scale and shift in every block.
    """
    return UNet2DConditionModel(
        sample_size=LATENT_PX,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        resnet_time_scale_shift="scale_shift",
        # What diffusers calls the head dimension of this class is the number of heads.
        attention_head_dim=(2, 4),
        norm_num_groups=16,
    )


def new_text_encoder() -> CLIPTextModel:
    """An untrained text encoder, 0.4 M parameters."""
    tokenizer = build_tokenizer()
    # Without ids of its own, CLIP's defaults would read every word as the end of the text.
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_scheduler() -> DDIMScheduler:
    """The noise schedule of training and of the exported model.

    Zero terminal signal and trailing steps (Lin et al. 2023, "Common Diffusion Noise Schedules…"),
    or plain black and white backgrounds come out gray.
    """
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,  # unused by trailing steps; diffusers warns about anything else
    )


def to_tensor(pictures: list[np.ndarray]) -> torch.Tensor:
    """Pictures of 0 to 255, (h, w, 3) each, as one tensor (n, 3, h, w) of -1 to 1."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous() / 127.5 - 1


class Clock:
    """How far a training of so many minutes has come, and the learning rate that goes with it."""

    def __init__(self, minutes: float, peak_rate: float, flat_until: float = 0.6) -> None:
        self._started = time.monotonic()
        self._minutes, self._peak_rate, self._flat_until = minutes, peak_rate, flat_until

    @property
    def fraction(self) -> float:
        """0 at the start, 1 when the time is over."""
        return (time.monotonic() - self._started) / 60 / self._minutes

    def set_rate(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Warm up over 100 steps, stay, then fall linearly to nothing."""
        falling = min(1.0, (1 - self.fraction) / (1 - self._flat_until))
        rate = self._peak_rate * min(1.0, (step + 1) / 100) * max(falling, 0.01)
        for group in optimizer.param_groups:
            group["lr"] = rate


class Average:
    """An exponential moving average of a module's weights, younger at the start."""

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.weights = {name: value.clone() for name, value in module.state_dict().items()}
        self._decay, self._updates = decay, 0

    @torch.no_grad()
    def update(self, module: torch.nn.Module) -> None:
        """Move a little towards the module's weights as they are."""
        self._updates += 1
        share = 1 - min(self._decay, self._updates / (self._updates + 20))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, share)


# --- the autoencoder -----------------------------------------------------------------------------


def train_vae(work: Path, minutes: float, resume: bool) -> None:
    """Learn to keep flat colours and sharp edges through 8 times smaller latents."""
    # Channels last is a fifth faster for these convolutions on a CPU.
    rng, vae = random.Random(), new_vae().to(memory_format=torch.channels_last)
    if resume:
        vae.load_state_dict(load_vae(work).state_dict())
    optimizer = torch.optim.AdamW(
        vae.parameters(), betas=(0.9, 0.99), weight_decay=1e-4, fused=True
    )
    average, clock, step = Average(vae, 0.998), Clock(minutes, 1.6e-3), 0
    while clock.fraction < 1:
        clock.set_rate(optimizer, step)
        pictures = to_tensor([crop for _ in range(8) for crop in _crops(rng)])
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(pictures).latent_dist
        error = vae.decode(posterior.sample()).sample - pictures
        edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        kl_per_latent = posterior.kl().mean() / posterior.mean[0].numel()
        loss = error.abs().mean() + error.square().mean() + 0.5 * edges + 1e-5 * kl_per_latent
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        average.update(vae)
        step += 1
        if step % 100 == 0:
            print(f"vae step {step} L1 {error.abs().mean():.4f}", flush=True)
    vae.load_state_dict(average.weights)
    whiten_latents(vae.eval())
    torch.save(vae.state_dict(), work / "vae.pt")


@torch.no_grad()
def whiten_latents(vae: AutoencoderKL) -> None:
    """Make the latent channels of scenes uncorrelated, of zero mean and unit deviation.

    The change is folded into the 1x1 convolutions on both sides of the latents, so pictures stay
    as they are, the denoiser starts from four equal channels, and no scaling factor is needed.
    """
    rng = random.Random(0)
    latents = vae.encode(to_tensor([draw(random_scene(rng)) for _ in range(512)])).latent_dist.mean
    rows = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    mean, (variances, axes) = rows.mean(0), torch.linalg.eigh(rows.T.cov())
    whiten = axes @ torch.diag(variances.rsqrt()) @ axes.T
    colour = axes @ torch.diag(variances.sqrt()) @ axes.T
    before, after, channels = vae.quant_conv, vae.post_quant_conv, len(mean)
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight.copy_((after.weight[:, :, 0, 0] @ colour)[:, :, None, None])
    before.weight[:channels] = (whiten @ before.weight[:channels, :, 0, 0])[:, :, None, None]
    before.bias[:channels] = whiten @ (before.bias[:channels] - mean)
    # The other half predicts log variances of the sampling noise, which is tiny: scale suffices.
    before.bias[channels:] += 2 * whiten.norm(dim=1).log()


def _crops(rng: random.Random) -> Iterator[np.ndarray]:
    """Two crops from one scene, around an object's edge: flat ground teaches little."""
    count = rng.choice((1, 1, 2))
    background = rng.choice(list(COLOURS))
    things = []
    for _ in range(count):
        radius = rng.uniform(16, 46) if count == 1 else rng.uniform(14, 28)
        colour = rng.choice([name for name in COLOURS if name != background])
        x, y = (rng.uniform(0.8 * radius, SIZE_PX - 0.8 * radius) for _ in range(2))
        things.append(Thing(colour, rng.choice(list(SHAPES)), x, y, radius))
    picture = draw(Scene(tuple(things), background, ""))
    for _ in range(2):
        thing = rng.choice(things)
        left, top = (
            int(np.clip(at + rng.uniform(-1, 1) * thing.radius_px - CROP_PX / 2, 0, CROP_PX))
            for at in (thing.x_px, thing.y_px)
        )
        yield picture[top : top + CROP_PX, left : left + CROP_PX]


# --- the denoiser and its text encoder -----------------------------------------------------------


COLOUR_NAMES, SHAPE_NAMES = [*COLOURS, "none"], [*SHAPES, "none"]
OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
PLACE_OF_FIRST = {"above": "top", "below": "bottom", "left of": "left", "right of": "right"}


def facts(scene: Scene) -> list[int]:
    """What a caption says of every place, as class numbers: see `Comprehension.SIZES`."""
    first = PLACE_OF_FIRST[scene.relation] if scene.relation else scene.place or "center"
    at = dict(zip((first, OPPOSITE.get(first, "")), scene.things, strict=False))
    said = [COLOUR_NAMES.index(scene.background)]
    for place in PLACES:
        thing = at.get(place)
        said.append(COLOUR_NAMES.index(thing.colour if thing else "none"))
        said.append(SHAPE_NAMES.index(thing.shape if thing else "none"))
    return said


class Comprehension(torch.nn.Module):
    """Used in training alone: reads off the end of a caption what is where.

    The denoiser's loss hardly notices whether a hexagon or a circle was meant (a few latents at an
    edge), nor which of two things belongs left, so left to it alone the text encoder learns both
    last. Asked directly it learns them in minutes, and the denoiser is told place by place what to
    draw.
    """

    SIZES = (len(COLOUR_NAMES), *(len(COLOUR_NAMES), len(SHAPE_NAMES)) * len(PLACES))
    """Classes of: the background; the colour and the shape at each place, or none."""

    def __init__(self) -> None:
        super().__init__()
        self._end_of_text = build_tokenizer().eos_token_id
        self.read = torch.nn.Linear(TEXT_WIDTH, sum(self.SIZES))

    def forward(self, text: torch.Tensor, tokens: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        """The mean cross entropy of text (n, 32, width) of tokens (n, 32) about facts (n, 11)."""
        ends = (tokens == self._end_of_text).int().argmax(dim=1)
        logits = self.read(text[torch.arange(len(text)), ends].float()).split(self.SIZES, dim=1)
        losses = [
            torch.nn.functional.cross_entropy(of_one, said[:, i]) for i, of_one in enumerate(logits)
        ]
        return torch.stack(losses).mean()


class LatentPool:
    """Encoded scenes with their captions; a few old ones are replaced at every step."""

    def __init__(self, vae: AutoencoderKL, *, outline: bool = False) -> None:
        self._vae, self._outline = vae, outline
        self._rng, self._oldest = random.Random(), 0
        self._tokenizer = build_tokenizer()
        self._latents = torch.empty(POOL_SIZE, 4, LATENT_PX, LATENT_PX)
        self._tokens = torch.empty(POOL_SIZE, MAX_TOKENS, dtype=torch.long)
        self._facts = torch.empty(POOL_SIZE, len(Comprehension.SIZES), dtype=torch.long)
        for _ in range(POOL_SIZE // FRESH_PER_STEP):
            self._refresh(FRESH_PER_STEP)

    def batch(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Latents (32, 4, 16, 16) of unit variance, tokens (32, 32) and facts (32, 11).

        Some captions are empty; they say nothing, so their facts are -100.
        """
        self._refresh(FRESH_PER_STEP)
        chosen = torch.randint(0, POOL_SIZE, (BATCH,))
        tokens, said = self._tokens[chosen].clone(), self._facts[chosen].clone()
        silent = torch.rand(BATCH) < CAPTION_DROPOUT
        tokens[silent], said[silent] = self.tokenize([""]), -100
        return self._latents[chosen], tokens, said

    def tokenize(self, captions: list[str]) -> torch.Tensor:
        """Token ids, (n, 32)."""
        return self._tokenizer(
            captions,
            padding="max_length",
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        ).input_ids

    @torch.no_grad()
    def _refresh(self, count: int) -> None:
        scenes = [random_scene(self._rng, pair_share=TRAINING_PAIR_SHARE) for _ in range(count)]
        pictures = to_tensor([draw(scene, outline=self._outline) for scene in scenes])
        at = [(self._oldest + i) % POOL_SIZE for i in range(count)]
        self._latents[at] = self._vae.encode(pictures).latent_dist.mean
        self._tokens[at] = self.tokenize([scene.caption for scene in scenes])
        self._facts[at] = torch.tensor([facts(scene) for scene in scenes])
        self._oldest = (self._oldest + count) % POOL_SIZE


def noise_times(count: int, last: int) -> torch.Tensor:
    """Times of 0 to `last`, (count,): a quarter spread evenly, the others where shapes are decided.

    Those follow a logit-normal (Esser et al. 2024) around 0.42 of the schedule. One time is taken
    from each of as many equal parts, so that every batch sees all of it.
    """
    spread = (torch.arange(count) + torch.rand(count)) / count
    middle = torch.sigmoid(0.8 * torch.special.ndtri(spread.clamp(1e-4, 1 - 1e-4)) - 0.3)
    even = torch.rand(count) < 0.25
    return (torch.where(even, torch.rand(count), middle) * last).long()


def denoising_loss(
    unet: UNet2DConditionModel, scheduler: DDIMScheduler, latents: torch.Tensor, text: torch.Tensor
) -> torch.Tensor:
    """The mean squared error of the predicted velocity (Salimans and Ho 2022) at random times."""
    noise = torch.randn_like(latents)
    times = noise_times(len(latents), scheduler.config.num_train_timesteps)
    noisy = scheduler.add_noise(latents, noise, times)
    target = scheduler.get_velocity(latents, noise, times)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predicted = unet(noisy, times, text).sample
    return torch.nn.functional.mse_loss(predicted.float(), target)


def train_denoiser(work: Path, minutes: float, resume: bool) -> None:
    """Learn to draw what a caption says, denoiser and text encoder together."""
    vae, scheduler = load_vae(work), new_scheduler()
    model = torch.nn.ModuleDict({"unet": new_unet(), "text_encoder": new_text_encoder()})
    if resume:
        model.load_state_dict(load_denoiser(work).state_dict())
    comprehension = Comprehension()
    # torch's fused attention loses to plain products on 64 positions, backward above all.
    model["unet"].to(memory_format=torch.channels_last).set_attn_processor(AttnProcessor())
    optimizer = torch.optim.AdamW(
        [*model.parameters(), *comprehension.parameters()],
        betas=(0.9, 0.99),
        weight_decay=1e-3,
        fused=True,
    )
    average, pool = Average(model, 0.998), LatentPool(vae)
    clock, step, losses = Clock(minutes, 1e-3, flat_until=0.6), 0, []
    while clock.fraction < 1:
        clock.set_rate(optimizer, step)
        latents, tokens, said = pool.batch()
        text = model["text_encoder"](tokens).last_hidden_state
        understood = comprehension(text, tokens, said)
        drawn = denoising_loss(model["unet"], scheduler, latents, text)
        optimizer.zero_grad()
        (drawn + COMPREHENSION_WEIGHT * understood).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model)
        losses.append((float(drawn.detach()), float(understood.detach())))
        step += 1
        if step % 100 == 0:
            drawn_mean, understood_mean = np.mean(losses[-100:], axis=0)
            print(
                f"denoiser step {step} loss {drawn_mean:.4f} comprehension {understood_mean:.3f}"
                f" {clock.fraction:.1%}",
                flush=True,
            )
        if step % 500 == 0:
            torch.save(average.weights, work / "denoiser.pt")
    torch.save(average.weights, work / "denoiser.pt")


def train_outline(work: Path, minutes: float, resume: bool) -> None:
    """Learn a LoRA of the denoiser that draws the same scenes as outlines."""
    pipe = assemble(work)
    unet = pipe.unet.requires_grad_(False)
    targets = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"]
    unet.add_adapter(
        LoraConfig(r=4, lora_alpha=4, init_lora_weights="gaussian", target_modules=targets)
    )
    trainable = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, betas=(0.9, 0.99))
    pool = LatentPool(pipe.vae, outline=True)
    clock, step, losses = Clock(minutes, 2e-3), 0, []
    while clock.fraction < 1:
        clock.set_rate(optimizer, step)
        latents, tokens, _ = pool.batch()
        with torch.no_grad():
            text = pipe.text_encoder(tokens).last_hidden_state
        loss = denoising_loss(unet, pipe.scheduler, latents, text)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        step += 1
        if step % 50 == 0:
            print(f"outline step {step} loss {np.mean(losses[-50:]):.4f}", flush=True)
    StableDiffusionPipeline.save_lora_weights(
        HERE / "outline",
        unet_lora_layers=get_peft_model_state_dict(unet),
    )


# --- putting it together -------------------------------------------------------------------------


def load_vae(work: Path) -> AutoencoderKL:
    """The trained autoencoder, in evaluation mode."""
    if not (work / "vae.pt").exists():
        return AutoencoderKL.from_pretrained(HERE, subfolder="vae").eval()
    vae = new_vae()
    vae.load_state_dict(torch.load(work / "vae.pt", weights_only=True))
    return vae.eval()


def load_denoiser(work: Path) -> torch.nn.ModuleDict:
    """The trained `unet` and `text_encoder`, in evaluation mode."""
    if not (work / "denoiser.pt").exists():
        unet = UNet2DConditionModel.from_pretrained(HERE, subfolder="unet")
        text_encoder = CLIPTextModel.from_pretrained(HERE, subfolder="text_encoder")
        return torch.nn.ModuleDict({"unet": unet, "text_encoder": text_encoder}).eval()
    model = torch.nn.ModuleDict({"unet": new_unet(), "text_encoder": new_text_encoder()})
    model.load_state_dict(torch.load(work / "denoiser.pt", weights_only=True))
    return model.eval()


def assemble(work: Path) -> StableDiffusionPipeline:
    """The pipeline of the newest weights."""
    model = load_denoiser(work)
    return StableDiffusionPipeline(
        vae=load_vae(work),
        text_encoder=model["text_encoder"],
        tokenizer=build_tokenizer(),
        unet=model["unet"],
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@torch.no_grad()
def fit_preview(vae: AutoencoderKL) -> dict[str, list[list[float]] | list[float]]:
    """The linear map from latents, as the denoising loop holds them, to RGB of -1 to 1."""
    rng = random.Random(0)
    pictures = to_tensor([draw(random_scene(rng)) for _ in range(128)])
    latents = vae.encode(pictures).latent_dist.mean
    small = torch.nn.functional.avg_pool2d(pictures, 8)
    rows = latents.permute(0, 2, 3, 1).reshape(-1, 4)
    rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
    fitted = torch.linalg.lstsq(rows, small.permute(0, 2, 3, 1).reshape(-1, 3)).solution
    return {"latent_rgb_factors": fitted[:4].tolist(), "latent_rgb_bias": fitted[4].tolist()}


def export(work: Path, folder: Path) -> None:
    """Write the model in diffusers layout, with what previews need."""
    pipe = assemble(work)
    pipe.save_pretrained(folder)
    for config in folder.glob("*/config.json"):
        # A part that was loaded from a folder names it; that folder is this machine's own.
        parts = json.loads(config.read_text())
        parts.pop("_name_or_path", None)
        config.write_text(json.dumps(parts, indent=2) + "\n")
    (folder / "preview.json").write_text(json.dumps(fit_preview(pipe.vae), indent=1) + "\n")


def main() -> None:
    """Train or export as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("stage", choices=["vae", "denoiser", "outline", "export"])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--resume", action="store_true", help="go on from the weights there are")
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / "outputs/shapes-training")
    parser.add_argument("--folder", type=Path, default=HERE, help="where export writes")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.stage == "export":
        export(options.work, options.folder)
    else:
        stages = {"vae": train_vae, "denoiser": train_denoiser, "outline": train_outline}
        stages[options.stage](options.work, options.minutes, options.resume)


if __name__ == "__main__":
    main()
