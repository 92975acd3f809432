"""The allow list of routes. Any other is 404, whatever Gradio adds one day.

`REFUSED` are Gradio's routes that nobody here needs. They are listed so that a test can tell a
route that was refused on purpose from a new one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Body = Literal["none", "call", "arguments", "form", "files", "own"]
READ = frozenset({"GET", "HEAD"})
_NAME = r"[A-Za-z0-9_.~-]{1,128}"
_ENDPOINT = r"[\w.~-]{1,128}"
"""Letters of any script: an endpoint is named after its workflow's file."""


@dataclass(frozen=True)
class Route:
    """One route: methods and paths, who may ask, and what may come with the request.

    In a path the group `api` is the name of an endpoint, `event` the id of a call.
    """

    methods: frozenset[str]
    path: re.Pattern[str]
    open: bool = False
    """True if it is answered without a login."""
    body: Body = "none"
    """`call`: a call of Gradio's as JSON; `arguments`: an endpoint's, by name, as JSON; `form`: a
    login; `files`: uploads; `own`: read and bounded by its handler."""
    event_stream: bool = False
    """True if it answers with the events of the session in the query."""


def _get(path: str, *, open: bool = False, event_stream: bool = False) -> Route:
    return Route(READ, re.compile(path), open=open, event_stream=event_stream)


def _post(path: str, body: Body, *, open: bool = False) -> Route:
    return Route(frozenset({"POST"}), re.compile(path), open=open, body=body)


API = "/gradio_api"
ROUTES = (
    # The page, and what a browser loads with it.
    _get(r"/", open=True),
    _get(r"/(assets|static)/[A-Za-z0-9_./~+@-]{1,200}", open=True),
    _get(r"/(theme\.css|favicon\.ico|manifest\.json|robots\.txt)", open=True),
    _get(rf"{API}/theme\.css", open=True),
    # Health checks.
    _get(r"/(healthz|readyz)", open=True),
    # Log-in and log-out.
    _get(r"/(login|logout)", open=True),
    _post(r"/(login|logout)", "form", open=True),
    # Description of the endpoints.
    _get(r"/config"),
    _get(rf"{API}/(info|openapi\.json|app_id)"),
    # Calls: of the page, of gradio_client, by plain HTTP.
    _post(rf"{API}/queue/join", "call"),
    _get(rf"{API}/queue/data", event_stream=True),
    _post(rf"{API}/(run|call)/(?P<api>{_ENDPOINT})", "call"),
    _post(rf"{API}/call/v2/(?P<api>{_ENDPOINT})", "arguments"),
    _get(rf"{API}/call/(v2/)?{_ENDPOINT}/(?P<event>{_NAME})"),
    _post(rf"{API}/cancel", "call"),
    _post(rf"{API}/reset", "call"),
    _get(rf"{API}/heartbeat/{_NAME}"),
    # Upload and download.
    _post(rf"{API}/upload", "files"),
    _get(rf"{API}/upload_progress"),
    _post(rf"{API}/component_server", "files"),
    _get(rf"{API}/file=.+"),
    # The REST interface.
    _get(r"/v1/(workflows|status|openapi\.json)"),
    _get(rf"/v1/workflows/{_ENDPOINT}"),
    _post(rf"/v1/workflows/{_ENDPOINT}/runs", "own"),
    Route(READ | {"DELETE"}, re.compile(rf"/v1/runs/{_NAME}")),
    Route(frozenset({"GET"}), re.compile(rf"/v1/runs/{_NAME}/events")),
    _post(r"/v1/free", "own"),
    _get(rf"/v1/results/{_NAME}"),
    _get(rf"/v1/results/{_NAME}/record"),
    # OpenAI's interface for images.
    _post(r"/v1/images/(generations|edits|variations)", "own"),
    _get(r"/v1/models"),
    _get(rf"/v1/models/{_ENDPOINT}"),
    # The Model Context Protocol.
    _post(r"/mcp", "own"),
    # The interface of AUTOMATIC1111's web UI.
    _post(r"/sdapi/v1/(txt2img|img2img|interrupt)", "own"),
    _get(r"/sdapi/v1/(sd-models|samplers|schedulers|progress)"),
    Route(READ | {"POST"}, re.compile(r"/sdapi/v1/options"), body="own"),
)

REFUSED = frozenset(
    {
        # Older names, and the same with a trailing slash.
        "/config/", "/login/", "/gradio_api/api/{api_name}", "/gradio_api/api/{api_name}/",
        "/gradio_api/call/v2/{api_name}/", "/gradio_api/call/{api_name}/", "/gradio_api/info/",
        "/gradio_api/component_server/", "/gradio_api/reset/", "/gradio_api/run/{api_name}/",
        # The old route to a file has no sandbox; both of these fetch from anywhere.
        "/gradio_api/file/{path:path}", "/gradio_api/proxy={url_path:path}",
        # The user's name and token: for other pages than this one.
        "/gradio_api/user", "/gradio_api/user/", "/gradio_api/token", "/gradio_api/token/",
        "/gradio_api/login_check", "/gradio_api/login_check/", "/gradio_api/app_id/",
        # Unused by this page, or done by `Website`.
        "/gradio_api/startup-events", "/gradio_api/deep_link", "/gradio_api/runs",
        "/gradio_api/runs/", "/gradio_api/queue/status", "/gradio_api/process_recording",
        "/gradio_api/custom_component/{id}/{environment}/{type}/{file_name}",
        "/gradio_api/stream/{event_id}", "/gradio_api/stream/{event_id}/close",
        "/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist.m3u8",
        "/gradio_api/stream/{session_hash}/{run}/{component_id}/{segment_id}.{ext}",
        "/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist-file",
        "/svelte/{path:path}", "/pwa_icon", "/pwa_icon/{size}", "/gradio_api/dev/reload",
        # Gradio's own developer tools.
        "/monitoring", "/monitoring/summary", "/monitoring/{key}",
        "/gradio_api/vibe-edit", "/gradio_api/vibe-edit/", "/gradio_api/undo-vibe-edit",
        "/gradio_api/undo-vibe-edit/", "/gradio_api/vibe-code", "/gradio_api/vibe-code/",
        "/gradio_api/vibe-starter-queries", "/gradio_api/vibe-starter-queries/",
    }
)  # fmt: skip
"""In Gradio's spelling."""


def find(method: str, path: str, routes: Iterable[Route] = ROUTES) -> Route | frozenset[str]:
    """Returns the route of this request; else the methods that this path takes, none for an unknown
    one."""
    taken: frozenset[str] = frozenset()
    for route in routes:
        if route.path.fullmatch(path):
            if method in route.methods:
                return route
            taken |= route.methods
    return taken
