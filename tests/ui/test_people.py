"""Operators, guests, and the identity of one person."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from starlette.datastructures import Headers

from app.api.people import person, role
from app.settings import UiSettings

LOCAL = UiSettings()


def request(
    address: str = "127.0.0.1", username: str | None = None, **headers: str
) -> SimpleNamespace:
    named = {"host": "127.0.0.1:7860"} | {k.replace("_", "-"): v for k, v in headers.items()}
    client = SimpleNamespace(host=address)
    return SimpleNamespace(client=client, headers=Headers(named), username=username)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860"])
def test_role_of_local_user_without_password_is_operator(address: str, host: str) -> None:
    assert role(request(address, host=host), LOCAL) == "operator"


@pytest.mark.parametrize(
    "headers",
    [
        {"x_forwarded_for": "127.0.0.1"},
        {"X_Forwarded_Proto": "https"},
        {"forwarded": "for=127.0.0.1"},
        {"via": "1.1 proxy"},
        {"x_real_ip": "127.0.0.1"},
    ],
)
def test_role_behind_a_proxy_is_guest(headers: dict[str, str]) -> None:
    assert role(request(**headers), LOCAL) == "guest"


@pytest.mark.parametrize("host", ["draw.example.org", "192.168.1.5:7860", "abc.gradio.live"])
def test_role_under_other_host_name_is_guest(host: str) -> None:
    assert role(request(host=host), LOCAL) == "guest"


def test_role_of_other_address_is_guest() -> None:
    assert role(request("192.168.1.7"), LOCAL) == "guest"


def test_role_without_request_is_guest() -> None:
    assert role(None, LOCAL) == "guest"


@pytest.mark.parametrize(
    "settings",
    [
        {"auth": ("me", "secret")},
        {"host": "0.0.0.0"},
        {"share": True},
        {"allowed_hosts": ("draw.example.org",)},
        {"allowed_hosts": ("draw.example.org",), "public": True},
        {"operator_auth": ("root", "secret")},
    ],
)
def test_role_on_loopback_is_guest_if_published_or_with_password(
    settings: dict[str, Any],
) -> None:
    assert role(request(), UiSettings(**settings)) == "guest"
    assert role(request(username="me"), UiSettings(**settings)) == "guest"


def test_role_of_local_user_of_public_page_is_operator() -> None:
    public = UiSettings(host="0.0.0.0", public=True)
    assert role(request(), public) == "operator"
    assert role(request("192.168.1.7"), public) == "guest"


def test_role_of_operator_login_is_operator_from_everywhere() -> None:
    settings = UiSettings(auth=("me", "a"), operator_auth=("root", "b"))
    assert role(request("192.168.1.7", "root", x_forwarded_for="x"), settings) == "operator"
    assert role(request(username="me"), settings) == "guest"


def test_operator_name_must_differ_from_guests() -> None:
    with pytest.raises(ValueError, match="another name"):
        UiSettings(auth=("me", "a"), operator_auth=("me", "b"))
    with pytest.raises(ValueError, match="another name"):
        UiSettings(host="0.0.0.0", operator_auth=("workbench", "b"))


def test_person_is_address_of_guest_and_empty_for_operators() -> None:
    public = UiSettings(host="0.0.0.0", public=True)
    assert person(request(), LOCAL) == ""
    assert person(request("192.0.2.7"), public) == "192.0.2.7"
    assert person(request("::ffff:192.0.2.7"), public) == "192.0.2.7"
    one, other = (person(request(f"2001:db8::{n}"), public) for n in (1, 2))
    assert one == other == "2001:db8::/64"
    assert person(request("2001:db8:0:1::1"), public) != one
    assert person(None, public) == "unknown"
