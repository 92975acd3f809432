"""Who may call the REST interface: a login, a token, or this machine without a password."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.ui.serving import Served, served

TOKEN = "a-token-of-some-length"
PATH = "/v1/runs/20260101-000000-0123456789abcdef"
"""A run that is not there: 404 for everybody who may ask."""


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("protected")
    with served(folder, DW_AUTH="me:a-long-password", DW_API_TOKEN=TOKEN) as page:
        yield page


def status(page: Served, **headers: str) -> int:
    return httpx.get(f"{page.url}{PATH}", headers=headers).status_code


def test_login_or_token_is_needed(protected: Served) -> None:
    answer = httpx.get(f"{protected.url}{PATH}")
    assert answer.status_code == 401
    assert answer.json()["error"]["kind"] == "NotLoggedIn"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert status(protected, Authorization=f"Bearer {TOKEN}") == 404
    assert status(protected, Authorization=f"bearer {TOKEN}") == 404


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}x", "Bearer", f"Basic {TOKEN}", "Bearer tök"])
def test_wrong_token_is_refused(protected: Served, header: str) -> None:
    answer = httpx.get(
        f"{protected.url}{PATH}", headers={b"Authorization": header.encode("latin-1")}
    )
    assert answer.status_code == 401


def test_login_of_the_page_is_enough(protected: Served) -> None:
    with httpx.Client(base_url=protected.url) as browser:
        login = {"username": "me", "password": "a-long-password"}
        assert browser.post("/login", data=login).status_code == 200
        assert browser.get(PATH).status_code == 404
        wrong = {"Authorization": "Bearer wrong-wrong-wrong"}
        assert browser.get(PATH, headers=wrong).status_code == 401


def test_token_opens_nothing_of_the_page(protected: Served) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert httpx.get(f"{protected.url}/config", headers=headers).status_code == 401


def test_token_is_a_guest_where_a_password_is_set(protected: Served) -> None:
    changes = {"/seed": 5}
    answer = httpx.post(
        f"{protected.url}/v1/workflows/text-to-image/runs", json={"changes": changes},
        headers={"Authorization": f"Bearer {TOKEN}"},
    )  # fmt: skip
    assert answer.status_code == 422
    assert "Only values below the arguments" in answer.json()["error"]["problems"][0]["message"]


def test_local_page_without_password_needs_no_token(tmp_path: Path) -> None:
    with served(tmp_path, DW_API_TOKEN=TOKEN) as page:
        assert status(page) == 404
        assert status(page, Authorization="Bearer wrong-wrong-wrong") == 401


def test_any_token_is_ignored_where_none_is_set(tmp_path: Path) -> None:
    """Clients of other services always send one."""
    with served(tmp_path) as page:
        assert status(page, Authorization="Bearer none") == 404
