"""The endpoints for scripts: stable names, typed parameters, the engine's own checks.

`gr.api` checks nothing itself, so everything a script sends goes through `engine.submit`, and files
through `uploads` alone. Names are kept forever; fields are added, never renamed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.api.errors import status_of
from app.api.inputs import check_seed
from app.api.people import People
from app.api.script_events import failure_event
from app.api.state import FreeMode, State, told_freed
from app.api.workflows import described, listed
from app.catalog.catalog import Catalog, CatalogEntry
from app.dialect.inputs import unfit
from app.errors import (
    EngineError,
    ErrorReport,
    InvalidInputs,
    UnknownRun,
    UnknownWorkflow,
    WorkbenchError,
)
from app.mistakes import shown
from app.protocol import TERMINAL, RunEvent, StepRemembered
from app.run_view import RunView, advance
from app.ui.call_errors import CallError, call_error
from app.ui.readers import Reader, answer_for, while_read
from app.ui.script_events import done_event, event_with_file
from app.ui.typed_endpoints import endpoint_name, typed_endpoint
from app.ui.uploads import inputs_of, unwrapped_urls

if TYPE_CHECKING:
    from app.engine import Engine

log = logging.getLogger(__name__)

FIXED_NAMES = (
    "generate", "follow_job", "list_workflows", "describe_workflow", "cancel_job", "status",
    "free_gpu",
)  # fmt: skip

MAX_ID_LENGTH = 200
"""In characters; for a script's own `request_id`, which every event of its stream carries."""


class ScriptApi:
    """The functions behind the endpoints; `register` adds them to the open Blocks."""

    def __init__(
        self, engine: Engine, catalog: Catalog, uploads: Path, people: People, unread_s: float
    ) -> None:
        self._engine = engine
        self._catalog = catalog
        self._uploads = uploads
        self._typed: dict[str, str] = {}
        """The endpoints of workflows, and the file that each of them runs."""
        self._people = people
        self._state = State(engine, people)
        self._unread_s = unread_s

    def register(self) -> tuple[str, ...]:
        """Registers every endpoint and returns their names. Call before any other event is made.

        A workflow gets its typed endpoint when the page is built; one added later is reached
        through `/generate` until the next start.
        """
        for name in FIXED_NAMES:
            # The page's chip asks for the status every few seconds: that must not queue.
            gr.api(getattr(self, name), api_name=name, concurrency_limit=None,
                   queue=name != "status")  # fmt: skip
        for entry in self._catalog.entries():
            if entry.problem is None:
                self._register_typed(endpoint_name(entry), entry)
        return (*FIXED_NAMES, *self._typed)

    def _register_typed(self, name: str, entry: CatalogEntry) -> None:
        try:
            endpoint = typed_endpoint(name, entry, self._run_to_end)
            gr.api(endpoint, api_name=name, concurrency_limit=None)
        except Exception:
            # One file must not keep the page from starting; `list_workflows` reports it.
            log.exception("The workflow '%s' has no endpoint of its own", entry.name)
        else:
            self._typed[name] = entry.path

    async def generate(
        self,
        workflow: str,
        variables: dict[str, Any],
        seed: int | None = None,
        request_id: str | None = None,
        fresh: bool = False,
        changes: dict[str, Any] | None = None,
        request: gr.Request = None,  # (Gradio fills it in by its type)
    ) -> AsyncIterator[dict[str, Any]]:
        """Runs a workflow of the catalog and streams its events.

        `changes` replace values of its document for this run, by JSON pointer.

        Every event has `event` (queued, fetching, remembered, downloading, loading, step, phase,
        result, heartbeat, done, cancelled, error), `job_id` and `request_id`. The last one is done
        (with images, seed, seconds, unchanged, sentence, workflow, variables, metadata), cancelled,
        or error; a heartbeat comes every second in which nothing else does. Where `unchanged` is
        true earlier results were reused: another `seed` makes another picture, `fresh` makes the
        same one again. Closing the stream cancels the run.
        """
        variables = unwrapped_urls(variables)
        echoed = request_id if _is_short(request_id) else None
        try:
            if echoed != request_id:
                raise InvalidInputs(
                    f"The request_id has to be a text or a number of at most {MAX_ID_LENGTH}"
                    f" characters, not {shown(request_id)}."
                )
            entry, run_id = await self._submit(
                workflow, variables, seed, request, fresh=fresh, changes=changes
            )
        except WorkbenchError as error:
            # Clients that only read the events must get the error too.
            yield {**failure_event(error.report()), "job_id": None, "request_id": echoed}
            raise call_error(error.report()) from None
        last: dict[str, Any] = {"event": ""}
        async with self._own_events(run_id, entry.name, variables, request) as events:
            async for last in events:
                yield {**last, "request_id": request_id}
        _raise_failure(last)

    async def follow_job(
        self,
        job_id: str,
        request: gr.Request = None,
    ) -> AsyncIterator[dict[str, Any]]:
        """Streams a run's events from its beginning, as `generate` does.

        For a script that lost its stream: a run that was in progress when the server restarted
        keeps its id. Closing this stream does not cancel the run.
        """
        try:
            workflow = (await asyncio.to_thread(self._engine.info, _as_id(job_id))).workflow
            async with contextlib.aclosing(self._events(job_id, workflow, {}, request)) as events:
                async for event in events:
                    yield event
        except WorkbenchError as error:
            raise call_error(error.report()) from None

    def list_workflows(self) -> list[dict[str, Any]]:
        """Lists every workflow of the catalog: name, title, description, readiness."""
        return [self._listed(entry) for entry in self._catalog.entries()]

    def describe_workflow(self, name: str) -> dict[str, Any]:
        """Returns a workflow with all its inputs: kinds, defaults, limits, choices, and the
        `parameter` of its own endpoint for each input."""
        try:
            entry = self._catalog.find(_as_name(name))
        except WorkbenchError as error:
            raise call_error(error.report()) from None
        return {**described(entry), **self._listed(entry)}

    def _listed(self, entry: CatalogEntry) -> dict[str, Any]:
        endpoint = endpoint_name(entry)
        has_one = entry.problem is None and self._typed.get(endpoint) == entry.path
        return {**listed(entry), "endpoint": f"/{endpoint}" if has_one else None}

    async def cancel_job(self, job_id: str) -> bool:
        """Cancels a run. False where it was over already.

        Knowing the id is the permission: only the run's own stream tells it, and operators.
        """
        try:
            return self._engine.cancel(job_id)
        except WorkbenchError as error:
            raise call_error(error.report()) from None

    def status(self, request: gr.Request = None) -> dict[str, Any]:
        """Returns the worker's state, the queue, the current run, memory, and held components.

        Only operators get the `run_id` of runs that are not `mine`. `runs` has the newest runs,
        including ended ones: an operator gets everybody's, a guest those of this session.
        """
        return self._state.status(request, _owner(request)).model_dump(mode="json")

    async def free_gpu(
        self,
        mode: FreeMode = "when_idle",
        request: gr.Request = None,
    ) -> dict[str, Any]:
        """Evicts all held components, when the current run has ended or by cancelling it.

        A guest can while no other person's run is in progress or waiting.
        """
        try:
            freeing = self._state.free(request, _owner(request), mode)
            report = await answer_for(Reader(request, self._unread_s), freeing)
        except WorkbenchError as error:
            raise call_error(error.report()) from None
        # Without a reader there is nobody to tell.
        return {} if report is None else told_freed(report)

    # --- what the endpoints share ----------------------------------------------------------------

    async def _submit(
        self,
        workflow: str,
        variables: Any,
        seed: int | None,
        request: gr.Request | None,
        *,
        fresh: bool = False,
        changes: Any = None,
    ) -> tuple[CatalogEntry, str]:
        entry = self._catalog.find(_as_name(workflow))
        inputs = inputs_of(entry, variables, self._uploads)
        check_seed(seed)
        if not isinstance(changes, Mapping | None):
            raise InvalidInputs("The changes have to be an object: {JSON pointer: value}.")
        run_id = await asyncio.to_thread(
            self._engine.submit, Path(entry.path), inputs, seed=seed, owner=_owner(request),
            changes=changes or {}, fresh=bool(fresh), person=self._people.person(request),
            check=self._people.check(request, entry, inputs, changes or {}),
        )  # fmt: skip
        return entry, run_id

    async def _run_to_end(
        self, workflow: str, variables: dict[str, Any], seed: int | None, request: gr.Request
    ) -> dict[str, Any]:
        variables = unwrapped_urls(variables)
        try:
            entry, run_id = await self._submit(workflow, variables, seed, request)
        except WorkbenchError as error:
            raise call_error(error.report()) from None
        last: dict[str, Any] = {"event": ""}
        async with self._own_events(run_id, entry.name, variables, request) as events:
            async for last in events:  # noqa: B007  (the last event is what counts)
                pass
        if last["event"] == "cancelled":
            raise CallError(
                f"The run was cancelled. {last['notice']}".rstrip(), HTTPStatus.CONFLICT
            )
        _raise_failure(last)
        return last

    async def _events(
        self, run_id: str, workflow: str, variables: Mapping[str, Any], request: gr.Request | None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yields the run's events for scripts, a heartbeat for each second without one, and `done`
        at the end of a run that succeeded. Ends early when nobody reads."""
        view = RunView(run_id=run_id)
        followed = self._engine.follow(run_id, previews=False)
        reading = while_read(followed, Reader(request, self._unread_s))
        async with contextlib.aclosing(reading) as events:
            async for event in events:
                if event is not None:
                    view = advance(view, event)
                told = {"event": "heartbeat"} if event is None else self._told(event, request)
                if told is not None:
                    yield {**told, "job_id": run_id}
        if view.outcome == "succeeded":
            done = await asyncio.to_thread(done_event, workflow, variables, view)
            yield {**done, "job_id": run_id}

    @contextlib.asynccontextmanager
    async def _own_events(
        self, run_id: str, workflow: str, variables: Mapping[str, Any], request: gr.Request | None
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """Yields the events of the caller's own run, which is cancelled when they are left
        early."""
        try:
            async with contextlib.aclosing(
                self._events(run_id, workflow, variables, request)
            ) as events:
                yield events
        finally:
            await self._end(run_id)

    def _told(self, event: RunEvent, request: gr.Request | None) -> dict[str, Any] | None:
        told = event_with_file(event)
        if isinstance(event, StepRemembered) and told is not None:
            mine = self._engine.owned(_owner(request))
            told["made_by"] = self._people.shown_run(request, event.made_by, mine)
        return told

    async def _end(self, run_id: str) -> None:
        """Cancels the run unless it is over, and waits until it has stopped."""
        # A closed engine has ended its runs.
        with contextlib.suppress(EngineError):
            if self._engine.cancel(run_id):
                await asyncio.shield(self._until_over(run_id))

    async def _until_over(self, run_id: str) -> None:
        async for event in self._engine.follow(run_id, previews=False):
            if isinstance(event, TERMINAL):
                return


def _owner(request: gr.Request | None) -> str:
    session = request.session_hash if request is not None else None
    # A caller without a session makes one request, and owns nothing afterwards.
    return f"script {session or secrets.token_hex(16)}"


def _is_short(request_id: Any) -> bool:
    """Returns True if it can be sent back with every event."""
    plain = isinstance(request_id, str | int | float | None) and not unfit(request_id)
    return plain and len(str(request_id)) <= MAX_ID_LENGTH


def _as_id(job_id: Any) -> str:
    if not isinstance(job_id, str):
        raise UnknownRun(f"There is no run {shown(job_id)}.")
    return job_id


def _as_name(workflow: Any) -> str:
    if not isinstance(workflow, str):
        raise UnknownWorkflow(
            f"There is no workflow {shown(workflow)}.",
            hint="It is named by a text; list_workflows has them.",
        )
    return workflow


def _raise_failure(last: Mapping[str, Any]) -> None:
    """Raises the error of a failed run, if this is its last event."""
    if last["event"] == "error":
        report = ErrorReport(kind=last["error"]["kind"], message=last["message"])
        raise CallError(last["message"], status_of(report))
