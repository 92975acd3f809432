"""Entry point of the worker process: environment, reader thread, command loop."""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.compat.worker import process
from app.dialect.inputs import printable
from app.errors import DeviceUnusable, ResultError
from app.protocol import (
    CancelRun,
    CleanUp,
    Command,
    DropComponents,
    Event,
    FreeMemory,
    Logged,
    MoveToRam,
    PinComponent,
    RunFailed,
    RunSucceeded,
    ShutDown,
    StartRun,
    WatchPreviews,
    WorkerReady,
    WorkerUnable,
    decode_command,
    decode_event,
    encode,
)
from app.settings import WorkerSettings

if TYPE_CHECKING:
    from app.worker.context import Signals

log = logging.getLogger(__name__)

ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    # Only the parent has the hub's token and downloads.
    "HF_TOKEN_PATH": os.devnull,
    "HF_HUB_OFFLINE": "1",
    "DIFFUSERS_DISABLE_REMOTE_CODE": "true",
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    **process.ENVIRONMENT,
}
"""Read by libraries at import. The user's own value wins, except for the names in ALWAYS."""
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
"""Names of one setting: the default is added only if the user has set none of them."""
EXPANDABLE = "expandable_segments:True"
QUIETED = ("bitsandbytes", "torchao", "torch.utils._pytree")
"""Loggers that print irrelevant warnings when a quantiser is imported."""
ALWAYS = (
    "DIFFUSERS_DISABLE_REMOTE_CODE", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE", "HF_TOKEN_PATH",
)  # fmt: skip
EXIT_UNREADABLE = 71
"""Exit code of a worker that received an invalid command."""
TALKATIVE = ("bitsandbytes", "torchao", "sdnq")
"""Quantisers that print a warning at every call of every layer."""


def added_to(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables to add to the user's environment, or to replace in it."""
    added = {
        name: value
        for name, value in ENVIRONMENT.items()
        if name in ALWAYS or name not in environment
    }
    if not any(name in environment for name in ALLOCATOR):
        added[ALLOCATOR[0]] = EXPANDABLE
    return added


def run_worker(connection: Connection, settings: WorkerSettings, outputs: Path) -> None:
    """Serves commands until ShutDown or until the parent is gone."""
    os.environ.update(added_to(os.environ))
    process.forbid_hub_kernels()
    process.avoid_named_semaphore()
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    # Ctrl-C reaches the whole process group; the parent handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        worker = Worker(connection, settings, outputs)
    except DeviceUnusable as error:
        connection.send_bytes(encode(WorkerUnable(error=error.report())))
    else:
        worker.serve()
    # Nothing is left to write, and torch's teardown would take a second or two.
    sys.stderr.flush()
    os._exit(0)


class Worker:
    """Reads commands and sends events; only the main thread uses the device."""

    def __init__(self, connection: Connection, settings: WorkerSettings, outputs: Path) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._settings = settings
        root = logging.getLogger()
        root.handlers = [_Forwarder(self.send)]
        root.setLevel(logging.WARNING)
        logging.getLogger("app").setLevel(settings.log_level)
        logging.captureWarnings(True)
        for name in QUIETED:
            logging.getLogger(name).setLevel(logging.ERROR)

        import diffusers.utils.logging
        import transformers.utils.logging

        from app.dialect.fingerprint import library_versions
        from app.outputs import OutputStore
        from app.worker.device import Device, use_threads
        from app.worker.failures import refuse_nan
        from app.worker.runner import Runner

        # Progress is reported as events; bars on stderr would fill the log.
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
        refuse_nan()
        use_threads(settings)
        self._device = Device(settings.device)
        self._device.check()
        self._runner = Runner(settings, OutputStore(outputs), self._device, self.send)
        self._versions = library_versions()

    def serve(self) -> None:
        """Reports that the worker is ready, then handles commands."""
        self.send(
            WorkerReady(
                pid=os.getpid(),
                device=str(self._device),
                device_name=self._device.name,
                versions=self._versions,
                memory=self._device.memory(),
            )
        )
        self._runner.report_memory()
        threading.Thread(
            target=read_commands,
            args=(self._connection, self._commands, self._runner.signals),
            name="commands",
            daemon=True,
        ).start()
        while True:
            match self._commands.get():
                case StartRun() as command:
                    self._runner.run(command)
                    if self._runner.reports.device_is_lost:
                        log.error("The device no longer answers: the worker is restarted.")
                        return
                case FreeMemory() as command:
                    self._runner.free(command)
                case PinComponent() as command:
                    self._runner.pin(command)
                case DropComponents() as command:
                    self._runner.drop(command)
                case MoveToRam() as command:
                    self._runner.move_to_ram(command)
                case CleanUp() as command:
                    self._runner.clean_up(lambda: not self._commands.empty())
                    self._runner.report_memory(command.request_id)
                case ShutDown():
                    self._runner.prompts.flush()
                    return

    def send(self, event: Event) -> None:
        """Sends one event; thread-safe, since log lines come from other threads too."""
        data = encode_event(event)
        with self._sending:
            self._connection.send_bytes(data)


def read_commands(
    connection: Connection, commands: queue.SimpleQueue[Command], signals: Signals
) -> None:
    """Reads commands: queues those for the main thread, applies cancels and watches at once.

    Exits the process when the pipe closes, since the parent is gone, and with EXIT_UNREADABLE on
    any other error: a worker that reads no commands could not be cancelled.
    """
    while True:
        try:
            command = decode_command(connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(EXIT_UNREADABLE)
        match command:
            case CancelRun():
                signals.cancelled.add(command.run_id)
            case WatchPreviews(watched=True):
                signals.watched.add(command.run_id)
            case WatchPreviews():
                signals.watched.discard(command.run_id)
            case _:
                commands.put(command)


class _Forwarder(logging.Handler):
    """Sends log lines to the parent, which writes the log."""

    def __init__(self, send: Callable[[Event], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001  (a library's log call with wrong arguments)
            # Printed to stderr, as every handler does: logging never fails a call.
            self.handleError(record)
            return
        self._send(Logged(time=time.time(), level=record.levelno, logger=record.name, text=text))


# --- sending --------------------------------------------------------------------------------------


def encode_event(event: Event) -> bytes:
    """Returns the event as bytes.

    Lone surrogates (of file names, say) are replaced. RunSucceeded with results that JSON cannot
    carry becomes RunFailed.
    """
    try:
        data = encode(event)
        if isinstance(event, RunSucceeded):
            decode_event(data)
    except ValueError as error:
        if isinstance(event, RunSucceeded):
            return encode_event(_unsendable(event, error))
        return encode(type(event).model_validate(_printable(event.model_dump())))
    return data


def _unsendable(event: RunSucceeded, error: Exception) -> RunFailed:
    failed = ResultError(
        "The result of the last step cannot be sent as JSON.",
        hint="Have the step save it, with a `result` of its own.",
        detail=str(error),
    )
    return RunFailed(run_id=event.run_id, time=event.time, error=failed.report())


def _printable(value: Any) -> Any:
    match value:
        case str():
            return printable(value)
        case dict():
            return {_printable(key): _printable(item) for key, item in value.items()}
        case list() | tuple():
            return [_printable(item) for item in value]
    return value
