"""The guard, by the socket: names, origins, routes, calls, headers, and log lines."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest

from app.settings import UiSettings
from app.ui.names import names_for, public_host
from app.ui.routes import REFUSED, ROUTES, Route, find
from tests.conftest import PROJECT
from tests.servers import Server
from tests.ui.raw_client import RawClient
from tests.ui.serving import served

LOOPBACK = names_for(UiSettings())
SHARED = names_for(UiSettings(share=True))
EVERYWHERE = names_for(UiSettings(host="0.0.0.0", allowed_hosts=("draw.example.org",)))
LOGIN = ("--auth", "me:a-long-password")

# --- names and origins ---------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "LOCALHOST"])
def test_loopback_page_accepts_local_names(host: str) -> None:
    assert LOOPBACK.accept(host)


def test_shared_page_accepts_only_share_link() -> None:
    assert SHARED.accept("abc.gradio.live")
    assert not SHARED.accept("gradio.live.evil.example")
    assert not SHARED.accept("192.168.1.5")


@pytest.mark.parametrize("host", ["192.168.1.5", "fe80::1", "draw.example.org", "a.hf.space"])
def test_page_on_all_interfaces_accepts_addresses_and_given_names(host: str) -> None:
    assert EVERYWHERE.accept(host)
    assert not EVERYWHERE.accept("evil.example")


def test_forwarded_host_is_used_for_allowed_names() -> None:
    assert public_host("127.0.0.1:7860", "draw.example.org", EVERYWHERE) == "draw.example.org"
    assert public_host("127.0.0.1:7860", "evil.example", EVERYWHERE) == "127.0.0.1:7860"
    assert public_host("127.0.0.1:7860", "192.168.1.5", EVERYWHERE) == "127.0.0.1:7860"


@pytest.mark.parametrize("host", ["evil.example", "192.168.1.5", "", "[::1", "a b", "evil\x00"])
def test_other_host_name_is_refused(client: RawClient, host: str) -> None:
    answer = client.ask("/", headers={"Host": host})
    assert answer.status in {400, 421}
    if host == "evil.example":
        assert "evil.example" in answer.text
        assert "DW_ALLOWED_HOSTS" in answer.text


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:9", "http://[::1", "\x01"]
)
@pytest.mark.parametrize("path", ["/config", "/gradio_api/upload", "/gradio_api/run/status"])
def test_foreign_origin_is_refused(client: RawClient, origin: str, path: str) -> None:
    """Neither by a preflight nor by the refusal itself."""
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    for method in ("OPTIONS", "GET", "POST"):
        answer = client.ask(path, method, headers=asked)
        assert answer.status in {400, 403}
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_own_origin_is_accepted(client: RawClient) -> None:
    origin = f"http://{client.host}"
    answer = client.post("/gradio_api/run/status", {"data": []}, Origin=origin)
    assert answer.status == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_cross_site_requests_are_refused_except_navigation(client: RawClient) -> None:
    embedded = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    for path in ("/", "/logout", "/config", "/healthz"):
        assert client.ask(path, headers=embedded).status == 403
    assert client.ask("/logout", headers=followed).status == 403
    assert client.ask("/", headers=followed).status == 200


def test_forwarded_host_does_not_change_page_urls(client: RawClient) -> None:
    for headers in (
        {"X-Forwarded-Host": "evil.example"}, {"X-Gradio-Server": "http://evil.example"},
        {"X-Forwarded-Host": "evil.example, a", "X-Forwarded-Proto": "https"},
    ):  # fmt: skip
        for path in ("/config", "/", "/gradio_api/info", "/gradio_api/openapi.json"):
            assert "evil.example" not in client.ask(path, headers=headers).text


# --- routes --------------------------------------------------------------------------------------


def sample(template: str) -> str:
    """Returns a path of this route."""
    return re.sub(r"\{(\w+)(:path)?\}", lambda found: "a/b" if found[2] else "a1", template)


@pytest.fixture(scope="module")
def templates() -> set[str]:
    """Every route the application answers, in Gradio's and FastAPI's spelling."""
    from tests.ui.routes_of_the_page import routes_of_the_page

    return routes_of_the_page()


def test_every_route_is_listed(templates: set[str]) -> None:
    nowhere = {
        template
        for template in templates
        if template not in REFUSED and not any(r.path.fullmatch(sample(template)) for r in ROUTES)
    }
    assert nowhere == set(), "look at them, and add them to ROUTES or to REFUSED"


def test_every_listed_route_exists(templates: set[str]) -> None:
    assert REFUSED - templates == set()
    samples = {sample(template) for template in templates}
    unused = [r.path.pattern for r in ROUTES if not any(r.path.fullmatch(s) for s in samples)]
    assert unused == []


@pytest.mark.parametrize("template", sorted(REFUSED))
def test_refused_route_is_not_found(client: RawClient, template: str) -> None:
    for method in ("GET", "POST", "HEAD"):
        assert client.ask(sample(template), method).status == 404


@pytest.mark.parametrize(
    "path", ["/docs", "/redoc", "/openapi.json", "/gradio_api/mcp/", "/gradio_api", "//", "/x",
             "/gradio_api/profiling/summary", "/static/../config", "/assets/%2e%2e/x", "/%00"],
)  # fmt: skip
def test_unlisted_path_is_not_found(client: RawClient, path: str) -> None:
    assert client.ask(path).status in {400, 404}


def test_wrong_method_lists_allowed_methods(client: RawClient) -> None:
    answer = client.ask("/gradio_api/queue/join", "DELETE")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


def test_find_returns_route_or_its_methods() -> None:
    assert isinstance(find("GET", "/"), Route)
    assert find("POST", "/") == {"GET", "HEAD"}
    assert find("GET", "/nothing") == frozenset()


# --- calls ---------------------------------------------------------------------------------------

DEEP = "[" * 3000 + "]" * 3000
BODIES = {
    "no JSON": "{",
    "no object": "[]",
    "a bare text": '"x"',
    "no UTF-8": b"\xff\xfe",
    "too deep": '{"data": ' + DEEP + "}",
    "Infinity": '{"data": [Infinity]}',
    "a number beyond a double": '{"data": [1e999]}',
    "a whole number of many digits": '{"data": [' + "9" * 10_000 + "]}",
    "half a surrogate pair": '{"data": ["\\ud800"]}',
    "a text as the function": '{"data": [], "fn_index": "x", "session_hash": "a"}',
    "an unknown function": '{"data": [], "fn_index": 99999, "session_hash": "a"}',
    "a negative function": '{"data": [], "fn_index": -1, "session_hash": "a"}',
    "a list as the session": '{"data": [], "fn_index": 0, "session_hash": []}',
    "a session of control characters": '{"data": [], "fn_index": 0, "session_hash": "\\u0000\\n"}',
    "no data": '{"fn_index": 0, "session_hash": "a"}',
    "data that is no list": '{"data": {"x": 1}, "fn_index": 0, "session_hash": "a"}',
    "a text as the trigger": '{"data": [], "fn_index": 0, "trigger_id": "x", "session_hash": "a"}',
    "nothing": "",
}


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize(
    "path", ["/gradio_api/queue/join", "/gradio_api/run/status", "/gradio_api/call/status",
             "/gradio_api/call/v2/status", "/gradio_api/call/nosuch", "/gradio_api/run/nosuch",
             "/gradio_api/call/v2/nosuch", "/gradio_api/cancel", "/gradio_api/component_server",
             "/gradio_api/upload", "/login"],
)  # fmt: skip
def test_malformed_body_is_refused_without_traceback(
    client: RawClient, server: Server, path: str, kind: str
) -> None:
    before = server.log.read_text().count("Traceback")
    answer = client.ask(
        path, "POST", body=BODIES[kind], headers={"Content-Type": "application/json"}
    )
    named = path.rpartition("/")[2] == "status"
    fits = named and kind in {"a text as the trigger", "no data", "data that is no list"}
    assert 400 <= answer.status < 500 or (fits and answer.status == 200), answer.text
    assert "pydantic" not in answer.text
    assert server.log.read_text().count("Traceback") == before


FORM = "--x\r\nContent-Disposition: form-data; name={}\r\n\r\nhi\r\n--x--\r\n"
UPLOADS = {
    "no boundary": ("multipart/form-data", "x"),
    "garbage": ("multipart/form-data; boundary=x", "garbage"),
    "another field": ("multipart/form-data; boundary=x", FORM.format('"component_id"')),
    "no name": ("multipart/form-data; boundary=x", FORM.replace("; name={}", "")),
    "cut off": ("multipart/form-data; boundary=x", FORM.format('"files"; filename="a.png"')[:60]),
    "an unknown component": (
        "application/json",
        '{"data": null, "component_id": 99999, "fn_name": "x", "session_hash": "a"}',
    ),
    "no function for clients": (
        "application/json",
        '{"data": null, "component_id": 1, "fn_name": "postprocess", "session_hash": "a"}',
    ),
}


@pytest.mark.parametrize("kind", UPLOADS)
@pytest.mark.parametrize("path", ["/gradio_api/upload", "/gradio_api/component_server", "/login"])
def test_malformed_upload_is_refused_without_traceback(
    client: RawClient, server: Server, path: str, kind: str
) -> None:
    before = server.log.read_text().count("Traceback")
    content_type, body = UPLOADS[kind]
    answer = client.ask(path, "POST", body=body, headers={"Content-Type": content_type})
    assert 400 <= answer.status < 500 or answer.body == b"[]", answer.text
    assert server.log.read_text().count("Traceback") == before


@pytest.mark.parametrize(
    "path", ["/?page=nope", "/?deep_link=..%2f..%2fx", "/config?page=nope", "/static/" + "a" * 3000,
             "/assets/" + "a" * 300, "/gradio_api/file=/" + "a" * 5000, "/?" + "a=%00&" * 500,
             "/gradio_api/info?page=%00"],
)  # fmt: skip
def test_odd_url_causes_no_traceback(client: RawClient, server: Server, path: str) -> None:
    before = server.log.read_text().count("Traceback")
    assert client.ask(path).status in {200, 400, 404}
    long_name = server.outputs / "20260101-000000-abcdef" / ("b" * 300)
    assert client.ask(f"/gradio_api/file={long_name}").status == 404
    assert server.log.read_text().count("Traceback") == before


def test_page_events_accept_any_values_without_traceback(client: RawClient, server: Server) -> None:
    before = server.log.read_text().count("Traceback")
    events = client.ask("/config").json["dependencies"]
    for event in (each for each in events if each["api_visibility"] == "private"):
        for value in (None, {"a": 1}, "x"):
            other = RawClient(client.url)
            joined = other.post(
                "/gradio_api/queue/join",
                {"data": [value] * len(event["inputs"]), "fn_index": event["id"],
                 "session_hash": other.session},
            )  # fmt: skip
            if event["backend_fn"]:
                assert joined.status == 200
                told = other.ask(f"/gradio_api/queue/data?session_hash={other.session}").text
                assert str(PROJECT) not in told
            else:
                assert joined.status == 404
    assert server.log.read_text().count("Traceback") == before


def test_call_size_is_limited(client: RawClient) -> None:
    answer = client.post("/gradio_api/run/status", {"data": ["x" * 9_000_000]})
    assert answer.status == 413


@pytest.mark.parametrize(
    "path", ["/gradio_api/queue/data?session_hash=unknown", "/gradio_api/call/status/unknown",
             "/gradio_api/queue/data", "/gradio_api/upload_progress?upload_id=unknown",
             "/gradio_api/upload_progress"],
)  # fmt: skip
def test_stream_of_unknown_session_ends_at_once(
    client: RawClient, server: Server, path: str
) -> None:
    before = server.log.read_text().count("Traceback")
    answer = client.ask(path)
    assert answer.status in {200, 404, 422}
    if answer.status == 200:
        assert '"session_not_found": true' in answer.text
    assert server.log.read_text().count("Traceback") == before


def raw(server: Server, request: bytes) -> bytes:
    """Returns the answer to these bytes."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as line:
        line.sendall(request)
        line.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := line.recv(65536):
            answer += piece
    return answer


@pytest.mark.parametrize(
    "request_line",
    [b"GET /\r\n\r\n", b"\x00\x01\x02\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"FOO BAR\r\n\r\n",
     b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
     b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n", b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
     b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
     b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"],
)  # fmt: skip
def test_invalid_http_causes_no_traceback(server: Server, request_line: bytes) -> None:
    before = server.log.read_text().count("Traceback")
    answer = raw(server, request_line)
    assert answer == b"" or re.match(rb"HTTP/1\.\d 4\d\d", answer), answer[:200]
    assert server.log.read_text().count("Traceback") == before


def test_log_lines_cannot_be_forged(client: RawClient, server: Server) -> None:
    forged = "2026-01-01 00:00:00 ERROR all is lost"
    for path in (f"/%0A{forged}", f"/gradio_api/custom_component/a/client/%0A{forged}/x",
                 f"/gradio_api/file=%0A{forged}", f"/gradio_api/call/%0A{forged}"):  # fmt: skip
        client.ask(path.replace(" ", "%20"))
    client.ask("/", headers={"Host": "a\tb"})
    client.post("/gradio_api/run/describe_workflow", {"data": [f"\n{forged}"]})
    assert not re.search(rf"^{forged}", server.log.read_text(), re.MULTILINE)


# --- headers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/config", "/nothing", "/healthz", "/theme.css"])
def test_every_answer_has_security_headers(client: RawClient, path: str) -> None:
    headers = client.ask(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert policy.endswith("frame-ancestors 'self'")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"


LISTED = {
    "allow", "cache-control", "content-disposition", "content-encoding", "content-length",
    "content-range", "content-security-policy", "content-type", "cross-origin-resource-policy",
    "date", "etag", "accept-ranges", "last-modified", "location", "referrer-policy", "retry-after",
    "set-cookie", "transfer-encoding", "vary", "www-authenticate", "x-content-type-options",
}  # fmt: skip


@pytest.mark.parametrize(
    "path", ["/", "/config", "/theme.css", "/manifest.json", "/healthz", "/gradio_api/info",
             "/gradio_api/app_id", "/gradio_api/file=nothing", "/nothing"],
)  # fmt: skip
def test_answers_have_only_listed_headers(client: RawClient, path: str) -> None:
    origin = f"http://{client.host}"
    sent = {"Origin": origin, "Cookie": "a=secret", "Range": "bytes=0-3", "X-Mine": "secret"}
    headers = client.ask(path, headers=sent).headers
    assert headers.keys() <= LISTED
    assert "secret" not in json.dumps(dict(headers))


def test_space_page_may_be_framed_by_hub(tmp_path: Path) -> None:
    with served(tmp_path, "--host", "0.0.0.0", DW_PUBLIC="1") as server:
        space = RawClient(server.url.replace("localhost", "127.0.0.1"))
        policy = space.ask("/", headers={"Host": "me-draw.hf.space"}).headers
        assert policy["content-security-policy"].endswith(
            "frame-ancestors 'self' https://huggingface.co"
        )
        other = space.ask("/").headers["content-security-policy"]
        assert other.endswith("frame-ancestors 'self'")


# --- who has not logged in -----------------------------------------------------------------------


def test_page_reveals_nothing_without_login(tmp_path: Path) -> None:
    with served(tmp_path, *LOGIN) as server:
        outside = RawClient(server.url)
        front = outside.ask("/")
        assert front.status == 200
        assert "run_text_to_image" not in front.text
        assert "guidance" not in front.text
        for route in ROUTES:
            for method in route.methods:
                path = sample_of(route)
                answer = outside.ask(path, method, body="{}" if method == "POST" else None)
                if not route.open:
                    assert (answer.status, path) == (401, path)
                assert "run_text_to_image" not in answer.text
        assert outside.ask("/openapi.json").status == 404
        answer = outside.ask(
            "/login", "POST", body="username=me&password=a-long-password",
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        )  # fmt: skip
        assert answer.json == {"success": True}
        cookie = answer.headers["set-cookie"].partition(";")[0]
        inside = outside.ask("/", headers={"Cookie": cookie})
        assert "run_text_to_image" in inside.text
        assert json.loads(outside.ask("/config", headers={"Cookie": cookie}).body)["components"]


def sample_of(route: Route) -> str:
    """Returns a path that this route accepts."""
    path = route.path.pattern.replace(r"\.", ".").replace("(v2/)?", "")
    path = re.sub(r"\(\?P<\w+>(\[[^]]*\])\{1,\d+\}\)|\[[^]]*\]\{1,\d+\}", "a1", path)
    path = re.sub(r"\(([^|)]*)[^)]*\)", r"\1", path).replace(".+", "x")
    assert route.path.fullmatch(path), path
    return path
