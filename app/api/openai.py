"""OpenAI's interface for images, for its clients: a workflow that makes images is a model."""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.api.bodies import content_type, form_items, json_body, malformed
from app.api.errors import KINDS, Shape, answering, retry_headers, status_of
from app.api.image_workflows import ImageWorkflow, chosen, makes_images
from app.api.interface import Api
from app.api.masks import mask_of_alpha
from app.api.waiting import MadeImage, ended_runs, failure, made_images, submitted
from app.catalog.catalog import CatalogEntry
from app.errors import ErrorReport, InvalidInputs, MalformedBody, Problem

PATHS = re.compile(r"/v1/(images|models)(/.*)?")
MAX_IMAGES = 10
SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
FORM_INPUT = re.compile(r"inputs\[([^\]]+)\](\[\])?")
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
FOREIGN = {"n": "num_images_per_prompt", "mask": "mask_image"}
"""The pipeline's names of parameters that are called otherwise here."""


class ImageBody(BaseModel):
    """The parameters of a request for images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None
    """Name of a workflow; without one the first that is ready and takes what is sent."""
    prompt: str | None = None
    n: int = Field(default=1, ge=1, le=MAX_IMAGES)
    size: str = "auto"
    """`1024x1024`, or `auto` for the workflow's own."""
    response_format: Literal["b64_json", "url"] = "b64_json"
    seed: int | None = None
    """Not OpenAI's. Without one, a seed is drawn."""
    inputs: dict[str, Any] = Field(default_factory=dict)
    """Not OpenAI's: further inputs of the workflow, by name."""
    image: list[Path | str] = Field(default_factory=list)
    """Sent files, or addresses."""
    mask: Path | None = None
    stream: bool = False
    partial_images: int = 0
    user: Any = None
    quality: Any = None
    style: Any = None
    moderation: Any = None
    """These four are ignored: no model here has them."""

    @field_validator("n", "size", "response_format", "stream", "partial_images", mode="before")
    @classmethod
    def _is_default_if_null(cls, given: Any, info: Any) -> Any:
        return cls.model_fields[info.field_name].default if given is None else given

    @field_validator("stream", "partial_images")
    @classmethod
    def _is_off(cls, given: int) -> int:
        if given:
            raise ValueError("images are not streamed here: leave it out")
        return given

    @field_validator("size")
    @classmethod
    def _is_a_size(cls, given: str) -> str:
        if given != "auto" and SIZE.fullmatch(given) is None:
            raise ValueError(f"'{given[:20]}' is no size: it has the form 1024x1024, or is auto")
        return given


def openai_routes(api: Api) -> list[Route]:
    """Returns the routes; each is in `app/ui/routes.py` too, or it is not served."""
    handlers = OpenAI(api)
    return [
        Route(path, answering(handler, SHAPE), methods=[method])
        for method, path, handler in (
            ("POST", "/v1/images/generations", handlers.generate),
            ("POST", "/v1/images/edits", handlers.edit),
            ("POST", "/v1/images/variations", handlers.vary),
            ("GET", "/v1/models", handlers.models),
            ("GET", "/v1/models/{name}", handlers.model),
        )
    ]


class OpenAI:
    """The handlers."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._max_file_bytes = api.settings.ui.max_upload_bytes

    async def models(self, request: Request) -> Response:
        """All workflows that make images."""
        entries = await asyncio.to_thread(self._api.catalog.entries)
        listed = [_model(entry) for entry in entries if makes_images(entry)]
        return JSONResponse({"object": "list", "data": listed})

    async def model(self, request: Request) -> Response:
        """One of them."""
        name = request.path_params["name"]
        workflow = await asyncio.to_thread(chosen, self._api.catalog, name)
        return JSONResponse(_model(workflow.entry))

    async def generate(self, request: Request) -> Response:
        """Images from a prompt."""
        return await self._drawn(request, self._generation)

    async def edit(self, request: Request) -> Response:
        """Images from an image, a prompt, and a mask if one is sent."""
        return await self._drawn(request, self._edit)

    async def vary(self, request: Request) -> Response:
        """Images from an image."""
        return await self._drawn(request, self._variation)

    async def _generation(self, request: Request) -> ImageBody:
        body = _checked(await json_body(request, 2 * self._max_file_bytes))
        if body.image or body.mask:
            raise MalformedBody("An image is sent to /v1/images/edits or /v1/images/variations.")
        return _with_prompt(body)

    async def _edit(self, request: Request) -> ImageBody:
        return await self._with_mask(_with_prompt(await self._form(request)))

    async def _variation(self, request: Request) -> ImageBody:
        body = await self._form(request)
        if body.mask is not None:
            raise MalformedBody("A mask is sent to /v1/images/edits.")
        return body

    async def _form(self, request: Request) -> ImageBody:
        if content_type(request) != "multipart/form-data":
            raise MalformedBody("The body is no form.", hint="Send multipart/form-data (curl -F).")
        keep = self._api.runs.media.keep
        given: dict[str, Any] = {}
        images: list[str | Path] = []
        inputs: dict[str, Any] = {}
        for name, value in await form_items(request, keep, 4 * self._max_file_bytes):
            if name in ("image", "image[]"):
                images.append(value)
            elif named := FORM_INPUT.fullmatch(name):
                inputs[named[1]] = [*inputs.get(named[1], []), value] if named[2] else value
            elif name == "mask" and isinstance(value, str):
                raise MalformedBody("The mask has to be a file.")
            else:
                given[name] = value
        if not images:
            raise MalformedBody("An image is needed.", hint="Send it: curl -F image=@picture.png.")
        return _checked({**given, "image": images, "inputs": inputs})

    async def _with_mask(self, body: ImageBody) -> ImageBody:
        """Returns the body with its mask white where the image shall change: where the given mask,
        or without one the image, is transparent. An opaque mask has that form already."""
        file = body.mask or body.image[0]
        if not isinstance(file, Path):
            return body
        most = self._api.settings.paths.limits.max_picture_pixels
        mask = await asyncio.to_thread(mask_of_alpha, file, most)
        if mask is None:
            return body
        kept = await asyncio.to_thread(self._api.runs.media.keep, mask, "mask.png")
        return body.model_copy(update={"mask": kept})

    async def _drawn(
        self, request: Request, read: Callable[[Request], Awaitable[ImageBody]]
    ) -> Response:
        caller = self._api.callers.of(request)
        with self._api.open(caller):
            body = await read(request)
            workflow = await asyncio.to_thread(
                chosen, self._api.catalog, body.model, image=bool(body.image),
                mask=body.mask is not None,
            )  # fmt: skip
            inputs, runs = _inputs(workflow, body)
            seeds = [None if body.seed is None else body.seed + number for number in range(runs)]
            run_ids = await submitted(self._api, caller, workflow.entry.name, inputs, seeds)
            reports = await ended_runs(self._api, request, run_ids)
        failed = failure(reports)
        if failed is not None:
            return _failed_run(failed)
        images = await asyncio.to_thread(made_images, self._api, reports)
        as_url = body.response_format == "url"
        data = [_shown(image, request if as_url else None) for image in images]
        return JSONResponse({"created": round(time.time()), "data": data})


def _checked(given: dict[str, Any]) -> ImageBody:
    try:
        return ImageBody.model_validate(given)
    except ValidationError as error:
        raise malformed(error) from None


def _with_prompt(body: ImageBody) -> ImageBody:
    if body.prompt is None:
        missing = Problem(place="prompt", message="It is missing.")
        raise MalformedBody("The body of the request cannot be read.", [missing])
    return body


def _inputs(workflow: ImageWorkflow, body: ImageBody) -> tuple[dict[str, Any], int]:
    """Returns the inputs, and the number of runs with them. Raises InvalidInputs."""
    wished: dict[str, Any] = {}
    if body.prompt is not None:
        wished["prompt"] = body.prompt
    if body.n > 1:
        wished["n"] = body.n
    if size := SIZE.fullmatch(body.size):
        wished |= {"width": int(size[1]), "height": int(size[2])}
    if body.image:
        wished["image"] = body.image if len(body.image) > 1 else body.image[0]
    if body.mask is not None:
        wished["mask"] = body.mask
    inputs, lacking = workflow.inputs({FOREIGN.get(key, key): item for key, item in wished.items()})
    name = workflow.entry.name
    no_size = f"'{name}' has no inputs for the size of its images: leave size out, or auto."
    sentences = {
        "prompt": f"'{name}' takes no prompt.",
        "width": no_size,
        "height": no_size,
        "image": f"'{name}' takes no image.",
        "mask_image": f"'{name}' takes no mask, or none of an image that is transparent.",
    }
    wrong = dict.fromkeys(sentences[each] for each in lacking if each in sentences)
    if wrong:
        raise InvalidInputs(" ".join(wrong), hint="Or choose another model.")
    return {**inputs, **body.inputs}, body.n if FOREIGN["n"] in lacking else 1


def _model(entry: CatalogEntry) -> dict[str, Any]:
    return {
        "id": entry.name,
        "object": "model",
        "created": int(Path(entry.path).stat().st_mtime),
        "owned_by": "workbench",
    }


def _shown(image: MadeImage, request: Request | None) -> dict[str, Any]:
    """Returns the image with its address on the host of this request; without one, with its
    bytes."""
    if request is None:
        shown = {"b64_json": base64.b64encode(image.content).decode()}
    else:
        host = request.headers.get("host", "")
        shown = {"url": f"{request.url.scheme}://{host}{image.result.url}"}
    return {**shown, "seed": image.result.seed, "run_id": image.run_id}


# --- errors ---------------------------------------------------------------------------------------


def _answer(status: int, message: str, param: str, code: str) -> Response:
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    error = {"message": message, "type": kind, "param": param or None, "code": code}
    return JSONResponse({"error": error}, status, retry_headers(status))


def _error(report: ErrorReport) -> Response:
    status = status_of(report)
    if report.kind == "UnknownWorkflow":
        return _answer(status, report.sentence(), "model", "model_not_found")
    place = report.problems[0].place.removeprefix("inputs.") if report.problems else ""
    return _answer(400 if status == 422 else status, report.sentence(), place, report.kind)


def _failed_run(report: ErrorReport) -> Response:
    answer = _error(report)
    # The same request would fail again, and OpenAI's clients would send it three times.
    answer.headers["x-should-retry"] = "false"
    return answer


def refusal(status: int, message: str) -> Response:
    """Returns the answer to a request that was refused by its status alone."""
    return _answer(status, message, "", KINDS.get(status, "InternalError"))


SHAPE = Shape(_error, refusal)
