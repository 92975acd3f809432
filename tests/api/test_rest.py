"""The REST interface at a real server: runs, results, errors."""

from __future__ import annotations

import base64
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.api.test_streams import MANY
from tests.servers import Server
from tests.site import Site, picture

FEW = {"prompt": "a red circle on a white background", "steps": 2}
RUNS = "/v1/workflows/text-to-image/runs"


def run(rest: httpx.Client, workflow: str = "text-to-image", **body: Any) -> dict[str, Any]:
    """Returns the report of a run that was waited for."""
    answer = rest.post(f"/v1/workflows/{workflow}/runs?wait=120", json=body)
    assert answer.status_code == 200, answer.text
    report = answer.json()
    assert report["state"] == "succeeded", report
    return report


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert set(error) == {"kind", "message", "hint", "place", "run_id", "problems"}
    return error


# --- runs ----------------------------------------------------------------------------------------


def test_run_is_accepted_and_reported(rest: httpx.Client) -> None:
    accepted = rest.post(RUNS, json={"inputs": FEW, "seed": 7, "fresh": True})
    assert accepted.status_code == 202
    told = accepted.json()
    assert accepted.headers["location"] == f"/v1/runs/{told['run_id']}"
    report = rest.get(f"/v1/runs/{told['run_id']}?wait=120").json()
    assert (report["state"], report["seed"], report["error"]) == ("succeeded", 7, None)
    assert report["progress"] == 1.0
    assert report["submitted_at"] <= report["started_at"] <= report["ended_at"]
    assert report["seconds"] > 0


def test_result_has_an_address_and_no_path(rest: httpx.Client, server: Server) -> None:
    report = run(rest, inputs={**FEW, "pictures": 2}, seed=3)
    assert str(server.outputs) not in json.dumps(report)
    assert len(report["results"]) == 2
    for result in report["results"]:
        assert result["url"] == f"/v1/results/{result['id']}"
        answer = rest.get(result["url"])
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["content-security-policy"].startswith("sandbox")
        with Image.open(io.BytesIO(answer.content)) as drawn:
            assert drawn.size == (result["width"], result["height"]) == (128, 128)
        assert rest.get(result["record_url"]).json()["seed"] == 3


def test_part_of_result_is_sent_on_request(rest: httpx.Client) -> None:
    address = run(rest, inputs=FEW, seed=7)["results"][0]["url"]
    whole = rest.get(address).content
    part = rest.get(address, headers={"Range": "bytes=2-9"})
    assert (part.status_code, part.content) == (206, whole[2:10])
    assert part.headers["content-range"] == f"bytes 2-9/{len(whole)}"
    assert rest.head(address).headers["content-length"] == str(len(whole))


def test_curl_runs_a_workflow_with_a_file(server: Server, picture: Path, tmp_path: Path) -> None:
    form = ["-F", f"image=@{picture}", "-F", "prompt=a blue star", "-F", "steps=2", "-F", "seed=5"]
    asked = [
        "curl",
        "-sS",
        "--fail-with-body",
        f"{server.url}/v1/workflows/variations/runs?wait=120",
    ]
    report = json.loads(subprocess.run([*asked, *form], capture_output=True, check=True).stdout)
    assert (report["state"], report["seed"]) == ("succeeded", 5)
    file = tmp_path / "star.png"
    address = server.url + report["results"][0]["url"]
    subprocess.run(["curl", "-sS", "--fail", "-o", file, address], check=True)
    with Image.open(file) as drawn:
        assert drawn.format == "PNG"


def test_media_come_by_url_data_and_result(rest: httpx.Client, site: Site, server: Server) -> None:
    encoded = base64.b64encode(picture("red", 128)).decode()
    earlier = run(rest, inputs=FEW, seed=7)["results"][0]["url"]
    for source in (
        site.put("/a.png", picture("blue", 128)), f"data:image/png;base64,{encoded}", earlier
    ):  # fmt: skip
        report = run(rest, "variations", inputs={"image": source, "prompt": "a star", "steps": 2})
        assert len(report["results"]) == 1


def test_changes_and_identical_requests(rest: httpx.Client) -> None:
    changes = {"/steps/0/pipeline/arguments/width": 64, "/steps/0/pipeline/arguments/height": 64}
    first = run(rest, inputs=FEW, seed=11, changes=changes)
    assert (first["results"][0]["width"], first["unchanged"]) == (64, False)
    again = run(rest, inputs=FEW, seed=11, changes=changes)
    assert again["unchanged"]
    assert again["run_id"] != first["run_id"]
    assert not run(rest, inputs=FEW, seed=11, changes=changes, fresh=True)["unchanged"]


def test_failed_run_reports_its_error(rest: httpx.Client, site: Site) -> None:
    inputs = {"image": site.url("/missing.png"), "prompt": "a star"}
    answer = rest.post("/v1/workflows/variations/runs?wait=120", json={"inputs": inputs})
    report = answer.json()
    assert (answer.status_code, report["state"]) == (200, "failed")
    assert report["error"]["kind"] == "FetchError"
    assert report["error"]["run_id"] == report["run_id"]
    assert "404" in report["error"]["message"]


# --- errors --------------------------------------------------------------------------------------


def test_unknown_names_are_404(rest: httpx.Client) -> None:
    error = error_of(rest.post("/v1/workflows/text-to-imag/runs", json={}), 404)
    assert (error["kind"], error["hint"]) == ("UnknownWorkflow", "Did you mean 'text-to-image'?")
    for path, kind in (
        ("/v1/runs/20260101-000000-0123456789abcdef", "UnknownRun"),
        ("/v1/results/20260101-000000-0123456789abcdef-0", "UnknownResult"),
        ("/v1/results/x", "UnknownResult"),
        ("/v1/nothing", "NotFound"),
    ):
        assert error_of(rest.get(path), 404)["kind"] == kind
    assert error_of(rest.get(RUNS), 405)["kind"] == "MethodNotAllowed"


def test_wrong_inputs_are_422_with_all_problems(rest: httpx.Client) -> None:
    inputs = {"prompt": "a star", "steps": 100000, "colour": "red"}
    error = error_of(rest.post(RUNS, json={"inputs": inputs}), 422)
    assert error["kind"] == "InvalidInputs"
    assert {each["place"] for each in error["problems"]} == {"inputs.steps", "inputs.colour"}
    assert error["place"] == error["problems"][0]["place"]


@pytest.mark.parametrize(
    "given", ["/etc/passwd", "circle.png", {"path": "/etc/passwd"}, 7, "/v1/results/../x"]
)
def test_paths_are_no_media(rest: httpx.Client, given: Any) -> None:
    answer = rest.post("/v1/workflows/variations/runs", json={"inputs": {"image": given}})
    assert answer.status_code in {404, 422}
    assert error_of(answer, answer.status_code)["kind"] in {"InvalidInputs", "UnknownResult"}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{", "application/json"), (b"[]", "application/json"),
        (b'{"input": {}}', "application/json"),
        (b'{"seed": "7"}', "application/json"), (b'{"seed": NaN}', "application/json"),
        (b"inputs=1", "application/x-www-form-urlencoded"), (b"x", "multipart/form-data"),
        (b"x", "multipart/form-data; boundary=b"),
    ],
)  # fmt: skip
def test_malformed_body_is_400(rest: httpx.Client, body: bytes, kind: str) -> None:
    answer = rest.post(RUNS, content=body, headers={"content-type": kind})
    assert error_of(answer, 400)["kind"] == "MalformedBody"


def test_impossible_wait_is_400(rest: httpx.Client) -> None:
    for wait in ("nan", "-1", "601", "soon"):
        assert error_of(rest.post(f"{RUNS}?wait={wait}", json={}), 400)["kind"] == "MalformedBody"


def test_too_large_body_is_413(rest: httpx.Client) -> None:
    large = base64.b64encode(bytes(31 * 1024 * 1024)).decode()
    inputs = {"image": f"data:image/png;base64,{large}"}
    answer = rest.post("/v1/workflows/variations/runs", json={"inputs": inputs})
    assert error_of(answer, 413)["kind"] == "BodyTooLarge"
    files = {"image": ("a.png", bytes(31 * 1024 * 1024))}
    answer = rest.post("/v1/workflows/variations/runs", files=files)
    assert error_of(answer, 413)["kind"] == "BodyTooLarge"
    answer = rest.post(RUNS, content=bytes(61 * 1024 * 1024))
    assert error_of(answer, 413)["kind"] == "BodyTooLarge"


def test_requests_of_other_sites_are_refused(rest: httpx.Client) -> None:
    other = rest.post(RUNS, json={}, headers={"Origin": "https://evil.example"})
    assert error_of(other, 403)["kind"] == "NotAllowed"
    embedded = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert error_of(rest.get("/v1/runs/x", headers=embedded), 403)["kind"] == "NotAllowed"
    assert error_of(rest.get("/v1/runs/x", headers={"Host": "evil.example"}), 421)


def test_changes_of_guest_are_limited(rest: httpx.Client) -> None:
    guest = {"X-Forwarded-For": "203.0.113.1"}
    changes = {"/steps/0/pipeline/arguments/num_inference_steps": 151}
    error = error_of(rest.post(RUNS, json={"inputs": FEW, "changes": changes}, headers=guest), 422)
    assert "DW_OPERATOR_AUTH" in error["hint"]


def test_too_many_runs_of_a_guest_are_429(rest: httpx.Client) -> None:
    guest = {"X-Forwarded-For": "203.0.113.9"}
    runs: list[str] = []
    while (answer := rest.post(RUNS, json={"inputs": MANY}, headers=guest)).status_code == 202:
        runs.append(answer.json()["run_id"])
    assert error_of(answer, 429)["kind"] == "TooManyRuns"
    assert int(answer.headers["retry-after"]) > 0
    # One may have begun.
    assert 3 <= len(runs) <= 4
    for run_id in reversed(runs):
        assert rest.post("/gradio_api/run/cancel_job", json={"data": [run_id]}).status_code == 200
    for run_id in runs:
        assert rest.get(f"/v1/runs/{run_id}?wait=60").json()["state"] == "cancelled"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
NAMES = st.sampled_from(["inputs", "seed", "changes", "fresh", "webhook", "x"])


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.dictionaries(NAMES, JSON) | JSON, st.booleans())
def test_no_body_is_a_fault_of_the_server(rest: httpx.Client, body: Any, as_form: bool) -> None:
    address = "/v1/workflows/variations/runs"  # without its picture nothing can run
    if as_form and isinstance(body, dict):
        form = {name: json.dumps(value) for name, value in body.items()}
        answer = rest.post(address, data=form, files={"none": b""})
    else:
        answer = rest.post(
            address, content=json.dumps(body), headers={"content-type": "application/json"}
        )
    assert error_of(answer, answer.status_code)["message"]
    assert answer.status_code in {400, 422}
