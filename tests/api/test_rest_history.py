"""Runs of an earlier server by the REST interface."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.api.test_rest import FEW, RUNS, error_of
from tests.api.test_rest_streams import follow
from tests.ui.serving import served


def test_run_of_an_earlier_server_is_reported_with_its_results(tmp_path: Path) -> None:
    with served(tmp_path) as page, httpx.Client(base_url=page.url, timeout=120) as rest:
        before = rest.post(f"{RUNS}?wait=120", json={"inputs": FEW, "seed": 7}).json()
        address = f"/v1/runs/{before['run_id']}"
        last, done = follow(rest, before["run_id"])[-1]
        assert done["run"] == before
        result = rest.get(before["results"][0]["url"]).content
    with served(tmp_path) as page, httpx.Client(base_url=page.url, timeout=120) as rest:
        after = rest.get(address).json()
        changed = {"status", "phase", "progress"}
        assert after.items() >= {name: before[name] for name in before.keys() - changed}.items()
        assert rest.get(after["results"][0]["url"]).content == result
        # Of the new log, from its beginning.
        for events in (follow(rest, before["run_id"]), follow(rest, before["run_id"], last)):
            assert [data["event"] for _, data in events] == ["queued", "result", "done"]
        assert rest.delete(address).status_code == 200
        [file] = (tmp_path / "outputs" / before["run_id"]).glob("*.png")
        file.unlink()
        gone = rest.get(before["results"][0]["url"])
        assert error_of(gone, 404)["message"].endswith("is gone.")
