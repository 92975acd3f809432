"""The REST interface: its parts, and its routes under `/v1`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.api.bodies import run_body
from app.api.callers import Callers, NameOf
from app.api.errors import answering
from app.api.files import file_answer
from app.api.people import People
from app.api.reports import RunReport
from app.api.runs import ApiRuns
from app.api.upload_folder import UploadFolder
from app.catalog.catalog import Catalog
from app.errors import MalformedBody
from app.mistakes import shown
from app.settings import Settings

if TYPE_CHECKING:
    from app.engine import Engine

MAX_WAIT_S = 600.0


@dataclass(frozen=True)
class Api:
    """What every interface for programs is made of."""

    engine: Engine
    settings: Settings
    catalog: Catalog
    people: People
    callers: Callers
    runs: ApiRuns


def make_api(
    engine: Engine,
    settings: Settings,
    catalog: Catalog,
    people: People,
    uploads: UploadFolder,
    name_of: NameOf,
) -> Api:
    """Returns the parts for this engine and catalog."""
    runs = ApiRuns(engine, catalog, people, uploads, settings)
    return Api(engine, settings, catalog, people, Callers(people, name_of), runs)


def rest_routes(api: Api) -> list[Route]:
    """Returns the routes; each is in `app/ui/routes.py` too, or it is not served."""
    rest = _Rest(api)
    return [
        Route(path, answering(handler), methods=[method])
        for method, path, handler in (
            ("POST", "/v1/workflows/{name}/runs", rest.run),
            ("GET", "/v1/runs/{run_id}", rest.report),
            ("GET", "/v1/results/{result}", rest.result),
            ("GET", "/v1/results/{result}/record", rest.record),
        )
    ]


class _Rest:
    """The handlers."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def run(self, request: Request) -> Response:
        """Queues a run: 202 with its report, or 200 once it has ended within `?wait=` seconds."""
        caller = self._api.callers.of(request)
        wait_s = _wait_s(request)
        max_file_bytes = self._api.settings.ui.max_upload_bytes
        body = await run_body(request, self._api.runs.media.keep, max_file_bytes)
        run_id = await self._api.runs.submit(
            caller, request.path_params["name"], body.inputs, seed=body.seed, changes=body.changes,
            fresh=body.fresh,
        )  # fmt: skip
        return self._answer(await self._api.runs.ended(run_id, wait_s))

    async def report(self, request: Request) -> Response:
        """The run as it is now, or once it has ended within `?wait=` seconds."""
        report = await self._api.runs.ended(request.path_params["run_id"], _wait_s(request))
        return JSONResponse(report.model_dump(mode="json"))

    def _answer(self, report: RunReport) -> Response:
        address = f"{self._api.settings.ui.root_path}/v1/runs/{report.run_id}"
        status = 200 if report.over else 202
        return JSONResponse(report.model_dump(mode="json"), status, {"Location": address})

    async def result(self, request: Request) -> Response:
        """The bytes of a result."""
        return await self._file(request, record=False)

    async def record(self, request: Request) -> Response:
        """The record of a result."""
        return await self._file(request, record=True)

    async def _file(self, request: Request, *, record: bool) -> Response:
        named = request.path_params["result"]
        return file_answer(
            await asyncio.to_thread(self._api.runs.result_file, named, record=record)
        )


def _wait_s(request: Request) -> float:
    given = request.query_params.get("wait", "0")
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_WAIT_S:
        raise MalformedBody(
            f"wait={shown(given)} is not possible.", hint=f"It is 0 to {MAX_WAIT_S:g} seconds."
        )
    return seconds
