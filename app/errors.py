"""All errors of this project, as sentences: what, where, what to do next.

::

    WorkbenchError
    ├── BadRequest             the request is invalid; raised before any heavy work
    │   ├── InvalidWorkflow    the document is wrong (all problems at once)
    │   ├── InvalidInputs      values for its variables are wrong (all problems at once)
    │   ├── UnknownWorkflow    no document of that name
    │   ├── MalformedBody      the body of a request cannot be read
    │   ├── BodyTooLarge       a request or a file in it has too many bytes
    │   ├── ReusedKey          an Idempotency-Key that came with another request
    │   ├── NotLoggedIn        the request needs a login or a token
    │   └── NotAllowed         this person may not do this, or not now
    ├── EngineError            the engine cannot take the call
    │   ├── EngineNotStarted
    │   ├── EngineClosed
    │   ├── QueueFull
    │   │   └── TooManyRuns    of one person
    │   ├── TooManyCalls       of one person are being answered
    │   ├── UnknownRun
    │   └── UnknownResult
    ├── RunError               the run had started and could not be finished
    │   ├── FetchError         media behind a URL could not be fetched
    │   ├── LoadError          a model could not be loaded
    │   ├── StepError          a step's own call failed
    │   ├── ResultError        a result could not be written
    │   ├── OutOfMemory
    │   ├── TooLarge           the weights of a step exceed the budget
    │   ├── DeviceUnusable     the device does not exist, or torch cannot use it
    │   └── WorkerDied         the worker process ended in mid-run
    └── ServeError             the server cannot be started as asked (a busy port, say)

    Cancelled(BaseException)   not an error; raised at cancel points, caught only where a run ends:
                               worker/runner.py, engine/prepare.py, shared_work.py

Exceptions never cross the pipe between the processes; an `ErrorReport` does.
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Iterable, Sequence

from app.frozen import Frozen

MAX_NAME_LENGTH = 100
"""Longer names get no hint: they are not typos, and comparing them is slow."""
MAX_COMPARED = 1000
MAX_EFFORT = 600_000
"""Product of the lengths compared for one hint: about a tenth of a second."""
MAX_REPORTED = 100
"""Maximum number of problems reported for one request."""
PART = re.compile(r'\[([0-9]+)\]|\[("(?:[^"\\]|\\.)*")\]|(?:^|\.)([^.\[\]"/, ]+)')
"""One part of a place: a list index, a quoted key, a key."""


class Problem(Frozen):
    """One mistake: its place in the document, a sentence, and a hint."""

    place: str
    """Path into the document: `steps[0].pipeline.arguments.guidance_scale`."""
    message: str
    hint: str = ""

    @property
    def pointer(self) -> str:
        """The place as a JSON pointer (RFC 6901): `/steps/0/pipeline/arguments/guidance_scale`.

        Other places (a line of a file, say) are returned unchanged.
        """
        if self.place.startswith("/") or PART.sub("", self.place):
            return self.place
        parts = [json.loads(quoted) if quoted else index or key
                 for index, quoted, key in PART.findall(self.place)]  # fmt: skip
        return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        return f"{where}{self.message}{f' {self.hint}' if self.hint else ''}"


class ErrorReport(Frozen):
    """An error as data, for users and other processes."""

    kind: str
    """The error class's name, for example `LoadError`; stable, for scripts."""
    message: str
    hint: str = ""
    problems: tuple[Problem, ...] = ()
    detail: str = ""
    """For the operator's log only (traceback, last lines of stderr); never shown on the page."""

    def sentence(self) -> str:
        """Returns the whole report as text, one problem per line."""
        head = f"{self.message} {self.hint}".strip()
        return "\n".join([head, *(f"- {problem}" for problem in self.problems)])


class WorkbenchError(Exception):
    """An error with a sentence for users and, if possible, what to do next."""

    def __init__(self, message: str, *, hint: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail = detail
        self.problems: tuple[Problem, ...] = ()

    def __str__(self) -> str:
        return self.report().sentence()

    def report(self) -> ErrorReport:
        """Returns this error as data."""
        return ErrorReport(
            kind=type(self).__name__,
            message=self.message,
            hint=self.hint,
            problems=self.problems,
            detail=self.detail,
        )


class BadRequest(WorkbenchError):
    """The request is invalid; raised before any heavy work."""

    def __init__(self, message: str, problems: Sequence[Problem] = (), *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        more = len(problems) - MAX_REPORTED
        rest = (Problem(place="", message=f"There are {more} more."),) if more > 0 else ()
        self.problems = (*problems[:MAX_REPORTED], *rest)


class InvalidWorkflow(BadRequest):
    """The workflow document is wrong; `problems` lists all mistakes."""


class InvalidInputs(BadRequest):
    """Values for a workflow's variables are wrong; `problems` lists them all."""


class UnknownWorkflow(BadRequest):
    """The catalog has no workflow of that name."""


class MalformedBody(BadRequest):
    """The body of a request, or its address, cannot be read."""


class BodyTooLarge(BadRequest):
    """A request, or a file in it, has more bytes than are taken."""


class ReusedKey(BadRequest):
    """An Idempotency-Key that came with another request before."""


class NotLoggedIn(BadRequest):
    """The request needs a login or a token."""


class NotAllowed(BadRequest):
    """This person may not do this, or not now."""


class EngineError(WorkbenchError):
    """The engine cannot take this call now."""


class EngineNotStarted(EngineError):
    """A method was called before `engine.start(settings)`."""


class EngineClosed(EngineError):
    """The engine has been closed and takes no more calls."""


class QueueFull(EngineError):
    """More runs are waiting than the settings allow."""


class TooManyRuns(QueueFull):
    """One person has more waiting runs than the settings allow."""


class TooManyCalls(EngineError):
    """One person has more open requests than the settings allow."""


class UnknownRun(EngineError):
    """No run has this id."""


class UnknownResult(EngineError):
    """No result has this id, or its file is gone."""


class RunError(WorkbenchError):
    """The run had started and could not be finished."""


class FetchError(RunError):
    """Media at a URL could not be fetched, or are of the wrong kind."""


class LoadError(RunError):
    """A model could not be found, read or assembled."""


class StepError(RunError):
    """The call of a step failed."""


class ResultError(RunError):
    """A result could not be written."""


class OutOfMemory(RunError):
    """The device or the machine has too little memory for this run."""


class TooLarge(RunError):
    """The weights of a step exceed the budget, or its activations need far more memory than there
    is."""


class DeviceUnusable(RunError):
    """The requested device does not exist, or torch cannot use it."""


class WorkerDied(RunError):
    """The worker process ended while the run was in it."""


class ServeError(WorkbenchError):
    """The server cannot be started as asked."""


class Cancelled(BaseException):
    """Raised at a cancel point of a cancelled run; caught only where a run ends (see above)."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns a hint with the known name closest to `name`, or an empty string."""
    if len(name) > MAX_NAME_LENGTH:
        return ""
    compared, left = [], MAX_EFFORT
    for each in itertools.islice(known, MAX_COMPARED):
        left -= len(name) * len(each)
        if left < 0:
            break
        compared.append(each)
    matches = difflib.get_close_matches(name, compared, n=1, cutoff=0.6)
    return f"Did you mean '{matches[0]}'?" if matches else ""


def shortened(text: str, most: int = 60) -> str:
    """Returns the text, truncated to so many characters."""
    return text if len(text) <= most else f"{text[: most - 3]}…"


def first_line(error: BaseException) -> str:
    """Returns the first line of the error's message, or its class name if empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
