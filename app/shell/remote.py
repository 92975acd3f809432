"""A running server as the workbench of the dw> prompt, by its API."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from app.dialect.inputs import InputSpec, check_inputs
from app.errors import BadRequest, InvalidInputs, Problem, ServeError
from app.media.files import KIND_NAMES
from app.media.urls import is_url
from app.network import is_loopback
from app.run_view import PHASE_WORDS
from app.shell.command_line import ANYWHERE
from app.shell.home import with_home
from app.shell.workbench import NONE, Described, Ended
from app.signals import CtrlC, first_ctrl_c
from app.unfinished import PRIVATE, private_folder
from app.units import byte_progress

log = logging.getLogger(__name__)

SILENCE_S = 30.0
"""Silence after which the connection counts as lost."""


class ServerWorkbench:
    """A `Workbench` that is a running server, by its API. Workflows are those of its catalog.

    Results are downloaded into a folder named like the run below `outputs`, unless the server
    itself writes there.
    """

    def __init__(
        self,
        url: str,
        login: tuple[str, str] | None,
        outputs: Path,
        console: Console | None = None,
    ) -> None:
        """Progress is shown on `console`; by default on stdout. Raises ServeError."""
        # Read when the client is created; otherwise it reports its use to its makers.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        from gradio_client import Client

        self._outputs = outputs
        self._console = console or Console()
        self._inputs: dict[str, tuple[InputSpec, ...]] = {}
        """The inputs of the described workflows."""
        self._open = contextlib.ExitStack()
        self._fetched = self._open.enter_context(
            private_folder(Path(tempfile.gettempdir()), f"{PRIVATE}prompt-")
        )
        try:
            self._client = Client(
                url,
                auth=login,
                verbose=False,
                analytics_enabled=False,
                download_files=str(self._fetched),
                # Not even created for loopback: a SOCKS proxy needs a package that may be missing.
                httpx_kwargs={"trust_env": not is_loopback(url)},
            )
        except Exception as error:
            self._open.close()
            raise ServeError(
                f"No workbench could be reached at {url} ({_said(error).rstrip('.')}).",
                hint="Start it (`make serve`, `dw serve`), or name it with --server and --auth.",
            ) from error

    def describe(self, name: str) -> Described:
        found = self._ask("/describe_workflow", name)
        specs = tuple(InputSpec.model_validate(each) for each in found["inputs"])
        self._inputs[found["name"]] = specs
        return Described(found["name"], found["name"], specs)

    def _specs(self, name: str) -> tuple[InputSpec, ...]:
        """Returns the workflow's inputs, which the server is asked for once."""
        return self._inputs[name] if name in self._inputs else self.describe(name).inputs

    def names(self) -> list[str]:
        return [each["name"] for each in self._ask("/list_workflows")]

    def workflows(self) -> str:
        return "\n".join(
            f"{w['name']:24} {w['availability']}" for w in self._ask("/list_workflows")
        )

    def check(
        self,
        name: str,
        inputs: Mapping[str, Any],
        seed: int | None,
        changes: Mapping[str, Any],
    ) -> None:
        """Checks the inputs alone: only the server can plan its workflow."""
        inputs = with_home(self._specs(name), inputs)
        _, problems = check_inputs(self._specs(name), inputs, ANYWHERE)
        problems += self._missing_files(name, inputs)
        if problems:
            raise InvalidInputs(f"'{name}' cannot run with these inputs.", problems)

    def run(
        self,
        name: str,
        inputs: Mapping[str, Any],
        seed: int | None,
        fresh: bool,
        *,
        changes: Mapping[str, Any] = NONE,
        title: str = "",
    ) -> Ended:
        from app.shell.terminal import progress, unchanged

        inputs = with_home(self._specs(name), inputs)
        with first_ctrl_c() as ctrl_c, progress(self._console, title) as show:
            job = self._client.submit(
                workflow=name,
                variables=self._with_uploads(name, inputs),
                seed=seed,
                fresh=fresh,
                changes=dict(changes),
                api_name="/generate",
            )
            last = self._follow(job, ctrl_c, show)
        try:
            job.result(timeout=0)
        except (concurrent.futures.CancelledError, TimeoutError):
            return Ended(None, [], self._lost_run(last.get("job_id")))
        except Exception as error:  # noqa: BLE001  (see __init__)
            return Ended(None, [], _said(error))
        if last.get("event") != "done":
            return Ended(None, [], _cancelled(last))
        files = self._keep(last["job_id"], [*last["images"], *last["metadata"]])
        sentence = unchanged(last["sentence"]) if last["unchanged"] else last["sentence"]
        images = files[: len(last["images"])]
        return Ended(last["seconds"], images, sentence, last["unchanged"], last["seed"])

    def status(self) -> str:
        from app.engine.status import EngineStatus
        from app.shell.terminal import status

        return status(EngineStatus.model_validate(self._ask("/status")))

    def memory(self) -> str:
        from app.engine.status import EngineStatus
        from app.shell.terminal import memory

        return memory(EngineStatus.model_validate(self._ask("/status")))

    def free(self, *, now: bool = False) -> str:
        mode = "cancel_and_free" if now else "when_idle"
        log.info("Performing full cleanup")
        return str(self._ask("/free_gpu", mode)["sentence"])

    def close(self) -> None:
        self._client.close()
        self._open.close()

    def _follow(
        self, job: Any, ctrl_c: CtrlC, show: Callable[[str, float], None]
    ) -> dict[str, Any]:
        """Follows a run to its end; returns the last event. Ctrl-C cancels the run."""
        loads, is_cancelled = _Loads(), False
        last: dict[str, Any] = {}
        for events in _stream(job):
            for last in events:
                loads.tell(last)
                if status := _status(last):
                    show(*status)
            if ctrl_c.came and not is_cancelled and "job_id" in last:
                is_cancelled = True
                self._ask("/cancel_job", last["job_id"])
        return last

    def _lost_run(self, run_id: str | None) -> str:
        """Returns the outcome of a run whose stream ended early, as a sentence."""
        lost = (
            "The connection to the server broke off during the run. A proxy in between may end"
            " long answers; let it wait as long as runs take."
        )
        if run_id is None:
            return lost
        try:
            # Not `predict`, which would wait for ever where answers do not arrive.
            ended = self._client.submit(run_id, api_name="/cancel_job").result(SILENCE_S)
        except Exception as error:  # noqa: BLE001  (see __init__)
            return f"{lost} What became of the run {run_id} is not known ({_said(error)})."
        if ended:
            return f"{lost} The run {run_id} was cancelled."
        return f"{lost} The run {run_id} is over: cancelled, unless it had just ended."

    def _ask(self, endpoint: str, *arguments: Any) -> Any:
        try:
            return self._client.predict(*arguments, api_name=endpoint)
        except Exception as error:
            raise BadRequest(_said(error)) from error

    def _with_uploads(self, name: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the inputs with every file as an upload: a server takes no paths.

        The server decides whether it fetches a URL.
        """
        from gradio_client import handle_file

        for problem in self._missing_files(name, inputs):
            raise BadRequest(f"{problem.place.removeprefix('inputs.')}: {problem.message}")
        files = {spec.name for spec in self._files(name, inputs)}
        return {key: handle_file(given) if key in files else given for key, given in inputs.items()}

    def _missing_files(self, name: str, inputs: Mapping[str, Any]) -> list[Problem]:
        return [
            Problem(
                place=f"inputs.{spec.name}",
                message=f"There is no {KIND_NAMES[spec.media]} '{inputs[spec.name]}'.",
            )
            for spec in self._files(name, inputs)
            if spec.media and not Path(inputs[spec.name]).is_file()
        ]

    def _files(self, name: str, inputs: Mapping[str, Any]) -> list[InputSpec]:
        """Returns the inputs for which a file of this machine is given."""
        return [
            spec
            for spec in self._specs(name)
            if spec.media
            and isinstance(given := inputs.get(spec.name), str)
            and given != spec.default
            and not is_url(given)
        ]

    def _keep(self, run_id: str, fetched: list[str]) -> list[str]:
        """Moves these files into the run's folder; returns their paths."""
        folder = self._outputs.resolve() / run_id
        folder.mkdir(parents=True, exist_ok=True)
        kept = [folder / Path(file).name for file in fetched]
        for file, target in zip(fetched, kept, strict=True):
            if not target.exists():
                shutil.move(file, target)
        return [str(target) for target in kept]


def _status(event: Mapping[str, Any]) -> tuple[str, float] | None:
    """Returns the status and fraction that this event of a run tells; None for none."""
    match event["event"]:
        case "downloading":
            amount = byte_progress(event["done_bytes"], event["total_bytes"])
            return f"Downloading {event['model']} · {amount}", 0.0
        case "loading":
            return f"Loading {event['component']} of {event['model']}", 0.0
        case "phase":
            return PHASE_WORDS[event["phase"]], 0.0
        case "step":
            done, total = event["done"], event["total"]
            return f"{PHASE_WORDS['denoising']} · step {done} of {total}", done / total
    return None


class _Loads:
    """Logs the loads of a server's run, in the words of a local worker."""

    def __init__(self) -> None:
        self._pipelines: set[str] = set()
        self._components: set[tuple[str, str]] = set()
        self._looked = False

    def tell(self, event: Mapping[str, Any]) -> None:
        """Logs the news in this event of the run."""
        match event["event"]:
            case "loading":
                component, model = event["component"], event["model"]
                if model not in self._pipelines:
                    log.info("Loading pipeline from model: %s", model)
                if (component, model) not in self._components:
                    log.info("Loading %s from model: %s", component, model)
                self._pipelines.add(model)
                self._components.add((component, model))
            case "phase" if event["phase"] == "loading":
                self._looked = True
            case "phase" if self._looked and not self._components:
                log.info("Reusing loaded models from cache")
                self._looked = False


def _stream(job: Any) -> Iterator[list[dict[str, Any]]]:
    """Yields the new events of a `gradio_client` job by polling, to its end, which its own iterator
    never reaches when the server is gone; or until a long silence: a live stream has a heartbeat
    every second."""
    told, heard_at = 0, time.monotonic()
    while True:
        over = job.done()
        events = [*job.outputs()]  # its own list grows meanwhile
        yield events[told:]
        if len(events) > told:
            heard_at = time.monotonic()
        told = len(events)
        if over or time.monotonic() - heard_at > SILENCE_S:
            return
        time.sleep(0.02)


def _cancelled(last: Mapping[str, Any]) -> str:
    from app.protocol import RunCancelled
    from app.run_view import RunView, advance
    from app.shell.terminal import outcome

    if last.get("event") != "cancelled":
        return "Cancelled."
    event = RunCancelled(
        run_id=last["job_id"], time=0.0, phase=last["phase"], notice=last["notice"]
    )
    return outcome(advance(RunView(), event))


def _said(error: BaseException) -> str:
    """Returns why a request failed, as a sentence."""
    from gradio_client.exceptions import AppError

    if isinstance(error, concurrent.futures.CancelledError):
        return "The server closed the connection during the run. Is it still running?"
    text = str(error).strip() or type(error).__name__
    return text if isinstance(error, AppError) else text.splitlines()[0]
