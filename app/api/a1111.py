"""The interface of AUTOMATIC1111's web UI, for plug-ins that speak it: a workflow is a checkpoint.

Plug-ins send every field they know. What a workflow has no input for is not followed, and `notes`
in the answer's `info` says so.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.api.a1111_options import CHECKPOINT, Choices
from app.api.bodies import json_body, malformed
from app.api.errors import KINDS, Shape, answering, retry_headers, status_of
from app.api.image_workflows import ImageWorkflow, makes_images
from app.api.interface import Api
from app.api.reports import RunReport
from app.api.waiting import MadeImage, cancel_runs, ended_runs, failure, made_images, submitted
from app.dialect.document import drawn_seed
from app.errors import ErrorReport, InvalidInputs, MalformedBody
from app.media.urls import is_url

PATHS = re.compile(r"/sdapi/v1(/.*)?")
MAX_IMAGES = 16
SAMPLER = "Automatic"
DRAWN = -1
"""The seed that stands for a random one."""
ARGUMENTS = {
    "negative_prompt": "negative_prompt", "steps": "num_inference_steps",
    "cfg_scale": "guidance_scale", "width": "width", "height": "height",
    "denoising_strength": "strength",
}  # fmt: skip
"""The pipeline's argument of each field that is passed on as it is."""
FIELDS = {argument: field for field, argument in ARGUMENTS.items()}
REFUSED = ("script_name", "alwayson_scripts", "enable_hr", "inpainting_mask_invert")
"""Further fields that would make other images: refused where they are set."""


class DrawBody(BaseModel):
    """The fields that are followed; others are noted."""

    model_config = ConfigDict(extra="allow", frozen=True)

    prompt: str = ""
    negative_prompt: str | None = None
    steps: int | None = None
    cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    seed: int = Field(default=DRAWN, ge=DRAWN)
    batch_size: int = Field(default=1, ge=1, le=MAX_IMAGES)
    n_iter: int = Field(default=1, ge=1, le=MAX_IMAGES)
    sampler_name: str | None = None
    sampler_index: str | None = None
    """The older name of `sampler_name`."""
    init_images: list[str] = Field(default_factory=list)
    """Base64, `data:` URLs, or URLs."""
    mask: str | None = None
    """White where the image shall change."""
    denoising_strength: float | None = None
    override_settings: dict[str, Any] = Field(default_factory=dict)

    @property
    def sampler(self) -> str | None:
        """The name of the sampler; None for the workflow's own."""
        return self.sampler_name or self.sampler_index


class _Asked(NamedTuple):
    """The runs of a request."""

    inputs: dict[str, Any]
    seeds: list[int]
    notes: list[str]
    """What is not followed."""


def a1111_routes(api: Api) -> list[Route]:
    """Returns the routes; each is in `app/ui/routes.py` too, or it is not served."""
    handlers = A1111(api)
    return [
        Route(f"/sdapi/v1/{name}", answering(handler, SHAPE), methods=[method])
        for method, name, handler in (
            ("POST", "txt2img", handlers.draw),
            ("POST", "img2img", handlers.redraw),
            ("GET", "sd-models", handlers.models),
            ("GET", "samplers", handlers.samplers),
            ("GET", "schedulers", handlers.schedulers),
            ("GET", "progress", handlers.progress),
            ("POST", "interrupt", handlers.interrupt),
            ("GET", "options", handlers.options),
            ("POST", "options", handlers.set_options),
        )
    ]


class A1111:
    """The handlers."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._choices = Choices(api.catalog)
        self._open: dict[str, list[str]] = {}
        """The runs of the requests that are being answered here, by their owner."""

    async def draw(self, request: Request) -> Response:
        """Images from a prompt."""
        return await self._drawn(request, from_image=False)

    async def redraw(self, request: Request) -> Response:
        """Images from an image, a prompt, and a mask if one is sent."""
        return await self._drawn(request, from_image=True)

    async def models(self, request: Request) -> Response:
        """The workflows that make images."""
        entries = await asyncio.to_thread(self._api.catalog.entries)
        return JSONResponse([
            {"title": each.name, "model_name": each.name, "hash": None, "sha256": None,
             "filename": each.name, "config": None}
            for each in entries if makes_images(each)
        ])  # fmt: skip

    async def samplers(self, request: Request) -> Response:
        """The one that stands for the workflow's own scheduler: no input can choose another."""
        return JSONResponse([{"name": SAMPLER, "aliases": [], "options": {}}])

    async def schedulers(self, request: Request) -> Response:
        """The same for the spacing of the noise levels."""
        return JSONResponse([{
            "name": SAMPLER.lower(), "label": SAMPLER, "aliases": None, "default_rho": -1,
            "need_inner_model": False,
        }])  # fmt: skip

    async def progress(self, request: Request) -> Response:
        """How far the sender's own requests are."""
        run_ids = self._open.get(self._api.callers.of(request).owner, [])
        reports = [await self._api.runs.report(run_id) for run_id in run_ids]
        over = sum(report.over for report in reports)
        done = sum(1.0 if report.over else report.progress or 0.0 for report in reports)
        share = done / len(reports) if reports else 0.0
        begun = [report.started_at for report in reports if report.started_at]
        spent_s = time.time() - min(begun) if begun else 0.0
        return JSONResponse({
            "progress": share,
            "eta_relative": spent_s * (1 - share) / share if share else 0.0,
            "state": {
                "skipped": False, "interrupted": False, "job": "txt2img" if reports else "",
                "job_count": len(reports), "job_timestamp": time.strftime("%Y%m%d%H%M%S"),
                "job_no": over, "sampling_step": 0, "sampling_steps": 0,
            },
            "current_image": None,
            "textinfo": next((each.status for each in reports if not each.over), None),
        })  # fmt: skip

    async def interrupt(self, request: Request) -> Response:
        """Cancels the runs of the sender's own requests."""
        run_ids = self._open.get(self._api.callers.of(request).owner, [])
        await asyncio.to_thread(cancel_runs, self._api, [*run_ids])
        return JSONResponse({})

    async def options(self, request: Request) -> Response:
        """The workflow that is used where a request of the sender names none."""
        owner = self._api.callers.of(request).owner
        current = await asyncio.to_thread(self._choices.current, owner)
        return JSONResponse({CHECKPOINT: current, "samples_format": "png"})

    async def set_options(self, request: Request) -> Response:
        """Chooses that workflow. Other options have no effect here."""
        owner = self._api.callers.of(request).owner
        name = (await json_body(request, 1_000_000)).get(CHECKPOINT)
        if name is not None:
            await asyncio.to_thread(self._choices.choose, owner, str(name))
        return JSONResponse(None)

    async def _drawn(self, request: Request, *, from_image: bool) -> Response:
        caller = self._api.callers.of(request)
        with self._api.open(caller):
            given = await json_body(request, 4 * self._api.settings.ui.max_upload_bytes)
            body = _checked(given, from_image=from_image)
            named = request.query_params.get("workflow") or body.override_settings.get(CHECKPOINT)
            workflow, notes = await asyncio.to_thread(
                self._choices.workflow, caller.owner, None if named is None else str(named),
                image=from_image, mask=body.mask is not None,
            )  # fmt: skip
            asked = await self._asked(workflow, body)
            run_ids = await submitted(
                self._api, caller, workflow.entry.name, asked.inputs, asked.seeds
            )
            with self._opened(caller.owner, run_ids):
                reports = await ended_runs(self._api, request, run_ids)
        return await self._answer(workflow, body, [*notes, *asked.notes], reports)

    async def _asked(self, workflow: ImageWorkflow, body: DrawBody) -> _Asked:
        """Returns the runs for this body. Raises InvalidInputs."""
        wished: dict[str, Any] = {"prompt": body.prompt}
        for field, argument in ARGUMENTS.items():
            if (value := getattr(body, field)) is not None:
                wished[argument] = value
        if body.batch_size > 1:
            wished["num_images_per_prompt"] = body.batch_size
        if body.init_images:
            images = [await self._kept(image) for image in body.init_images]
            wished["image"] = images if len(images) > 1 else images[0]
        if body.mask is not None:
            wished["mask_image"] = await self._kept(body.mask)
        inputs, lacking = workflow.inputs(wished)
        for argument, word in {"prompt": "prompt", "image": "image", "mask_image": "mask"}.items():
            if argument in lacking and wished[argument]:
                raise InvalidInputs(f"'{workflow.entry.name}' takes no {word}.")
        notes = [
            f"{FIELDS[argument]} is not followed: '{workflow.entry.name}' has no input for it."
            for argument in lacking
            if argument in FIELDS
        ]
        if body.sampler not in (None, SAMPLER):
            notes.append("sampler_name is not followed: each workflow has its own scheduler.")
        step = 1 if "num_images_per_prompt" in lacking else body.batch_size
        first = drawn_seed() if body.seed == DRAWN else body.seed
        seeds = range(first, first + body.n_iter * body.batch_size, step)
        return _Asked(inputs, [*seeds], [*notes, *_unread(body)])

    async def _kept(self, image: str) -> Path | str:
        """Returns an image as a file, or its URL."""
        is_data = image[:5].lower() == "data:"
        if is_url(image) and not is_data:
            return image
        url = image if is_data else f"data:image/png;base64,{image}"
        kept = await asyncio.to_thread(self._api.runs.media.file_of, url)
        assert kept is not None
        return Path(kept)

    @contextlib.contextmanager
    def _opened(self, owner: str, run_ids: Sequence[str]) -> Iterator[None]:
        self._open[owner] = [*self._open.get(owner, []), *run_ids]
        try:
            yield
        finally:
            left = [each for each in self._open[owner] if each not in run_ids]
            if left:
                self._open[owner] = left
            else:
                del self._open[owner]

    async def _answer(
        self, workflow: ImageWorkflow, body: DrawBody, notes: list[str],
        reports: Sequence[RunReport],
    ) -> Response:  # fmt: skip
        failed = failure(reports)
        if failed is not None and any(report.state == "failed" for report in reports):
            return _error(failed)
        made = [report for report in reports if report.state == "succeeded"]
        if failed is not None:
            # Interrupted: the plug-in gets what is there.
            notes = [*notes, failed.message]
        images = await asyncio.to_thread(made_images, self._api, made)
        return JSONResponse({
            "images": [base64.b64encode(image.content).decode() for image in images],
            "parameters": body.model_dump(mode="json", exclude={"init_images", "mask"}),
            "info": json.dumps(_info(workflow, body, notes, images)),
        })  # fmt: skip


def _checked(given: dict[str, Any], *, from_image: bool) -> DrawBody:
    """Returns the body without its nulls. Raises MalformedBody and InvalidInputs."""
    try:
        body = DrawBody.model_validate(
            {name: value for name, value in given.items() if value is not None}
        )
    except ValidationError as error:
        raise malformed(error) from None
    for name in REFUSED:
        if (body.model_extra or {}).get(name):
            raise InvalidInputs(f"{name} is not possible here.", hint="Leave it out.")
    if body.n_iter * body.batch_size > MAX_IMAGES:
        raise InvalidInputs(f"A request makes {MAX_IMAGES} images at most.")
    if from_image and not body.init_images:
        raise MalformedBody("An image is needed in init_images.")
    if not from_image and (body.init_images or body.mask):
        raise MalformedBody("Images are sent to /sdapi/v1/img2img.")
    return body


def _unread(body: DrawBody) -> list[str]:
    """Returns a note on the fields that are sent, set, and unknown here."""
    others = [name for name in body.override_settings if name != CHECKPOINT]
    extra = (body.model_extra or {}).items()
    names = [name for name, value in extra if value and not _is_automatic(name, value)] + others
    return [f"Not followed here: {', '.join(sorted(names))}."[:1000]] if names else []


def _is_automatic(name: str, value: Any) -> bool:
    return name == "scheduler" and str(value).lower() == SAMPLER.lower()


def _info(
    workflow: ImageWorkflow, body: DrawBody, notes: Sequence[str], images: Sequence[MadeImage]
) -> dict[str, Any]:
    seeds = [image.result.seed for image in images]
    first = images[0].result if images else None
    width, height = (first.width, first.height) if first else (body.width, body.height)
    texts = [
        f"{body.prompt}\nNegative prompt: {body.negative_prompt or ''}\n"
        f"Seed: {seed}, Size: {width}x{height}, Model: {workflow.entry.name}"
        for seed in seeds
    ]
    return {
        "prompt": body.prompt, "all_prompts": [body.prompt] * len(images),
        "negative_prompt": body.negative_prompt or "",
        "seed": seeds[0] if seeds else -1, "all_seeds": seeds,
        "width": width, "height": height, "batch_size": body.batch_size,
        "steps": body.steps, "cfg_scale": body.cfg_scale,
        "sampler_name": body.sampler,
        "sd_model_name": workflow.entry.name, "infotexts": texts, "index_of_first_image": 0,
        "run_ids": list(dict.fromkeys(image.run_id for image in images)), "notes": list(notes),
    }  # fmt: skip


# --- errors ---------------------------------------------------------------------------------------


def _refused(status: int, kind: str, sentence: str) -> Response:
    """Returns an error in the form that plug-ins read."""
    body = {"error": kind, "detail": sentence, "body": "", "errors": sentence}
    return JSONResponse(body, status, retry_headers(status))


def _error(report: ErrorReport) -> Response:
    return _refused(status_of(report), report.kind, report.sentence())


def refusal(status: int, message: str) -> Response:
    """Returns the answer to a request that was refused by its status alone."""
    return _refused(status, KINDS.get(status, "InternalError"), message)


SHAPE = Shape(_error, refusal)
