"""A worker without torch that does what its runs' prompts say.

It replaces `app.worker.main.run_worker`: a process of its own that reads commands from the pipe and
answers with events. A prompt is a script of instructions, separated by `; `::

    nothing                     go on
    enter PHASE                 tell that phase
    wait for FILE               go on when there is such a file; a cancel ends the wait and the run
    leave FILE                  make such a file; at a FIFO, wait until somebody reads it
    ignore cancel               obey no cancel from here on
    watch                       wait until somebody wants previews
    preview TEXT                send TEXT as a preview's bytes
    previews                    a preview whenever somebody wants one, until cancelled
    flood                       events without end, and no look at cancels
    gap SECONDS                 report a gap between cancel points
    hold NAME                   hold a component
    accelerator                 say from here on that there is RAM beside the device
    save NAME                   save a file as a result
    return TEXT                 something the last step returns
    read FILE                   read such a file, and return how many bytes came from the disk
    log LEVEL LOGGER TEXT       a line of log, dated to the start of the run
    complain TEXT               a line on stderr
    miss MODEL FILE             leave the run until this file of a model of the hub is here
    fail TEXT                   end the run with a StepError
    exit CODE                   end the process, without a goodbye
    kill                        the same with SIGKILL
    stop                        stand still in all threads (SIGSTOP)
    fork until FILE             leave a process behind that holds the pipe, until such a file
    on DEVICE INSTRUCTION       so, where that is the worker's device
    once FILE INSTRUCTION       so, where there is no such file, which is made
    babble                      bytes on the pipe that are no event
    when ready INSTRUCTION      so, when the worker has said that it is ready
    when over INSTRUCTION       so, when the run's last event has been sent
    when freed INSTRUCTION      so, when memory is to be freed
    when pinned INSTRUCTION     so, when something is to be pinned
    when cleaning INSTRUCTION   so, when the light cleanup is to be made
    when shut down INSTRUCTION  so, when the worker is to end

The script of the start, run before the worker reports that it is ready, is in `outputs/AT_START`.
Every command is reported, as read, on the log `COMMANDS`. A command sent while the worker is busy,
and that must not be, ends the process with `OUT_OF_TURN`.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

from app.dialect.plan_sources import ModelSource
from app.errors import Cancelled, StepError
from app.protocol import (
    Budgets,
    CancelPointGap,
    CancelRun,
    CleanUp,
    Command,
    DropComponents,
    Event,
    Eviction,
    FilesMissing,
    FreeMemory,
    HeldComponent,
    Logged,
    MemoryFreed,
    MemoryReported,
    MemoryUse,
    MoveToRam,
    PhaseChanged,
    PinComponent,
    Preview,
    ResultSaved,
    RunCancelled,
    RunFailed,
    RunStarted,
    RunSucceeded,
    ShutDown,
    StartRun,
    StepProgress,
    TerminalEvent,
    Timings,
    WatchPreviews,
    WorkerReady,
    decode_command,
    encode,
)
from app.settings import WorkerSettings
from app.stamps import stamp_of

COMMANDS = "scripted_worker.commands"
AT_START = "at-start"
STARTS = "starts"
"""A file in the outputs with one byte for every start of a worker."""
OUT_OF_TURN = 70
COMPONENT_BYTES = 1000
LOOK_AGAIN_S = 0.005


def scripted_worker(connection: Connection, settings: WorkerSettings, outputs: Path) -> None:
    """Runs in the child process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with (outputs / STARTS).open("a") as starts:
        starts.write(".")
    ScriptedWorker(connection, settings, outputs).serve()


class Missing(Exception):
    """Raised when the script reports missing model files."""


def _read_from_disk_bytes() -> int:
    """Returns the bytes this process has read from disks since it began."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("read_bytes:")).split()[1])


class ScriptedWorker:
    """The main thread runs scripts; another thread reads commands, as in the real worker."""

    def __init__(self, connection: Connection, settings: WorkerSettings, outputs: Path) -> None:
        self._connection, self._settings, self._outputs = connection, settings, outputs
        self._sending = threading.Lock()
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._busy = False
        self._run_id = ""
        self._cancelled: set[str] = set()
        self._watched: set[str] = set()
        self._held: list[HeldComponent] = []
        self._ram_bytes = 0
        self._eviction: Eviction | None = None
        self._when: dict[str, str] = {}
        self._begin("")

    def serve(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()
        at_start = self._outputs / AT_START
        self._obey(at_start.read_text() if at_start.is_file() else "nothing")
        self._send(
            WorkerReady(
                pid=os.getpid(),
                device=self._settings.device,
                device_name="Scripted",
                versions={"script": "1"},
                memory=self._memory(),
            )
        )
        self._obey(self._when.pop("ready", "nothing"))
        while True:
            match self._commands.get():
                case StartRun() as command:
                    self._run(command)
                case FreeMemory() as command:
                    self._free(command)
                case PinComponent() as command:
                    self._pin(command)
                case DropComponents() as command:
                    self._drop(command)
                case MoveToRam() as command:
                    self._move(command)
                case CleanUp() as command:
                    self._obey(self._when.get("cleaning", "nothing"))
                    self._report_memory(command.request_id)
                case ShutDown():
                    self._obey(self._when.get("shut down", "nothing"))
                    return

    # --- commands --------------------------------------------------------------------------------

    def _read(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                data = self._connection.recv_bytes()
                self._log(time.time(), logging.DEBUG, COMMANDS, data.decode())
                self._take(decode_command(data))
        os._exit(0)

    def _take(self, command: Command) -> None:
        match command:
            case CancelRun():
                self._cancelled.add(command.run_id)
            case WatchPreviews(watched=True):
                self._watched.add(command.run_id)
            case WatchPreviews():
                self._watched.discard(command.run_id)
            case StartRun() | FreeMemory() | CleanUp() if self._busy:
                print(f"{command.type} came while the worker was busy", file=sys.stderr)
                os._exit(OUT_OF_TURN)
            case _:
                self._busy = isinstance(command, StartRun | FreeMemory)
                self._commands.put(command)

    def _run(self, command: StartRun) -> None:
        self._begin(command.run_id)
        if command.previews:
            self._watched.add(command.run_id)
        run = {"run_id": command.run_id, "time": self._began_at}
        self._send(RunStarted(**run, steps=tuple(step.name for step in command.plan.steps)))
        ended: TerminalEvent | FilesMissing
        try:
            self._obey(str(command.plan.inputs["prompt"]))
            ended = RunSucceeded(
                **run,
                timings=Timings(total_s=0.0),
                loaded=tuple(part.title for part in self._held),
                outputs=tuple(self._returned),
            )
        except Cancelled:
            ended = RunCancelled(**run, phase=self._phase)
        except Missing as missing:
            source, names = missing.args
            ended = FilesMissing(**run, source=source, names=names)
        except StepError as error:
            ended = RunFailed(**run, error=error.report())
        self._busy = False
        self._send(ended.model_copy(update={"time": time.time()}))
        self._obey(self._when.pop("over", "nothing"))
        self._report_memory()

    def _free(self, command: FreeMemory) -> None:
        self._obey(self._when.pop("freed", "nothing"))
        before, dropped = self._memory(), tuple(self._held)
        self._held.clear()
        self._busy = False
        self._send(
            MemoryFreed(
                request_id=command.request_id,
                before=before,
                after=self._memory(),
                seconds=0.0,
                dropped=dropped,
            )
        )
        self._report_memory()

    def _pin(self, command: PinComponent) -> None:
        self._obey(self._when.pop("pinned", "nothing"))
        self._held = [
            part.model_copy(update={"pinned": command.pinned}) if part.key == command.key else part
            for part in self._held
        ]
        self._report_memory(command.request_id)

    def _drop(self, command: DropComponents) -> None:
        gone = tuple(part.title for part in self._held if part.key in command.keys)
        self._held = [part for part in self._held if part.key not in command.keys]
        self._eviction = Eviction(
            time=time.time(), titles=gone, what="dropped", reason=command.reason
        )
        self._report_memory(command.request_id)

    def _move(self, command: MoveToRam) -> None:
        self._held = [
            part.model_copy(update={"place": "ram"}) if part.key in command.keys else part
            for part in self._held
        ]
        self._report_memory(command.request_id)

    # --- scripts ---------------------------------------------------------------------------------

    def _begin(self, run_id: str) -> None:
        self._run_id, self._phase, self._ignoring = run_id, "queued", False
        self._began_at = time.time()
        self._results, self._returned = itertools.count(), []

    def _obey(self, script: str) -> None:
        for instruction in script.split("; "):
            self._do(instruction)

    def _do(self, instruction: str) -> None:
        run = {"run_id": self._run_id, "time": time.time()}
        match instruction.split(" "):
            case ["nothing"]:
                pass
            case ["accelerator"]:
                self._ram_bytes = 10 * COMPONENT_BYTES
            case ["enter", phase]:
                self._phase = phase
                self._send(PhaseChanged(**run, step="draw", phase=phase))
            case ["wait", "for", file]:
                while not Path(file).exists():
                    self._pause()
            case ["leave", file]:
                Path(file).write_bytes(b"")
            case ["ignore", "cancel"]:
                self._ignoring = True
            case ["watch"]:
                while self._run_id not in self._watched:
                    self._pause()
            case ["preview", *words]:
                self._preview(" ".join(words))
            case ["previews"]:
                for number in itertools.count():
                    if self._run_id in self._watched:
                        self._preview(str(number))
                    self._pause()
            case ["flood"]:
                progress = StepProgress(**run, step="draw", done=1, total=2, seconds_left=None)
                while True:
                    self._send(progress)
            case ["gap", seconds]:
                self._send(CancelPointGap(run_id=self._run_id, seconds=float(seconds)))
            case ["hold", name]:
                self._hold(name)
                self._report_memory()
            case ["save", name]:
                self._save(name)
            case ["return", *words]:
                self._returned.append(" ".join(words))
            case ["read", file]:
                before = _read_from_disk_bytes()
                Path(file).read_bytes()
                self._returned.append(str(_read_from_disk_bytes() - before))
            case ["log", level, logger, *words]:
                number = logging.getLevelNamesMapping()[level]
                self._log(self._began_at, number, logger, " ".join(words))
            case ["complain", *words]:
                print(" ".join(words), file=sys.stderr, flush=True)
            case ["miss", model, file]:
                raise Missing(ModelSource(model=model), (file,))
            case ["fail", *words]:
                raise StepError(" ".join(words))
            case ["exit", code]:
                os._exit(int(code))
            case ["kill"]:
                os.kill(os.getpid(), signal.SIGKILL)
            case ["stop"]:
                os.kill(os.getpid(), signal.SIGSTOP)
            case ["fork", "until", file]:
                if os.fork() == 0:
                    while not Path(file).exists():
                        time.sleep(LOOK_AGAIN_S)
                    os._exit(0)
            case ["on", device, *words]:
                if device == self._settings.device:
                    self._do(" ".join(words))
            case ["once", file, *words]:
                with contextlib.suppress(FileExistsError):
                    Path(file).touch(exist_ok=False)
                    self._do(" ".join(words))
            case ["babble"]:
                self._connection.send_bytes(b"how do you do")
            case ["when", "ready" | "over" | "freed" | "pinned" | "cleaning" as moment, *words]:
                self._when[moment] = " ".join(words)
            case ["when", "shut", "down", *words]:
                self._when["shut down"] = " ".join(words)
            case _:
                raise ValueError(f"The script says '{instruction}', which is no instruction")

    def _pause(self) -> None:
        if self._run_id in self._cancelled and not self._ignoring:
            raise Cancelled
        time.sleep(LOOK_AGAIN_S)

    def _preview(self, text: str) -> None:
        run = {"run_id": self._run_id, "time": time.time()}
        self._send(Preview(**run, jpeg=text.encode(), width=8, height=8))

    def _hold(self, name: str) -> None:
        part = HeldComponent(
            key=name,
            title=name,
            place="device",
            weight_bytes=COMPONENT_BYTES,
            file_backed_bytes=0,
            load_s=0.0,
            last_used=time.time(),
            used_by=(),
            pinned=False,
        )
        self._held.append(part)

    def _save(self, name: str) -> None:
        folder = self._outputs / self._run_id
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"a picture")
        (folder / f"{name}.json").write_text("{}")
        self._send(
            ResultSaved(
                run_id=self._run_id,
                time=time.time(),
                step="draw",
                path=str(folder / name),
                sidecar=str(folder / f"{name}.json"),
                content_type="image/png",
                seed=0,
                index=next(self._results),
                final=True,
                stamps=(stamp_of(folder / name), stamp_of(folder / f"{name}.json")),
            )
        )

    # --- telling ---------------------------------------------------------------------------------

    def _memory(self) -> MemoryUse:
        return MemoryUse(
            device_bytes=COMPONENT_BYTES * len(self._held),
            device_reserved_bytes=0,
            device_free_bytes=0,
            device_total_bytes=0,
            resident_bytes=0,
            anonymous_bytes=0,
            ram_free_bytes=0,
            ram_total_bytes=0,
        )

    def _report_memory(self, request_id: str = "") -> None:
        self._send(
            MemoryReported(
                request_id=request_id,
                memory=self._memory(),
                budgets=Budgets(device_bytes=0, ram_bytes=self._ram_bytes),
                held=tuple(self._held),
                last_eviction=self._eviction,
            )
        )

    def _log(self, at: float, level: int, logger: str, text: str) -> None:
        self._send(Logged(time=at, level=level, logger=logger, text=text))

    def _send(self, event: Event) -> None:
        with self._sending:
            self._connection.send_bytes(encode(event))
