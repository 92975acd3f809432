"""Media by URL are fetched while their run waits: the worker goes on with others meanwhile.

Only when all of a run's files are here is it known what would identify it, so whether an identical
run has answered it already is looked up then.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from app.engine.run import Run
from app.engine.runs import Runs
from app.errors import Cancelled, FetchError, WorkbenchError
from app.media.cache import MediaCache, MediaFile
from app.protocol import FetchingMedia, RunFailed
from app.settings import Settings
from app.workflow.fingerprint import request_key
from app.workflow.plan import Plan
from app.workflow.plan_values import RemoteValue, Value
from app.workflow.planning.media import FILE_VALUES
from app.workflow.remote import remote_values, with_files

log = logging.getLogger(__name__)

TELL_EVERY_S = 0.25


class MediaFetches:
    """Made by the engine's loop; each run's fetches have a thread of their own."""

    def __init__(
        self, settings: Settings, runs: Runs, post: Callable[[Callable[[], None]], None]
    ) -> None:
        paths = settings.paths
        self._cache = MediaCache(paths.outputs.resolve(), paths.urls, paths.limits)
        self._device = settings.worker.device
        self._holding: dict[str, Run] = {}
        """The runs for whom media are held."""
        self._runs = runs
        self._post = post

    def begin(self, run: Run) -> None:
        """Fetch what the run needs, then have it wait for the worker alone; it fails otherwise.

        A run that is ended meanwhile is not fetched for any further.
        """
        threading.Thread(
            target=self._fetch, args=(run,), name=f"fetch {run.run_id}", daemon=True
        ).start()

    def _fetch(self, run: Run) -> None:
        self._holding[run.run_id] = run
        try:
            plan = self._fetched(run)
            key = request_key(plan, self._device) if plan.seed_given else None
        except Cancelled:
            return
        except WorkbenchError as error:
            self._fail(run, error)
        except Exception as error:
            # Whatever it is, the run must not wait for ever.
            log.exception("Media could not be fetched")
            self._fail(run, FetchError(f"Media could not be fetched: {error}"))
        else:
            self._post(partial(self._runs.fetched, run, plan, key))

    def _fetched(self, run: Run) -> Plan:
        wanted = {(value.kind, value.url): value for value in remote_values(run.plan)}
        files: dict[tuple[str, str], Value] = {}
        found: list[MediaFile] = []
        for number, (key, value) in enumerate(wanted.items(), start=1):
            tell = _Telling(run, value.url, number, len(wanted), self._post)
            tell(0, None)
            try:
                file = self._cache.fetch(
                    value.url, value.kind, tell=tell, stopped=lambda: run.over, holder=run.run_id
                )
            except FetchError as error:
                raise FetchError(f"{value.place}: {error.message}", hint=error.hint) from error
            found.append(file)
            path = str(self._cache.path(file))
            files[key] = FILE_VALUES[value.kind](path=path, sha256=file.sha256)
        self._release_ended()
        self._cache.admit(run.run_id)

        def resolve(value: Value) -> Value:
            return files[value.kind, value.url] if isinstance(value, RemoteValue) else value

        sums = {file.url: file.sha256 for file in found}
        plan = with_files(run.plan, resolve).model_copy(update={"fetched": sums})
        if run.check is not None:
            run.check(plan)
        return plan

    def _release_ended(self) -> None:
        """What ended runs needed may leave; what waiting ones need may not."""
        for run_id, run in [*self._holding.items()]:
            if run.over:
                self._holding.pop(run_id, None)
                self._cache.release(run_id)

    def _fail(self, run: Run, error: WorkbenchError) -> None:
        ended = RunFailed(run_id=run.run_id, time=time.time(), error=error.report())
        self._post(partial(self._runs.end_early, run, ended))


class _Telling:
    """Tells the run's followers how far a fetch is, a few times a second."""

    def __init__(
        self,
        run: Run,
        url: str,
        number: int,
        count: int,
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        self._run, self._url, self._number, self._count = run, url, number, count
        self._post = post
        self._told_at = 0.0

    def __call__(self, done_bytes: int, total_bytes: int | None) -> None:
        now = time.monotonic()
        if now - self._told_at < TELL_EVERY_S and done_bytes != total_bytes:
            return
        self._told_at = now
        event = FetchingMedia(
            run_id=self._run.run_id,
            time=time.time(),
            url=self._url,
            number=self._number,
            count=self._count,
            fetched_bytes=done_bytes,
            total_bytes=total_bytes,
        )
        self._post(partial(self._append, event))

    def _append(self, event: FetchingMedia) -> None:
        if not self._run.over:
            self._run.append(event)
