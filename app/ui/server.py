"""Serves the page: the environment, the password, the port, the start, and the end by a signal.

Gradio is imported only inside `serve`: it reads its environment when it is imported, and a busy
port must be said before that takes its seconds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.errors import EngineError, ServeError
from app.settings import Settings
from app.signals import BROKEN_OFF, told_to_end

if TYPE_CHECKING:
    from app.engine import Engine

USER = "workbench"
MAX_IMAGE_PIXELS = 100_000_000
SESSIONS = 200
WHERE_THE_LOGIN_IS = (
    "Name and password were printed where this server was started. Its owner chooses others with"
    " DW_AUTH=name:password."
)
CLOSE_S = 2.0
"""Of the promised 5: the interpreter's own end takes seconds too on a busy machine."""
REFUSED_VARIABLES = ("GRADIO_VIBE_MODE", "GRADIO_SHARE")

log = logging.getLogger(__name__)


def serve(engine: Engine, settings: Settings) -> None:
    """Serves the page until it is told to stop, then closes the engine; returns within 5 seconds.

    Raises ServeError, before anything is started, where it cannot be done as asked.
    """
    refuse_dangerous_environment()
    port = free_port(settings.ui.host, settings.ui.port)
    auth = credentials(settings)
    up, stop = threading.Event(), threading.Event()
    page = None
    with stopped_by_signals(up, stop), upload_folder() as uploads:
        settings = with_media(settings, uploads)
        engine.start(settings)
        try:
            settings.paths.outputs.mkdir(parents=True, exist_ok=True)
            page = launch(engine, settings, port=port, auth=auth)
            up.set()
            announce(page, settings, auth)
            stop.wait()
        finally:
            # Nobody may be left to read it.
            with contextlib.suppress(OSError):
                print("Stopping.", flush=True)
            # Side by side: open streams must not eat the time the worker needs.
            closing = threading.Thread(target=engine.close, args=(CLOSE_S,), daemon=True)
            closing.start()
            if page is not None:
                close_page(page)
            closing.join(CLOSE_S + 0.5)


def refuse_dangerous_environment() -> None:
    """Raises ServeError where Gradio would let strangers in by its environment."""
    for name in REFUSED_VARIABLES:
        if os.environ.get(name, "").lower() not in {"", "0", "false"}:
            raise ServeError(f"{name} is set.", hint="Unset it; sharing is asked for with --share.")


def free_port(host: str, port: int) -> int:
    """The port to serve on; 0 takes any that is free. Raises ServeError where it is taken."""
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror:
        raise ServeError(
            f"This machine has no address '{host}'.", hint="Try 127.0.0.1 or 0.0.0.0."
        ) from None
    with socket.socket(info[0], socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(info[4])
            probe.listen()
        except OSError as error:
            raise ServeError(
                f"Port {port} on {host} cannot be used: {(error.strerror or str(error)).lower()}.",
                hint="Choose another one with --port, or --port 0 for any that is free.",
            ) from None
        return int(probe.getsockname()[1])


def credentials(settings: Settings) -> tuple[str, str] | None:
    """User and password: those given, made ones where strangers could come, else none."""
    if settings.ui.auth is not None:
        return settings.ui.auth
    if settings.ui.beyond_loopback and not settings.ui.public:
        return USER, secrets.token_urlsafe(12)
    return None


def with_media(settings: Settings, uploads: Path) -> Settings:
    """The settings with the folders a person at the page may name media from, and whether URLs."""
    media = (uploads, settings.paths.outputs.resolve())
    urls = settings.paths.urls.model_copy(update={"allowed": settings.ui.fetches_urls})
    paths = settings.paths.model_copy(
        update={"media": media, "outputs": settings.paths.outputs.resolve(), "urls": urls}
    )
    return settings.model_copy(update={"paths": paths})


@contextlib.contextmanager
def upload_folder() -> Iterator[Path]:
    """A private folder for uploads, Gradio's temporary folder; gone with the server."""
    folder = Path(tempfile.mkdtemp(prefix="workbench-page-")).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def launch(engine: Engine, settings: Settings, *, port: int, auth: tuple[str, str] | None) -> Any:
    """The launched page (a `gradio.Blocks`), answering on its port. `engine` has been started."""
    os.environ.update(
        {
            "GRADIO_ANALYTICS_ENABLED": "False",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "GRADIO_ANALYTICS_MAX_EVENTS": "200",
            "GRADIO_TEMP_DIR": str(settings.paths.media[0]),
        }
    )
    from PIL import Image
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from app.ui.app import build_ui, launch_options
    from app.ui.guard import Guard, names_for
    from app.ui.uploads import leave_urls_alone

    Image.MAX_IMAGE_PIXELS = MAX_IMAGE_PIXELS
    leave_urls_alone()

    async def healthz(request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def readyz(request: Request) -> JSONResponse:
        try:
            ready = engine.status().worker in {"ready", "busy"}
        except EngineError:
            # The page answers for a moment after its engine's end.
            ready = False
        return JSONResponse({"ready": ready}, status_code=200 if ready else 503)

    page = build_ui(engine, settings)
    page.launch(
        prevent_thread_lock=True,
        quiet=True,
        inbrowser=False,
        server_name=settings.ui.host,
        server_port=port,
        share=settings.ui.share,
        auth=auth,
        auth_message=WHERE_THE_LOGIN_IS if settings.ui.auth is None else None,
        show_error=True,
        max_threads=settings.engine.max_queued_runs + 64,
        max_file_size=settings.ui.max_upload_bytes,
        # Served as they lie (`set_static_paths`); a video field alone asks for this too.
        allowed_paths=[str(settings.paths.outputs)],
        state_session_capacity=SESSIONS,
        ssr_mode=False,
        run_history=False,
        # Gradio would ask its own page and end the server if a busy machine takes 3 s to answer.
        _frontend=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        footer_links=["api"],
        app_kwargs={
            "routes": [Route("/healthz", healthz), Route("/readyz", readyz)],
            "middleware": [Middleware(Guard, names=names_for(settings.ui))],
        },
        **launch_options(),
    )
    return page


def announce(page: Any, settings: Settings, auth: tuple[str, str] | None) -> None:
    """Prints where the page is and, once, how to log in."""
    print(f"Serving on {page.local_url}", flush=True)
    if settings.ui.share:
        print(
            f"Shared on {page.share_url}"
            if page.share_url
            else "No share link could be made (is there a network?). Serving on this machine only.",
            flush=True,
        )
    if auth is not None and settings.ui.auth is None:
        print(f"User {auth[0]}, password {auth[1]}", flush=True)
    if settings.ui.beyond_loopback and auth is None:
        print("Anyone who reaches this page can use it: DW_PUBLIC=1 is set.", flush=True)


def close_page(page: Any) -> None:
    """Takes the page off its port, open streams included."""
    # What is cut off here is cut off on purpose: it is no error of each stream's.
    logging.getLogger("uvicorn.error").disabled = True
    server = page.server
    # Without this uvicorn waits for every open stream of every tab.
    server.force_exit = True
    page.close(verbose=False)


@contextlib.contextmanager
def stopped_by_signals(up: threading.Event, stop: threading.Event) -> Iterator[None]:
    """SIGINT, SIGTERM and a closed terminal set `stop` once the page is `up`; before that they
    break off the start by SystemExit, for it takes seconds and nobody is served yet.

    A KeyboardInterrupt would do, if none ever met an `exec` of a text, as imports of dataclasses
    do: CPython notes it there for good and ends the process by SIGINT, whoever handled it.
    """
    before: dict[signal.Signals, Any] = {}

    def handler(_number: int, _frame: Any) -> None:
        if not up.is_set():
            raise SystemExit(BROKEN_OFF)
        stop.set()

    for number in (signal.SIGINT, *told_to_end()):
        before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
