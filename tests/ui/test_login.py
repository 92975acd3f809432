"""Log-in and log-out at a real server, delays of guesses, and idle logins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gradio_client import Client

from app.settings import UiSettings
from app.ui.login import ANONYMOUS, UNDELAYED_TRIES, Logins, Throttle, Tokens
from tests.ui.serving import Served, served

GUEST, OPERATOR = ("me", "a:secret"), ("root", "another")


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("login")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    with served(folder, "--auth", ":".join(GUEST), DW_OPERATOR_AUTH=":".join(OPERATOR)) as server:
        yield server


def browser(server: Served, address: str) -> httpx.Client:
    """Returns a browser at this address, behind a proxy of this machine."""
    return httpx.Client(
        base_url=server.url, headers={"X-Forwarded-For": address}, timeout=30, trust_env=False
    )


def log_in(browser: httpx.Client, login: tuple[str, str] = GUEST) -> int:
    data = {"username": login[0], "password": login[1]}
    return browser.post("/login", data=data).status_code


def is_in(browser: httpx.Client) -> bool:
    return browser.get("/config").status_code == 200


# --- at a server ---------------------------------------------------------------------------------


def test_wrong_passwords_are_delayed_per_address_and_logged(server: Served, folder: Path) -> None:
    with browser(server, "203.0.113.1") as guesser, browser(server, "203.0.113.2") as other:
        forged = ("me\nWARNING root logged in", "wrong")
        codes = [log_in(guesser, forged) for _ in range(UNDELAYED_TRIES + 20)]
        assert codes[:UNDELAYED_TRIES] == [400] * UNDELAYED_TRIES
        assert codes.count(429) > 10
        # Right or wrong: a delayed client learns nothing.
        refused = guesser.post("/login", data={"username": "me", "password": "a:secret"})
        assert refused.status_code == 429
        assert "Try again in" in refused.json()["detail"]
        assert int(refused.headers["Retry-After"]) >= 1
        assert log_in(other) == 200
        assert is_in(other)
    log = (folder / "server.log").read_text()
    lines = [line for line in log.splitlines() if "from 203.0.113.1 failed" in line]
    assert len(lines) >= UNDELAYED_TRIES
    assert "\nWARNING root logged in" not in log


def test_logout_ends_own_login_only_by_own_form(server: Served) -> None:
    with browser(server, "203.0.113.3") as one, browser(server, "203.0.113.4") as other:
        assert log_in(one) == log_in(other) == 200
        assert "Log out" in one.get("/logout").text
        foreign = one.post("/logout", headers={"origin": "https://evil.example"})
        assert foreign.status_code == 403
        assert is_in(one)
        assert one.post("/logout", headers={"origin": server.url}).status_code == 303
        assert not is_in(one)
        assert is_in(other)


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/gradio_api/cancel"), ("GET", "/gradio_api/heartbeat/any")]
)
def test_routes_left_open_by_gradio_need_login(server: Served, method: str, path: str) -> None:
    body = {"session_hash": "any", "fn_index": 0, "event_id": "any"}
    with browser(server, "203.0.113.5") as guest:
        assert guest.request(method, path, json=body).status_code == 401
        assert log_in(guest) == 200
        with guest.stream(method, path, json=body) as answer:
            assert answer.status_code == 200


def test_login_form_leads_to_page(server: Served) -> None:
    with browser(server, "203.0.113.6") as person:
        assert "password" in person.get("/login").text
        person.headers["accept"] = "text/html"
        wrong = person.post("/login", data={"username": "me", "password": "wrong"})
        assert (wrong.status_code, "is wrong" in wrong.text) == (400, True)
        right = person.post("/login", data={"username": "me", "password": "a:secret"})
        assert (right.status_code, right.headers["location"]) == (303, "/")
        assert is_in(person)


def test_operator_login_allows_changes_that_guest_login_does_not(server: Served) -> None:
    def change(login: tuple[str, str]) -> str:
        client = Client(server.url, auth=login, verbose=False, analytics_enabled=False)
        try:
            job = client.submit(
                workflow="text-to-image", variables={"steps": 1}, changes={"/seed": 3},
                api_name="/generate",
            )  # fmt: skip
            return str(list(job)[-1]["event"])
        finally:
            client.close()

    assert change(GUEST) == "error"
    assert change(OPERATOR) == "done"


def test_idle_login_ends_at_server(tmp_path: Path) -> None:
    """The idle time is so short that any request comes too late."""
    login = ("--auth", ":".join(GUEST))
    with (
        served(tmp_path, *login, DW_LOGIN_IDLE_S="0.000001") as server,
        browser(server, "203.0.113.8") as person,
    ):
        assert log_in(person) == 200
        assert person.cookies
        assert person.get("/config").status_code == 401


# --- the parts -----------------------------------------------------------------------------------


def test_throttle_delay_grows_up_to_limit() -> None:
    clock = Clock()
    throttle = Throttle(60.0, clock)
    waits = []
    for _ in range(100):
        throttle.failed("anna")
        waits.append(throttle.wait_s("anna"))
    assert waits[: UNDELAYED_TRIES - 1] == [0.0] * (UNDELAYED_TRIES - 1)
    assert waits == sorted(waits)
    assert waits[-1] == 60.0
    assert throttle.wait_s("ben") == 0.0
    clock.now_s += 60.0
    assert throttle.wait_s("anna") == 0.0
    throttle.succeeded("anna")
    throttle.failed("anna")
    assert throttle.wait_s("anna") == 0.0


def test_login_lasts_while_used_and_ends_when_idle() -> None:
    clock = Clock()
    tokens = Tokens(10.0, None, clock)
    tokens["a"], tokens["b"] = "me", "me"
    for _ in range(5):
        clock.now_s += 9.0
        assert tokens.get("a") == "me"
    assert tokens.get("b") is None
    assert set(tokens) == {"a"}
    clock.now_s += 11.0
    tokens["c"] = "me"
    assert set(tokens) == {"c"}


def test_public_page_is_open_and_has_operator_login() -> None:
    logins = Logins(UiSettings(public=True, operator_auth=("root", "x")), None)
    assert logins.exist
    assert logins.tokens.get(None) == ANONYMOUS
    logins.tokens["t"] = "root"
    assert logins.tokens.get("t") == "root"


def test_only_operator_may_log_in_to_local_page() -> None:
    logins = Logins(UiSettings(operator_auth=("root", "x")), None)
    assert logins.exist
    assert logins.tokens.get(None) is None
    assert not Logins(UiSettings(), None).exist
