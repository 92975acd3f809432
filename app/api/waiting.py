"""Runs for a request that is answered with their results: it waits, and its runs end with it."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from starlette.requests import ClientDisconnect, Request

from app.api.callers import Caller
from app.api.interface import Api
from app.api.reports import ResultReport, RunReport
from app.errors import EngineError, ErrorReport, Problem


class MadeImage(NamedTuple):
    """An image that a run has made."""

    run_id: str
    result: ResultReport
    content: bytes


async def submitted(
    api: Api, caller: Caller, workflow: str, inputs: Mapping[str, Any], seeds: Iterable[int | None]
) -> list[str]:
    """Queues a run with each of these seeds, and returns their ids; all or none.

    Raises BadRequest and QueueFull.
    """
    run_ids: list[str] = []
    try:
        for seed in seeds:
            run_ids.append(await api.runs.submit(caller, workflow, inputs, seed=seed))
    except BaseException:
        cancel_runs(api, run_ids)
        raise
    return run_ids


async def ended_runs(api: Api, request: Request, run_ids: Sequence[str]) -> list[RunReport]:
    """Returns the reports of these runs when all have ended.

    Cancels those that have not when the client leaves: it has no id by which it could. Raises
    ClientDisconnect then. The body of the request has been read.
    """
    waiting = asyncio.gather(*(api.runs.ended(run_id, math.inf) for run_id in run_ids))
    leaving = asyncio.ensure_future(_left(request))
    both: tuple[asyncio.Future[Any], ...] = (waiting, leaving)
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise ClientDisconnect
        return waiting.result()
    finally:
        if not waiting.done():
            cancel_runs(api, run_ids)
        for each in both:
            each.cancel()
        await asyncio.gather(*both, return_exceptions=True)


def cancel_runs(api: Api, run_ids: Sequence[str]) -> None:
    """Cancels those of these runs that are not over."""
    for run_id in run_ids:
        # A closed engine has ended its runs.
        with contextlib.suppress(EngineError):
            api.runs.cancel(run_id)


def failure(reports: Sequence[RunReport]) -> ErrorReport | None:
    """Returns why one of these runs has no results; None if all have succeeded."""
    for report in reports:
        if report.error is not None:
            problems = tuple(
                Problem(place=each.place, message=each.message, hint=each.hint)
                for each in report.error.problems
            )
            return ErrorReport(kind=report.error.kind, message=report.error.message,
                               hint=report.error.hint, problems=problems)  # fmt: skip
        if report.state != "succeeded":
            return ErrorReport(
                kind="Cancelled", message="The run was cancelled.", hint=report.notice
            )
    return None


def made_images(api: Api, reports: Sequence[RunReport]) -> list[MadeImage]:
    """Returns the final images of these runs; reads the disk. Raises UnknownResult for one that is
    gone."""
    return [
        MadeImage(report.run_id, result, api.runs.result_file(result.id).read_bytes())
        for report in reports
        for result in report.results
        if result.final and result.content_type.startswith("image/")
    ]


async def _left(request: Request) -> None:
    """Returns when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
