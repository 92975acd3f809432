"""The REST interface: the handlers of the routes under `/v1`."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from app.api.bodies import FreeBody, json_body, malformed, run_body
from app.api.callers import Caller
from app.api.errors import answering
from app.api.files import file_answer
from app.api.idempotency import SentRequests, content_of
from app.api.interface import Api
from app.api.openapi import openapi
from app.api.reports import RunReport
from app.api.runs import ApiEvent
from app.api.state import told_freed
from app.api.webhooks import Webhooks
from app.api.workflows import described, listed
from app.errors import MalformedBody
from app.mistakes import shown

MAX_WAIT_S = 600.0
MAX_SMALL_BODY = 100_000
"""In bytes."""


def rest_routes(api: Api) -> list[Route]:
    """Returns the routes; each is in `app/ui/routes.py` too, or it is not served."""
    rest = Rest(api)
    return [
        Route(path, answering(handler), methods=[method])
        for method, path, handler in (
            ("GET", "/v1/openapi.json", rest.openapi),
            ("GET", "/v1/workflows", rest.workflows),
            ("GET", "/v1/workflows/{name}", rest.workflow),
            ("POST", "/v1/workflows/{name}/runs", rest.run),
            ("GET", "/v1/runs/{run_id}", rest.report),
            ("GET", "/v1/runs/{run_id}/events", rest.events),
            ("DELETE", "/v1/runs/{run_id}", rest.cancel),
            ("GET", "/v1/status", rest.status),
            ("POST", "/v1/free", rest.free),
            ("GET", "/v1/results/{result}", rest.result),
            ("GET", "/v1/results/{result}/record", rest.record),
        )
    ]


class Rest:
    """The handlers of the routes under `/v1`."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._crowd = api.crowd
        self._sent = SentRequests()
        self._webhooks = Webhooks(api.engine, api.runs, api.settings.ui)

    async def run(self, request: Request) -> Response:
        """Queues a run: 202 with its report, or 200 once it has ended within `?wait=` seconds."""
        caller = self._api.callers.of(request)
        with self._api.open(caller):
            return await self._run(request, caller)

    async def _run(self, request: Request, caller: Caller) -> Response:
        wait_s = _wait_s(request)
        max_file_bytes = self._api.settings.ui.max_upload_bytes
        body = await run_body(request, self._api.runs.media.keep, max_file_bytes)
        name, key = request.path_params["name"], request.headers.get("idempotency-key")

        if body.webhook is not None:
            self._webhooks.check(body.webhook)

        async def submit() -> str:
            run_id = await self._api.runs.submit(
                caller, name, body.inputs, seed=body.seed, changes=body.changes, fresh=body.fresh
            )
            if body.webhook is not None:
                self._webhooks.watch(run_id, body.webhook)
            return run_id

        if key is None:
            run_id = await submit()
        else:
            content = await asyncio.to_thread(content_of, name, dict(body))
            run_id = await self._sent.once(caller.owner, key, content, submit)
        return self._answer(await self._api.runs.ended(run_id, wait_s))

    async def report(self, request: Request) -> Response:
        """The run as it is now, or once it has ended within `?wait=` seconds."""
        with self._api.open(self._api.callers.of(request)):
            report = await self._api.runs.ended(request.path_params["run_id"], _wait_s(request))
        return JSONResponse(report.model_dump(mode="json"))

    async def openapi(self, request: Request) -> Response:
        """The description of this interface, with the inputs of every workflow."""
        entries = await asyncio.to_thread(self._api.catalog.entries)
        return JSONResponse(openapi(entries, self._api.settings.ui.root_path))

    async def workflows(self, request: Request) -> Response:
        """All workflows of the catalog."""
        entries = await asyncio.to_thread(self._api.catalog.entries)
        return JSONResponse({"workflows": [listed(entry) for entry in entries]})

    async def workflow(self, request: Request) -> Response:
        """One workflow, with its inputs."""
        name = request.path_params["name"]
        return JSONResponse(described(await asyncio.to_thread(self._api.catalog.find, name)))

    async def events(self, request: Request) -> Response:
        """The run's events as a stream, those behind the one in `Last-Event-ID`; 204 for none."""
        caller = self._api.callers.of(request)
        run_id = request.path_params["run_id"]
        last = request.headers.get("last-event-id", "")
        start = await self._api.runs.place_after(run_id, last)
        if start is None:
            # A browser's EventSource connects again until it gets this status.
            return Response(status_code=204)
        # Counted while it is sent: a stream that nobody opens would never end.
        person = self._api.people.person(caller)
        self._crowd.check(person)
        stream = self._server_sent(person, self._api.runs.events(caller, run_id, start=start))
        return StreamingResponse(
            stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    async def _server_sent(
        self, person: str, events: AsyncGenerator[ApiEvent | None, None]
    ) -> AsyncGenerator[str, None]:
        with self._crowd.counted(person):
            async with contextlib.aclosing(events):
                async for event in events:
                    if event is None:
                        yield ": heartbeat\n\n"
                    else:
                        yield f"id: {event.id}\ndata: {json.dumps(event.data)}\n\n"

    async def cancel(self, request: Request) -> Response:
        """Cancels the run: 202 with its report, 200 if it was over."""
        run_id = request.path_params["run_id"]
        cancelling = await asyncio.to_thread(self._api.runs.cancel, run_id)
        report = await self._api.runs.report(run_id)
        return JSONResponse(report.model_dump(mode="json"), 202 if cancelling else 200)

    async def status(self, request: Request) -> Response:
        """The state of the workers, the queue, memory, and the newest runs."""
        caller = self._api.callers.of(request)
        told = await asyncio.to_thread(self._api.state.status, caller, caller.owner)
        return JSONResponse(told.model_dump(mode="json"))

    async def free(self, request: Request) -> Response:
        """Evicts all that is held in memory, and says what it was."""
        caller = self._api.callers.of(request)
        given = await json_body(request, MAX_SMALL_BODY)
        try:
            body = FreeBody.model_validate(given)
        except ValidationError as error:
            raise malformed(error) from None
        report = await self._api.state.free(caller, caller.owner, body.mode)
        return JSONResponse(told_freed(report))

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
