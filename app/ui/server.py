"""Serves the page: environment, password, port, start, and end by a signal.

Gradio is imported only inside `serve`: it reads its environment when it is imported, and a busy
port must be reported before the import's seconds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.api.interface import make_api
from app.api.interfaces import program_routes
from app.api.people import People
from app.api.upload_folder import UploadFolder
from app.catalog.catalog import Catalog
from app.errors import EngineError, ServeError
from app.janitor import trimming
from app.settings import GENERATED_USER, Settings
from app.signals import ABORTED, ending_signals
from app.ui.listening import listening, port_of, url
from app.unfinished import PRIVATE, private_folder

if TYPE_CHECKING:
    from app.engine import Engine
    from app.ui.website import Website

SESSIONS = 200
WHERE_THE_LOGIN_IS = (
    "Name and password were printed where this server was started. Its owner chooses others with"
    " DW_AUTH=name:password."
)
CLOSE_S = 2.0
"""Part of the promised 5: the interpreter's own end takes seconds too on a busy machine."""
STREAMS_END_S = 0.5
"""Time for streams to end by themselves once every run has."""
REFUSED_VARIABLES = ("GRADIO_VIBE_MODE", "GRADIO_SHARE")

log = logging.getLogger(__name__)


def serve(engine: Engine, settings: Settings) -> None:
    """Serves the page until it is told to stop, then closes the engine; returns within 5 seconds.

    Raises ServeError, before anything is started, where the settings are not possible.
    """
    refuse_dangerous_environment()
    auth = credentials(settings)
    up, stop = threading.Event(), threading.Event()
    website = None
    with (
        listening(settings.ui.host, settings.ui.port) as sockets,
        stopped_by_signals(up, stop),
        upload_folder() as uploads,
    ):
        settings = with_media(settings, uploads)
        try:
            engine.start(settings, uploads=uploads)
            settings.paths.outputs.mkdir(parents=True, exist_ok=True)
            kept = UploadFolder(uploads, settings.ui.uploads_bytes, lambda: engine.needed().files)
            website = make_website(engine, settings, kept, auth=auth)
            website.start(sockets)
            up.set()
            announce(settings, port_of(sockets), auth, website)
            with trimming(kept.trim, engine.trim):
                stop.wait()
        finally:
            if engine.is_started:
                end(engine, website)


def end(engine: Engine, website: Website | None) -> None:
    """Closes the engine, then takes the page off its port."""
    # Stdout may be closed by now.
    with contextlib.suppress(OSError):
        print("Stopping.", flush=True)
    closing = threading.Thread(target=engine.close, args=(CLOSE_S,), daemon=True)
    closing.start()
    # The page stays up meanwhile: its streams tell how each run has ended.
    closing.join(CLOSE_S + 0.5)
    if website is not None:
        website.close(STREAMS_END_S)


def refuse_dangerous_environment() -> None:
    """Raises ServeError where Gradio's environment would let strangers in."""
    for name in REFUSED_VARIABLES:
        if os.environ.get(name, "").lower() not in {"", "0", "false"}:
            raise ServeError(f"{name} is set.", hint="Unset it; sharing is asked for with --share.")


def credentials(settings: Settings) -> tuple[str, str] | None:
    """Returns user and password: the given ones, generated ones where strangers could come, else
    none."""
    if settings.ui.auth is not None:
        return settings.ui.auth
    if settings.ui.beyond_loopback and not settings.ui.public:
        return GENERATED_USER, secrets.token_urlsafe(12)
    return None


def with_media(settings: Settings, uploads: Path) -> Settings:
    """Returns the settings with the folders from which a person at the page may name media, and
    whether URLs are allowed."""
    media = (uploads, settings.paths.outputs.resolve())
    urls = settings.paths.urls.model_copy(update={"media_urls": settings.ui.fetches_urls})
    paths = settings.paths.model_copy(
        update={"media": media, "outputs": settings.paths.outputs.resolve(), "urls": urls}
    )
    return settings.model_copy(update={"paths": paths})


@contextlib.contextmanager
def upload_folder() -> Iterator[Path]:
    """Creates a private folder for uploads, Gradio's temporary folder; removed with the server."""
    with private_folder(Path(tempfile.gettempdir()), f"{PRIVATE}page-") as folder:
        yield folder


def make_website(
    engine: Engine, settings: Settings, uploads: UploadFolder, *, auth: tuple[str, str] | None
) -> Website:
    """Returns the page and the API, not yet on their port. `engine` has been started."""
    os.environ.update(
        {
            "GRADIO_ANALYTICS_ENABLED": "False",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "GRADIO_ANALYTICS_MAX_EVENTS": "200",
            "GRADIO_TEMP_DIR": str(uploads.folder),
        }
    )
    from app.compat.ui.imports import without

    with without("mcp"):
        import gradio  # noqa: F401

    from PIL import Image
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from app.compat.ui.login_page import hide_endpoints
    from app.ui.app import build_ui, launch_options
    from app.ui.crowd import limit_calls, limit_visits
    from app.ui.files import OwnFiles, restrict_to
    from app.ui.guard import Guard
    from app.ui.login import Logins
    from app.ui.names import names_for
    from app.ui.upload_folder import bound_uploads
    from app.ui.uploads import pass_media_on, pass_urls_on
    from app.ui.website import Website

    # Bounds any code in this process that opens an image outside `app.media.images`.
    Image.MAX_IMAGE_PIXELS = settings.paths.limits.max_picture_pixels
    pass_urls_on()
    pass_media_on()
    restrict_to(OwnFiles(uploads=uploads.folder, outputs=settings.paths.outputs))
    bound_uploads(uploads)
    hide_endpoints()

    async def healthz(request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def readyz(request: Request) -> JSONResponse:
        try:
            ready = engine.status().worker in {"ready", "busy"}
        except EngineError:
            # The page answers for a moment after its engine's end.
            ready = False
        return JSONResponse({"ready": ready}, status_code=200 if ready else 503)

    logins = Logins(settings.ui, auth)
    catalog = Catalog(settings.paths)
    people = People(settings.ui, catalog)
    api = make_api(engine, settings, catalog, people, uploads, logins.name_of)
    page = build_ui(engine, settings, catalog, people)
    page.state_session_capacity = SESSIONS
    page.max_threads = page._queue.max_thread_count = settings.engine.max_queued_runs + 64
    website = Website(
        page,
        routes=[Route("/healthz", healthz), Route("/readyz", readyz), *program_routes(api)],
        around=lambda app, page: Guard(
            logins.around(app),
            names=names_for(settings.ui),
            page=page,
            is_admitted=logins.admit,
            root_path=settings.ui.root_path,
        ),
        root_path=settings.ui.root_path,
        auth=logins.check if logins.exist else None,
        auth_message=WHERE_THE_LOGIN_IS if settings.ui.auth is None else None,
        show_error=True,
        max_file_size=settings.ui.max_upload_bytes,
        ssr_mode=False,
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        footer_links=["api"],
        **launch_options(),
    )
    logins.attach(website.gradio)
    limit_calls(page, settings.ui.guest_calls)
    limit_visits(page, website.gradio, settings.ui.guest_visits)
    return website


def announce(settings: Settings, port: int, auth: tuple[str, str] | None, website: Website) -> None:
    """Prints the page's URL and, once, the login; creates the share link."""
    print(f"Serving on {url(settings.ui.host, port)}/", flush=True)
    if settings.ui.share:
        shared = website.share(port)
        print(
            f"Shared on {shared}"
            if shared
            else "No share link could be made (is there a network?). Serving on this machine only.",
            flush=True,
        )
    if auth is not None and settings.ui.auth is None:
        print(f"User {auth[0]}, password {auth[1]}", flush=True)
    if settings.ui.beyond_loopback and auth is None:
        print("Anyone who reaches this page can use it: DW_PUBLIC=1 is set.", flush=True)


@contextlib.contextmanager
def stopped_by_signals(up: threading.Event, stop: threading.Event) -> Iterator[None]:
    """Makes SIGINT, SIGTERM and a closed terminal set `stop` once the page is `up`; before that
    they abort the start by SystemExit, for it takes seconds and nobody is served yet.

    A KeyboardInterrupt would do, if none ever met an `exec` of a text, as imports of dataclasses
    do: CPython notes it there for good and ends the process by SIGINT, whoever handled it.
    """
    before: dict[signal.Signals, Any] = {}

    def handler(_number: int, _frame: Any) -> None:
        if not up.is_set():
            raise SystemExit(ABORTED)
        stop.set()

    for number in (signal.SIGINT, *ending_signals()):
        before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
