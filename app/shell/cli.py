"""The command line: serve, run, batch, repl, validate, workflows, models, runs, free, weights.

Each command imports what it needs: `validate` needs no page, `workflows` no worker. Results go to
stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 cancelled.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.errors import BadRequest, WorkbenchError
from app.log_lines import IndentingFormatter
from app.network import prepare_proxies
from app.settings import Settings
from app.shell.command_line import pair, parsed, read_login, settings_of
from app.shell.home import from_home

if TYPE_CHECKING:
    from rich.console import Console

    from app.models.fit import Room
    from app.models.hub_headers import HubHeaders
    from app.shell.workbench import Workbench

LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
INPUT = re.compile(r"[a-zA-Z_][\w-]*=")
"""The start of a word that sets a variable; any other word is a file."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    options = parsed(arguments)
    try:
        prepare_proxies()
        settings = settings_of(options)
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(IndentingFormatter(LOG_FORMAT))
        logging.basicConfig(handlers=[handler], level=logging.WARNING)
        logging.getLogger("app").setLevel(settings.worker.log_level)
        return COMMANDS[options.name](options, settings)
    except WorkbenchError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


# --- commands ------------------------------------------------------------------------------------


def _serve(_options: argparse.Namespace, settings: Settings) -> int:
    from app.engine import engine
    from app.ui.server import serve

    serve(engine, settings)
    return 0


def _run(options: argparse.Namespace, settings: Settings) -> int:
    from rich.console import Console

    from app.catalog.catalog import find_workflow
    from app.engine import engine
    from app.shell.terminal import outcome, run_to_end

    workflow = find_workflow(options.file, settings.paths)
    inputs = _with_home(workflow, dict(options.inputs))

    def submit() -> str:
        return engine.submit(
            workflow,
            inputs,
            seed=options.seed,
            changes=dict(options.changes),
            fresh=options.fresh,
        )

    engine.start(settings)
    try:
        view = run_to_end(engine, submit, Console(stderr=True))
    finally:
        engine.close()
    files = [result.path for result in view.results]
    if options.json:
        print(
            json.dumps(
                {
                    "outcome": view.outcome,
                    "files": files,
                    "seed": view.seed,
                    "unchanged": view.unchanged,
                    "seconds": view.timings.total_s if view.timings else None,
                    "loaded": view.loaded,
                    "notice": view.notice,
                    "error": view.error.sentence() if view.error else None,
                }
            )
        )
    else:
        print(*files, sep="\n", end="\n" if files else "")
    print(outcome(view), file=sys.stderr)
    return {"succeeded": 0, "cancelled": 130}.get(view.outcome or "", 1)


def _with_home(workflow: Path, inputs: Mapping[str, str]) -> dict[str, Any]:
    from app.dialect.loader import read_document
    from app.planning.declarations import declared_inputs
    from app.shell.home import with_home

    return with_home(declared_inputs(read_document(workflow)), inputs)


def _batch(options: argparse.Namespace, settings: Settings) -> int:
    from rich.console import Console

    from app.shell.batch import Batch
    from app.shell.batch_rows import read_rows

    rows = read_rows(options.file, options.workflow, growing=options.watch)
    if not rows and not options.watch:
        raise BadRequest(f"'{options.file.name}' has no rows.")
    console = Console(stderr=True)
    with contextlib.closing(_workbench(options, settings, console)) as workbench:
        return Batch(
            workbench,
            options.file,
            workflow=options.workflow,
            changes=dict(options.changes),
            fresh=options.fresh,
            console=console,
        ).run(rows, watch=options.watch)


def _repl(options: argparse.Namespace, settings: Settings) -> int:
    from app.shell.repl import Repl

    return Repl(_workbench(options, settings)).loop(options.file)


def _workbench(
    options: argparse.Namespace, settings: Settings, console: Console | None = None
) -> Workbench:
    """Returns a running server as the workbench, or one with its own worker."""
    from app.shell.remote import ServerWorkbench
    from app.shell.workbench import LocalWorkbench

    if not options.server:
        return LocalWorkbench(settings, console)
    login = read_login(options.auth) if options.auth else None
    return ServerWorkbench(options.server, login, settings.paths.outputs, console)


def _validate(options: argparse.Namespace, settings: Settings) -> int:
    from app.models.hub_headers import HubHeaders

    pairs = [word for word in options.words if INPUT.match(word)]
    files = [from_home(word) for word in options.words if word not in pairs]
    if not files:
        raise BadRequest("Which workflow? A file, or a name that `workflows` lists, is needed.")
    room = _room(settings)
    wrong = 0
    with contextlib.closing(HubHeaders()) as hub:
        for file in files:
            try:
                _validate_one(file, dict(map(pair, pairs)), options, settings, room, hub)
            except WorkbenchError as error:
                wrong += 1
                print(f"{error.message} {error.hint}".rstrip(), file=sys.stderr)
                # Changes of this run are in no line of the file.
                elsewhere = dict(options.changes)
                lines = _lines(error, file, settings)
                for found in error.problems:
                    line = "" if found.pointer in elsewhere else lines.get(found.pointer, "")
                    where = found.pointer + line
                    told = f"{where}: {found.message}" if where else found.message
                    print(f"- {told} {found.hint}".rstrip(), file=sys.stderr)
    if room is None and wrong < len(files):
        print("Only the worker knows the device's memory: set DW_DEVICE_BUDGET here.")
    return 1 if wrong else 0


def _lines(error: WorkbenchError, file: str, settings: Settings) -> dict[str, str]:
    """Returns the line of each problem, as ` (line 12)`, by the problem's pointer."""
    from app.catalog.catalog import find_workflow
    from app.dialect.json_text import line_of, text_of
    from app.errors import InvalidWorkflow

    pointers = [each.pointer for each in error.problems if each.pointer.startswith("/")]
    if not isinstance(error, InvalidWorkflow) or not pointers:
        return {}
    text = text_of(find_workflow(file, settings.paths).read_bytes())
    return {pointer: f" (line {line_of(text, pointer)})" for pointer in pointers}


def _validate_one(
    file: str,
    inputs: dict[str, Any],
    options: argparse.Namespace,
    settings: Settings,
    room: Room | None,
    hub: HubHeaders,
) -> None:
    """Prints what the workflow does and needs. Raises WorkbenchError if it cannot run."""
    from app.catalog.catalog import find_workflow
    from app.models import needs
    from app.planning.planner import make_plan

    workflow = find_workflow(file, settings.paths)
    inputs = _with_home(workflow, inputs)
    plan = make_plan(workflow, inputs, paths=settings.paths, changes=dict(options.changes))
    for warning in plan.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for step in plan.steps:
        print(f"{step.name}: {step.title}")
    print(*needs.lines(plan, room, hub.ask), sep="\n")
    print(f"'{plan.workflow_id}' has no mistake: {len(plan.steps)} step(s).")


def _room(settings: Settings) -> Room | None:
    """Returns the available memory, if it is known without a worker that asks the device."""
    from app.machine import expects_accelerator, ram_free_and_total_bytes
    from app.models.fit import DEVICE_SHARE, RAM_SHARE, Room

    worker = settings.worker.split()[0]
    budget = worker.device_budget
    _, ram_bytes = ram_free_and_total_bytes()
    if not expects_accelerator(worker.device):
        share = int(DEVICE_SHARE * ram_bytes) // worker.workers_on_device
        return Room(budget or share, 0, ram_bytes)
    if budget is None:
        return None
    ram_share = int(RAM_SHARE * ram_bytes) // worker.workers
    return Room(budget, worker.ram_budget or ram_share, budget)


def _workflows(options: argparse.Namespace, settings: Settings) -> int:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from app.catalog.catalog import Catalog

    entries = Catalog(settings.paths).entries()
    if options.json:
        print(json.dumps([entry.model_dump(mode="json") for entry in entries], indent=1))
        return 0
    table = Table("name", "what it needs here", "inputs", box=box.SIMPLE, pad_edge=False)
    for entry in entries:
        table.add_row(entry.name, entry.availability, ", ".join(i.name for i in entry.inputs))
    # A pipe has no width: names must not be cut for the program that reads them.
    console = Console()
    Console(width=None if console.is_terminal else 200).print(table)
    return 0


def _models(options: argparse.Namespace, settings: Settings) -> int:
    from app.shell.models_command import print_models

    print_models(settings.paths, options.kind, as_json=options.json)
    return 0


def _runs(options: argparse.Namespace, settings: Settings) -> int:
    from app.shell.history_command import list_runs

    words = " ".join(options.words)
    list_runs(settings.paths.outputs, words=words, limit=options.limit, as_json=options.json)
    return 0


def _free(options: argparse.Namespace, settings: Settings) -> int:
    from app.shell.remote import ServerWorkbench

    login = read_login(options.auth) if options.auth else None
    with contextlib.closing(
        ServerWorkbench(options.server, login, settings.paths.outputs)
    ) as workbench:
        print(workbench.free(now=options.now))
    return 0


def _weights(options: argparse.Namespace, settings: Settings) -> int:
    from datetime import datetime

    from app.worker.loading.converted import FOLDER, ConvertedWeights

    folder = settings.paths.outputs / FOLDER
    converted = ConvertedWeights(folder, settings.worker.converted_weights_bytes)
    if options.clear:
        try:
            print(f"{converted.clear() / 1e6:.0f} MB of converted weights removed.")
        except OSError as error:
            raise WorkbenchError(
                f"The folder '{folder}' could not be removed.", hint=f"{error}."
            ) from error
        return 0
    kept = converted.kept()
    for each in kept:
        used = datetime.fromtimestamp(each.last_used)
        print(f"{each.size_bytes / 1e6:9.0f} MB  last used {used:%Y-%m-%d %H:%M}  {each.title}")
    total_bytes = sum(each.size_bytes for each in kept)
    print(f"{total_bytes / 1e6:9.0f} MB in all in {folder}", file=sys.stderr)
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace, Settings], int]] = {
    "serve": _serve,
    "run": _run,
    "batch": _batch,
    "repl": _repl,
    "validate": _validate,
    "workflows": _workflows,
    "models": _models,
    "runs": _runs,
    "free": _free,
    "weights": _weights,
}
