"""Fetches what a run needs before a worker gets it: media by URL, then models.

A few runs prepare at a time, beside active ones, each on its own thread; runs that want the same
file share its download. A run's request key is known only when its media are here, so results of an
identical run are looked up then.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from app.dialect.plan import Plan
from app.dialect.plan_values import FileValue, RemoteValue, Value
from app.engine.availability import identified, is_here
from app.engine.run import Run
from app.engine.runs import Runs
from app.errors import Cancelled, FetchError, WorkbenchError
from app.media.cache import MediaCache, MediaFile
from app.models.hub import Place, this_machine
from app.models.wanted import Wanted, bring_all, exactly
from app.planning.plan_media import remote_values, with_files
from app.protocol import Downloading, FetchingMedia, RunEvent, RunFailed
from app.settings import Settings
from app.shared_work import Share, SharedWork

if TYPE_CHECKING:
    from app.models.hub_download import Progress

log = logging.getLogger(__name__)


class Preparation:
    """Prepares waiting runs in order. Called on the engine's thread."""

    def __init__(
        self, settings: Settings, runs: Runs, post: Callable[[Callable[[], None]], None]
    ) -> None:
        """`post` schedules a call on the engine's thread."""
        paths = settings.paths
        self._media = MediaCache(paths.outputs.resolve(), paths.urls, paths.limits)
        self._worker = settings.worker
        self._at_a_time = settings.engine.max_preparing_runs
        self._runs, self._post = runs, post
        self._shared = SharedWork()
        self._under_way = 0
        self._holding: dict[str, Run] = {}
        """Runs for which media are held."""

    def advance(self, waiting: Sequence[Run]) -> None:
        """Starts to prepare queued runs, up to the limit.

        A run becomes ready when its files are here, or fails. Fetching stops when the run ends.
        """
        for run in waiting:
            if self._under_way >= self._at_a_time:
                return
            if run.stage == "queued":
                name = f"prepare {run.run_id}"
                threading.Thread(target=self._prepare, args=(run,), name=name, daemon=True).start()
                # (The thread's posts are handled after this call.)
                self._under_way += 1
                self._runs.preparing(run)

    def _has_ended(self) -> None:
        self._under_way -= 1

    # --- on the run's own thread -----------------------------------------------------------------

    def _prepare(self, run: Run) -> None:
        try:
            plan = self._with_media(run) if remote_values(run.plan) else run.plan
            self._download_models(run, plan)
            specs, key = identified(plan, self._worker)
        except Cancelled:
            pass
        except WorkbenchError as error:
            self._fail(run, error)
        except Exception as error:
            # Any error must end the run, which would wait for ever.
            log.exception("A run could not be prepared")
            self._fail(run, FetchError(f"The files of the run could not be fetched: {error}"))
        else:
            self._post(partial(self._runs.prepared, run, plan, key, specs))
        finally:
            self._post(self._has_ended)

    def _fail(self, run: Run, error: WorkbenchError) -> None:
        ended = RunFailed(run_id=run.run_id, time=time.time(), error=error.report())
        self._post(partial(self._runs.end_early, run, ended))

    def _report(self, run: Run, event: RunEvent) -> None:
        def append() -> None:
            if not run.over:
                run.append(event)

        self._post(append)

    # --- media -----------------------------------------------------------------------------------

    def _with_media(self, run: Run) -> Plan:
        """Returns the run's plan with a file instead of each URL."""
        self._holding[run.run_id] = run
        urls = {(value.kind, value.url): value for value in remote_values(run.plan)}
        files: dict[tuple[str, str], FileValue] = {}
        sums: dict[str, str] = {}
        for number, (key, value) in enumerate(urls.items(), start=1):
            try:
                file = self._fetched(run, value, number, len(urls))
            except FetchError as error:
                raise FetchError(f"{value.place}: {error.message}", hint=error.hint) from error
            sums[file.url] = file.sha256
            path = str(self._media.path(file))
            files[key] = FileValue(kind=value.kind, path=path, sha256=file.sha256)
        self._release_ended()
        self._media.admit(run.run_id)

        def resolve(value: Value) -> Value:
            if not isinstance(value, RemoteValue):
                return value
            return files[value.kind, value.url].model_copy(update={"is_mask": value.is_mask})

        plan = with_files(run.plan, resolve).model_copy(update={"fetched": sums})
        if run.check is not None:
            run.check(plan)
        return plan

    def _fetched(self, run: Run, value: RemoteValue, number: int, count: int) -> MediaFile:
        """Fetches the URL and holds its file for the run."""

        def fetch(share: Share[MediaFile]) -> MediaFile:
            def arrived(done_bytes: int, total_bytes: int | None) -> None:
                share.done_bytes, share.total_bytes = done_bytes, total_bytes

            return self._media.fetch(
                value.url, value.kind, tell=arrived, stopped=lambda: share.is_unwanted
            )

        told: tuple[int, bool] | None = None

        def progress(shares: Sequence[Share[MediaFile]]) -> None:
            nonlocal told
            (share,) = shares
            now = share.done_bytes, share.result.done()
            if now != told:
                told = now
                self._report(run, _fetching(run, value, number, count, share))

        key = ("media", value.kind, value.url)
        while True:
            (file,) = self._shared.results(
                {key: fetch}, stopped=lambda: run.over, progress=progress
            )
            # Fetched again if it was just removed to make room.
            if self._media.hold(file, run.run_id):
                return file

    def _release_ended(self) -> None:
        for run_id, run in [*self._holding.items()]:
            if run.over:
                self._holding.pop(run_id, None)
                self._media.release(run_id)

    # --- models ----------------------------------------------------------------------------------

    def _download_models(self, run: Run, plan: Plan) -> None:
        place = this_machine()

        def bring(model: Wanted) -> None:
            if not is_here(model, place):
                self._download(run, model, place)
            if run.over:
                raise Cancelled

        bring_all(plan, bring, place)
        for source, names in run.asked:
            bring(Wanted(source, exactly(names)))

    def _download(self, run: Run, model: Wanted, place: Place) -> None:
        # Imported late: it imports the hub's library.
        from app.models.hub_download import download

        def tell(progress: Progress) -> None:
            self._report(
                run,
                Downloading(
                    run_id=run.run_id,
                    time=time.time(),
                    model=model.source.model,
                    done_bytes=progress.done_bytes,
                    total_bytes=progress.total_bytes,
                    seconds_left=progress.seconds_left,
                ),
            )

        download(model, place, self._shared, tell=tell, stopped=lambda: run.over)


def _fetching(
    run: Run, value: RemoteValue, number: int, count: int, share: Share[MediaFile]
) -> FetchingMedia:
    return FetchingMedia(
        run_id=run.run_id,
        time=time.time(),
        url=value.url,
        number=number,
        count=count,
        fetched_bytes=share.done_bytes,
        total_bytes=share.total_bytes,
    )
