"""Media by URL are fetched while their run waits, and their content decides the request key."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.dialect.plan import Plan
from app.dialect.plan_values import FileValue
from app.engine import Engine
from app.errors import InvalidInputs
from app.protocol import (
    TERMINAL,
    FetchingMedia,
    RunCancelled,
    RunEvent,
    RunFailed,
    RunQueued,
    RunStarted,
    StartRun,
)  # fmt: skip
from app.settings import PathSettings, Settings, WorkerSettings
from tests.doubles.scripted_worker import scripted_worker
from tests.engine.bench import Bench, Heard
from tests.site import Site, picture


@pytest.fixture
def seeing(workflow: Path, tmp_path: Path, heard: Heard, site: Site) -> Iterator[Bench]:
    """A started engine whose workflow varies the image at `/cat.png` of the site."""
    document = json.loads(workflow.read_text())
    document["variables"] = {"prompt": "", "image": site.put("/cat.png", picture("red"))}
    document.pop("inputs")
    pipeline = document["steps"][0]["pipeline"]
    pipeline["configuration"] = {"component_type": "StableDiffusionImg2ImgPipeline"}
    pipeline["arguments"] = {"prompt": "variable:prompt", "image": "variable:image"}
    file = workflow.with_name(f"{tmp_path.name}.json")
    file.write_text(json.dumps(document))
    engine = Engine(scripted_worker)
    engine.start(
        Settings(
            worker=WorkerSettings(device="cpu"),
            paths=PathSettings(outputs=tmp_path, urls=site.urls),
        )
    )
    try:
        yield Bench(engine, file, tmp_path, tmp_path, heard)
    finally:
        engine.close()
        file.unlink()


def seen(bench: Bench) -> list[bytes]:
    """Returns the images the worker received, in the order of its runs."""
    found = []
    for command in bench.heard.commands:
        if isinstance(command, StartRun):
            value = command.plan.steps[0].arguments["image"]
            assert isinstance(value, FileValue)
            found.append(Path(value.path).read_bytes())
    return found


def test_fetched_media_reach_worker_and_request_is_reused(seeing: Bench, site: Site):
    first = seeing.run("save a.png", seed=7)
    assert first.success.made_at is None
    told = [event for event in first.events if isinstance(event, FetchingMedia)]
    assert {(event.url, event.number, event.count) for event in told} == {
        (site.url("/cat.png"), 1, 1)
    }
    assert told[-1].fetched_bytes == told[-1].total_bytes == len(picture("red"))
    second = seeing.run("save a.png", seed=7)
    assert second.success.made_at == first.success.time
    assert site.answered == [200, 304]
    with site.gone():
        assert seeing.run("save a.png", seed=7).success.made_at == first.success.time
    assert seen(seeing) == [picture("red")]


def fetched(bench: Bench, run_id: str) -> RunEvent:
    """Returns the event after a run's media are here: waiting again, or its end."""
    events = bench.engine.events(run_id)
    told = (event for event in events if isinstance(event, (RunQueued, *TERMINAL)))
    assert isinstance(next(told), RunQueued)
    return next(told)


def test_media_of_waiting_run_are_not_evicted(
    seeing: Bench, site: Site, tmp_path: Path, heard: Heard
):
    """There is room for the media of two runs, and a third run's media come last."""
    red, green, blue = (
        site.put(f"/{colour}.png", picture(colour) + bytes(10_000))
        for colour in ("red", "green", "blue")
    )
    engine = Engine(scripted_worker)
    small = Bench(engine, seeing.workflow, tmp_path, tmp_path, heard)
    engine.start(
        Settings(
            worker=WorkerSettings(device="cpu"),
            paths=PathSettings(
                outputs=tmp_path, urls=site.urls.model_copy(update={"media_cache_bytes": 25_000})
            ),
        )
    )
    try:
        gate = small.gate()
        script = {"prompt": f"wait for {gate}", "image": red}
        held = engine.submit(seeing.workflow, script)
        small.until(held, RunStarted)
        waiting = engine.submit(seeing.workflow, {"prompt": "nothing", "image": green})
        assert isinstance(fetched(small, waiting), RunQueued)
        refused = engine.submit(seeing.workflow, {"prompt": "nothing", "image": blue})
        ended = fetched(small, refused)
        assert isinstance(ended, RunFailed)
        assert "and those of the runs before it" in ended.error.message
        gate.touch()
        assert small.finish(waiting).success
        assert seen(small)[-1] == picture("green") + bytes(10_000)
        assert small.finish(
            engine.submit(seeing.workflow, {"prompt": "nothing", "image": blue})
        ).success
    finally:
        engine.close()


def test_changed_media_at_url_is_another_request(seeing: Bench, site: Site):
    seeing.run("save a.png", seed=7)
    site.put("/cat.png", picture("blue"))
    assert seeing.run("save a.png", seed=7).success.made_at is None
    site.put("/cat.png", picture("red"))
    assert seeing.run("save a.png", seed=7).success.made_at is not None
    assert seen(seeing) == [picture("red"), picture("blue")]


def test_fetching_does_not_block_other_runs(seeing: Bench, site: Site):
    hold = threading.Event()
    site.put("/slow.png", write=lambda _send: hold.wait(10))
    waiting = seeing.engine.submit(
        seeing.workflow, {"prompt": "nothing", "image": site.url("/slow.png")}
    )
    seeing.until(waiting, FetchingMedia)
    (info,) = seeing.engine.status().queue
    assert (info.run_id, info.state, info.phase) == (waiting, "preparing", "fetching")
    assert seeing.run("nothing").success
    assert seeing.engine.cancel(waiting)
    ended = seeing.finish(waiting).terminal
    assert isinstance(ended, RunCancelled)
    assert ended.phase == "fetching"
    hold.set()
    assert seeing.sent != []
    assert waiting not in seeing.sent


def test_runs_share_a_fetch_and_cancel_leaves_it_to_the_other(seeing: Bench, site: Site):
    go_on = threading.Event()

    def slowly(send: Callable[[bytes], None]) -> None:
        content = picture("red")
        send(content[:20])
        go_on.wait(10)
        send(content[20:])

    site.put("/slow.png", write=slowly)
    given = {"prompt": "nothing", "image": site.url("/slow.png")}
    first, second = (seeing.engine.submit(seeing.workflow, given, seed=n) for n in (1, 2))
    for run_id in (first, second):
        seeing.until(run_id, FetchingMedia)
    assert seeing.engine.cancel(first)
    assert isinstance(seeing.finish(first).terminal, RunCancelled)
    go_on.set()
    assert seeing.finish(second).success
    assert len(site.asked) == 1
    assert seen(seeing) == [picture("red")]


def test_failed_fetch_fails_run_and_names_the_place(seeing: Bench, site: Site):
    site.pages.clear()
    ended = seeing.run("nothing").terminal
    assert isinstance(ended, RunFailed)
    assert ended.error.kind == "FetchError"
    assert ended.error.message == (
        f"steps[0].pipeline.arguments.image: '{site.url('/cat.png')}' could not be fetched:"
        " the server answers 404 (Not Found)."
    )
    assert seeing.sent == []


def test_unlisted_site_is_refused_before_the_run(seeing: Bench, site: Site):
    other = Site()
    try:
        sentence = f"Port {other.port} is not allowed for media."
        with pytest.raises(InvalidInputs, match=sentence):
            seeing.engine.submit(seeing.workflow, {"image": other.put("/a.png")})
        site.redirect("/cat.png", other.url("/a.png"))
        ended = seeing.run("nothing").terminal
        assert isinstance(ended, RunFailed)
        assert sentence in ended.error.message
        assert other.asked == []
    finally:
        other.close()


def test_run_check_applies_to_fetched_media(seeing: Bench) -> None:
    def refuse_pictures(plan: Plan) -> None:
        if any(isinstance(value, FileValue) for value in plan.steps[0].arguments.values()):
            raise InvalidInputs("No picture may be handed in.")

    run_id = seeing.engine.submit(seeing.workflow, {"prompt": "nothing"}, check=refuse_pictures)
    ended = seeing.finish(run_id).terminal
    assert isinstance(ended, RunFailed)
    assert ended.error.message == "No picture may be handed in."
    assert seen(seeing) == []
