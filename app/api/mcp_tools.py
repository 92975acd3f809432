"""The tools for assistants by the Model Context Protocol. Imports the optional package `mcp`."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

from mcp import types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from app.api.bodies import malformed
from app.api.callers import Caller
from app.api.errors import FAULT
from app.api.interface import Api
from app.api.reports import ResultReport, RunReport
from app.api.waiting import failure
from app.api.workflows import described, listed
from app.errors import MalformedBody, WorkbenchError, nearest

log = logging.getLogger(__name__)

WAIT_S = 45.0
"""Clients give up after a minute if they are not told otherwise."""
MAX_WAIT_S = 600.0
MAX_INLINE_BYTES = 8_000_000
"""Bytes of the images of one answer; further ones are told by their address."""
INLINE = ("image/png", "image/jpeg", "image/webp", "image/gif")
INSTRUCTIONS = (
    "Runs diffusion workflows (images, video, audio, text) on this machine. List the workflows,"
    " describe one to learn its inputs, run it. A run that takes longer than the call is asked for"
    " again with run_status."
)
Content = list[types.ContentBlock]
Arguments = TypeVar("Arguments", bound=BaseModel)


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class NoArguments(_Arguments):
    """No arguments."""


class Named(_Arguments):
    """A workflow."""

    name: str
    """As list_workflows has it."""


class Asked(_Arguments):
    """A run to make."""

    workflow: str
    """Name of the workflow, as list_workflows has it."""
    inputs: dict[str, Any] = Field(default_factory=dict)
    """Values by the names of its inputs (see describe_workflow); the others have their defaults.
    A file is given as a URL, a data: URL, or the address of an earlier result."""
    seed: int | None = None
    """Without one, a seed is drawn."""
    wait_s: float = Field(default=WAIT_S, ge=0, le=MAX_WAIT_S)
    """Seconds to wait for the end of the run."""


class Run(_Arguments):
    """A run."""

    run_id: str
    """As run_workflow has told it."""


class Waited(Run):
    """A run to wait for."""

    wait_s: float = Field(default=0, ge=0, le=MAX_WAIT_S)
    """Seconds to wait for its end."""


class _Tool(NamedTuple):
    """A tool: what it does, and its arguments."""

    description: str
    arguments: type[BaseModel]
    call: Callable[[Any, Caller], Awaitable[types.CallToolResult]]
    reads: bool
    """True if it changes nothing."""


def mcp_server(api: Api) -> Server[Any]:
    """Returns the server with the tools, not yet served."""
    tools = Tools(api)
    return Server(
        "diffusers-workbench", title="Diffusers Workbench", instructions=INSTRUCTIONS,
        on_list_tools=tools.list, on_call_tool=tools.call,
    )  # fmt: skip


class Tools:
    """The tools over the engine."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._tools = {
            "list_workflows": _Tool(
                "Lists the workflows: name, title, description, and whether each is ready.",
                NoArguments, self._list_workflows, reads=True,
            ),
            "describe_workflow": _Tool(
                "Describes a workflow with its inputs: kinds, defaults, limits, choices.",
                Named, self._describe_workflow, reads=True,
            ),
            "run_workflow": _Tool(
                "Runs a workflow and returns its images, or its run_id if it takes longer than"
                " wait_s.",
                Asked, self._run_workflow, reads=False,
            ),
            "run_status": _Tool(
                "Returns the state of a run, with its images once it has ended.",
                Waited, self._run_status, reads=True,
            ),
            "cancel_run": _Tool("Cancels a run.", Run, self._cancel_run, reads=False),
        }  # fmt: skip

    async def list(
        self, ctx: ServerRequestContext[Any], params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        """Returns the tools."""
        tools = [
            types.Tool(
                name=name,
                description=tool.description,
                input_schema=tool.arguments.model_json_schema(),
                annotations=types.ToolAnnotations(read_only_hint=tool.reads),
            )
            for name, tool in self._tools.items()
        ]
        return types.ListToolsResult(tools=tools)

    async def call(
        self, ctx: ServerRequestContext[Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        """Calls a tool; every error is told in the result, in sentences."""
        try:
            tool = self._tools.get(params.name)
            if tool is None:
                raise MalformedBody(
                    f"There is no tool '{params.name[:60]}'.",
                    hint=nearest(params.name, self._tools)
                    or f"There are: {', '.join(self._tools)}.",
                )
            arguments = _checked(tool.arguments, params.arguments)
            assert isinstance(ctx.request, Request)
            caller = self._api.callers.of(ctx.request)
            with self._api.open(caller):
                return await tool.call(arguments, caller)
        except WorkbenchError as error:
            return _told(str(error), is_error=True)
        except Exception:
            log.exception("The tool %r could not be called", params.name)
            return _told(FAULT, is_error=True)

    async def _list_workflows(self, _: NoArguments, caller: Caller) -> types.CallToolResult:
        entries = await asyncio.to_thread(self._api.catalog.entries)
        return _told(_json([listed(entry) for entry in entries]))

    async def _describe_workflow(self, asked: Named, caller: Caller) -> types.CallToolResult:
        entry = await asyncio.to_thread(self._api.catalog.find, asked.name)
        return _told(_json(described(entry)))

    async def _run_workflow(self, asked: Asked, caller: Caller) -> types.CallToolResult:
        run_id = await self._api.runs.submit(caller, asked.workflow, asked.inputs, seed=asked.seed)
        try:
            report = await self._api.runs.ended(run_id, asked.wait_s)
        except asyncio.CancelledError:
            # The client has hung up, and does not know the id.
            self._api.runs.cancel(run_id)
            raise
        return await self._reported(report)

    async def _run_status(self, asked: Waited, caller: Caller) -> types.CallToolResult:
        return await self._reported(await self._api.runs.ended(asked.run_id, asked.wait_s))

    async def _cancel_run(self, asked: Run, caller: Caller) -> types.CallToolResult:
        cancelling = await asyncio.to_thread(self._api.runs.cancel, asked.run_id)
        return _told("The run is being cancelled." if cancelling else "The run was over already.")

    async def _reported(self, report: RunReport) -> types.CallToolResult:
        failed = failure([report]) if report.over else None
        if failed is not None:
            return _told(f"{failed.sentence()}\nrun_id: {report.run_id}", is_error=True)
        content: Content = [types.TextContent(text=_json(_summary(report)))]
        if report.over:
            content += await asyncio.to_thread(self._images, report)
        return types.CallToolResult(content=content)

    def _images(self, report: RunReport) -> Content:
        """Returns the final images as far as they fit; reads the disk."""
        found: Content = []
        room = MAX_INLINE_BYTES
        for result in report.results:
            if not (result.final and result.content_type in INLINE):
                continue
            file = self._api.runs.result_file(result.id)
            room -= file.stat().st_size
            if room >= 0:
                data = base64.b64encode(file.read_bytes()).decode()
                found.append(types.ImageContent(data=data, mime_type=result.content_type))
        return found


def _checked(kind: type[Arguments], given: dict[str, Any] | None) -> Arguments:
    try:
        return kind.model_validate(given or {})
    except ValidationError as error:
        raise malformed(error) from None


def _summary(report: RunReport) -> dict[str, Any]:
    """Returns what an assistant needs of a run."""
    told = report.model_dump(
        mode="json",
        include={"run_id", "workflow", "state", "status", "progress", "seed", "unchanged",
                 "notice", "outputs"},
    )  # fmt: skip
    if not report.over:
        told["next"] = "The run goes on: ask run_status for it, with this run_id and a wait_s."
    return {**told, "results": [_result(each) for each in report.results if each.final]}


def _result(result: ResultReport) -> dict[str, Any]:
    return result.model_dump(
        mode="json", include={"url", "content_type", "width", "height", "seed", "text"}
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _told(text: str, *, is_error: bool = False) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=text)], is_error=is_error)
