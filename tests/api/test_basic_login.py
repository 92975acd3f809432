"""The page's logins as name and password in a header, as clients of A1111's `--api-auth` send."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.ui.login import UNDELAYED_TRIES
from tests.ui.serving import Served, served

GUEST, OPERATOR = ("me", "a:secret"), ("root", "größer")
RUN = "/v1/runs/20260101-000000-0123456789abcdef"
"""A run that is not there: 404 for everybody who may ask."""
RUNS = "/v1/workflows/text-to-image/runs"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("basic")
    with served(folder, DW_AUTH=":".join(GUEST), DW_OPERATOR_AUTH=":".join(OPERATOR)) as page:
        yield page


def status(page: Served, path: str, login: tuple[str | bytes, str | bytes], address: str) -> int:
    headers = {"X-Forwarded-For": address}
    return httpx.get(f"{page.url}{path}", auth=login, headers=headers).status_code


def test_login_opens_paths_of_programs_only(page: Served) -> None:
    for path, expected in (
        (RUN, 404), ("/v1/models", 200), ("/v1/status", 200), ("/sdapi/v1/sd-models", 200),
        ("/config", 401), ("/gradio_api/info", 401),
    ):  # fmt: skip
        assert (path, status(page, path, GUEST, "203.0.113.1")) == (path, expected)


def test_login_has_its_own_rights(page: Served) -> None:
    for login, expected in ((GUEST, 422), (OPERATOR, 202)):
        body = {"inputs": {"steps": 1}, "changes": {"/seed": 5}}
        assert httpx.post(f"{page.url}{RUNS}", auth=login, json=body).status_code == expected


def test_older_encoding_of_the_password_is_read(page: Served) -> None:
    name, password = (word.encode("latin-1") for word in OPERATOR)
    assert status(page, RUN, (name, password), "203.0.113.1") == 404


@pytest.mark.parametrize("header", ["Basic", "Basic ?", "Basic bWU=", "Basic OmE6c2VjcmV0"])
def test_unreadable_login_is_refused(page: Served, header: str) -> None:
    answer = httpx.get(f"{page.url}{RUN}", headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.json()["error"]["kind"] == "NotLoggedIn"


def test_guesses_are_delayed_per_address(page: Served) -> None:
    wrong = ("me", "wrong")
    codes = [status(page, RUN, wrong, "203.0.113.7") for _ in range(UNDELAYED_TRIES + 3)]
    assert codes == [401] * UNDELAYED_TRIES + [429] * 3
    for path, kind in ((RUN, "error"), ("/sdapi/v1/options", "detail")):
        headers = {"X-Forwarded-For": "203.0.113.7"}
        answer = httpx.get(f"{page.url}{path}", auth=GUEST, headers=headers)
        assert answer.status_code == 429
        assert "Too many wrong passwords" in str(answer.json()[kind])
        assert int(answer.headers["retry-after"]) >= 1
    assert status(page, RUN, GUEST, "203.0.113.8") == 404


def test_login_of_the_browser_goes_before_a_password_for_its_proxy(page: Served) -> None:
    headers = {"X-Forwarded-For": "203.0.113.9"}
    for_proxy = ("proxy", "its password")
    with httpx.Client(base_url=page.url, auth=for_proxy, headers=headers) as browser:
        assert browser.get(RUN).status_code == 401
        login = {"username": GUEST[0], "password": GUEST[1]}
        assert browser.post("/login", data=login).status_code == 200
        assert browser.get(RUN).status_code == 404


def test_any_login_is_ignored_where_none_is_needed(tmp_path: Path) -> None:
    with served(tmp_path) as page:
        assert httpx.get(f"{page.url}{RUN}", auth=("any", "word")).status_code == 404
