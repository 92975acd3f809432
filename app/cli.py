"""The command line: serve, run, repl, validate, workflows, runs, free, weights.

What a command needs is imported inside it: `validate` needs no page, `workflows` no worker.
Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 it could not be done,
2 the command itself is wrong, 130 cancelled.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from app import __version__
from app.errors import BadRequest, Problem, WorkbenchError
from app.log_lines import SetIn
from app.mistakes import in_words
from app.network import prepare_proxies
from app.settings import Settings, variables

if TYPE_CHECKING:
    from app.workflow.models.fit import Room
    from app.workflow.models.hub_headers import HubHeaders

LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
OF_THE_PAGE = ("host", "port", "share", "media_urls")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
INPUT = re.compile(r"[a-zA-Z_][\w-]*=")
"""How a word begins that gives a variable its value; any other is a file."""
ANYWHERE = (Path("/"),)
"""Who has a shell on this machine may name any picture the shell may read."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        prepare_proxies()
        settings = _settings(options)
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(SetIn(LOG_FORMAT))
        logging.basicConfig(handlers=[handler], level=logging.WARNING)
        logging.getLogger("app").setLevel(settings.worker.log_level)
        return int(options.command(options, settings))
    except WorkbenchError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app", description="Diffusers Workbench")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="start the web page and its API")
    serve.set_defaults(command=_serve)
    serve.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    serve.add_argument(
        "--port", type=int, help="port to listen on (default 7860; 0 chooses a free one)"
    )
    serve.add_argument("--share", action="store_true", default=None, help="create a public link")
    serve.add_argument("--auth", metavar="USER:PASSWORD", help="require this login")
    serve.add_argument(
        "--media-urls", action=argparse.BooleanOptionalAction, default=None,
        help="allow images, videos and audio by URL"
        " (default: only if no other machine can reach the page)",
    )  # fmt: skip
    serve.add_argument(
        "--devices", metavar="DEVICE,DEVICE",
        help="instead of --device, one worker for each of these: cuda:0,cuda:1",
    )  # fmt: skip
    _add_no_history(serve)
    _add_common(serve, "INFO")

    run = commands.add_parser("run", help="run a workflow and print the paths of its results")
    run.set_defaults(command=_run)
    run.add_argument("file", help="a workflow's JSON file, or a name listed by `workflows`")
    run.add_argument(
        "inputs", nargs="*", metavar="name=value", type=_pair, help="values for its variables"
    )
    _add_set(run)
    run.add_argument("--seed", type=int, help="seed (default: the document's, else random)")
    run.add_argument(
        "--fresh", action="store_true", help="run again instead of using cached results"
    )
    run.add_argument("--json", action="store_true", help="print one JSON object instead of paths")
    _add_no_history(run)
    _add_common(run, "WARNING")

    repl = commands.add_parser("repl", help="open the dw> prompt")
    repl.set_defaults(command=_repl)
    repl.add_argument("file", nargs="?", help="a workflow to load at the start")
    _add_server(repl, "use this running server instead of starting a worker", None)
    _add_no_history(repl)
    _add_common(repl, "INFO")

    validate = commands.add_parser("validate", help="check workflows without running them")
    validate.set_defaults(command=_validate)
    validate.add_argument(
        "words", nargs="+", metavar="FILE | name=value",
        help="workflows to check, and values for their variables",
    )  # fmt: skip
    _add_set(validate)
    _add_common(validate, "WARNING")

    workflows = commands.add_parser("workflows", help="list workflows and what each still needs")
    workflows.set_defaults(command=_workflows)
    workflows.add_argument("--json", action="store_true", help="print a JSON list")
    _add_common(workflows, "WARNING")

    runs = commands.add_parser("runs", help="list past and current runs, newest first")
    runs.set_defaults(command=_runs)
    runs.add_argument("words", nargs="*", help="list only runs whose text contains all these words")
    runs.add_argument(
        "--limit", type=int, default=20, help="number of runs to list (default 20; -1 lists all)"
    )
    runs.add_argument("--json", action="store_true", help="print a JSON list")
    _add_common(runs, "WARNING")

    free = commands.add_parser("free", help="free the memory of a running server")
    free.set_defaults(command=_free)
    free.add_argument(
        "--now", action="store_true", help="cancel the current run instead of waiting for it"
    )
    _add_server(
        free, "address of the server (default http://127.0.0.1:7860)", "http://127.0.0.1:7860"
    )
    _add_common(free, "WARNING")

    weights = commands.add_parser(
        "weights", help="list stored weights that were converted to another dtype"
    )
    weights.set_defaults(command=_weights)
    weights.add_argument("--clear", action="store_true", help="delete all of them")
    _add_common(weights, "WARNING")
    return parser


def _add_common(parser: argparse.ArgumentParser, log_level: str) -> None:
    parser.add_argument(
        "--workflows", action="append", type=Path, metavar="FOLDER", default=[],
        help="an additional folder of workflows; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--models", action="append", type=Path, metavar="FOLDER", default=[],
        help="an additional folder of models, as OWNER/NAME below it; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--allow-pickles", action="store_true",
        help="read weight files that may contain code (.ckpt, .bin); the code is never run",
    )  # fmt: skip
    parser.add_argument(
        "--trust-remote-code", action="append", metavar="OWNER/NAME", default=[],
        help="allow code from this model repository if a document asks for it; repeatable",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="folder for results")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:1 or mps (default auto)")
    parser.add_argument("--log-level", choices=LOG_LEVELS, help=f"log level (default {log_level})")
    parser.set_defaults(default_log_level=log_level)


def _add_no_history(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-history", action="store_true", help="keep no history of the runs on disk"
    )


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", type=_change, metavar="POINTER=VALUE", default=[], dest="changes",
        help="change one value of the document for this run, by its JSON pointer, for example"
        " /steps/0/pipeline/arguments/width=256; repeatable",
    )  # fmt: skip


def _add_server(parser: argparse.ArgumentParser, text: str, default: str | None) -> None:
    parser.add_argument("--server", metavar="URL", default=default, help=text)
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="login of the server")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form name=value")
    return name, value


def _change(text: str) -> tuple[str, Any]:
    """`/steps/0/seed=7`: the value as JSON, or as text where it is none."""
    pointer, value = _pair(text)
    try:
        return pointer, json.loads(value)
    except ValueError:
        return pointer, value


def _settings(options: argparse.Namespace) -> Settings:
    """The environment's settings with what the command line says on top."""
    try:
        given = Settings.from_environment()
        ui = {name: getattr(options, name, None) for name in OF_THE_PAGE}
        ui = {name: value for name, value in ui.items() if value is not None}
        if options.command is _serve and options.auth:
            ui["auth"] = _login(options.auth)
        paths: dict[str, Any] = {}
        for name in ("workflows", "models"):
            folders = getattr(options, name)
            missing = [str(folder) for folder in folders if not folder.is_dir()]
            if missing:
                raise BadRequest(f"There is no folder '{missing[0]}' for --{name}.")
            paths[name] = (*getattr(given.paths, name), *folders)
        paths["allow_pickles"] = given.paths.allow_pickles or options.allow_pickles
        paths["trusted_code"] = (*given.paths.trusted_code, *options.trust_remote_code)
        if options.output:
            paths["outputs"] = options.output
        if options.command is not _serve:
            paths["media"] = ANYWHERE
        engine = {"keep_history": False} if getattr(options, "no_history", False) else {}
        worker = _devices(options, given)
        level_is_set = "log_level" in given.worker.model_fields_set
        if options.log_level or not level_is_set:
            worker["log_level"] = options.log_level or options.default_log_level
        return Settings.model_validate(
            {
                "ui": {**given.ui.model_dump(), **ui},
                "engine": given.engine.model_dump() | engine,
                "worker": {**given.worker.model_dump(), **worker},
                "paths": {**given.paths.model_dump(), **paths},
            }
        )
    except ValidationError as error:
        raise BadRequest("A setting does not fit.", _wrong_settings(error)) from None


def _devices(options: argparse.Namespace, given: Settings) -> dict[str, Any]:
    """What the command line says of the devices, instead of what the environment says."""
    devices = getattr(options, "devices", None)
    if options.device and devices:
        raise BadRequest(
            "--device and --devices cannot be given together.",
            hint="Use --device for one worker, --devices for several.",
        )
    if options.device:
        return {"device": options.device, "devices": ()}
    if devices:
        return {"device": "auto", "devices": devices}
    if options.command in (_run, _repl) and given.worker.devices:
        # One run at a time needs one worker.
        return {"device": given.worker.devices[0], "devices": ()}
    return {}


def _wrong_settings(error: ValidationError) -> list[Problem]:
    """What is wrong with the settings, by the variable that gives each of them."""
    names = dict(variables())
    found = []
    for each in error.errors():
        path = tuple(str(part) for part in each["loc"])
        variable = next((names[path[:end]] for end in (3, 2) if path[:end] in names), path[-1])
        message, hint = in_words(each)
        found.append(Problem(place=variable, message=message, hint=hint))
    return found


def _login(text: str) -> tuple[str, str]:
    user, colon, password = text.partition(":")
    if not colon or not user or not password:
        raise BadRequest("--auth takes USER:PASSWORD.")
    return user, password


# --- commands ------------------------------------------------------------------------------------


def _serve(_options: argparse.Namespace, settings: Settings) -> int:
    from app.engine import engine
    from app.ui.server import serve

    serve(engine, settings)
    return 0


def _run(options: argparse.Namespace, settings: Settings) -> int:
    from rich.console import Console

    from app.engine import engine
    from app.terminal import outcome, watch
    from app.workflow.catalog import find_workflow

    workflow = find_workflow(options.file, settings.paths)
    engine.start(settings)
    try:
        run_id = engine.submit(
            workflow,
            dict(options.inputs),
            seed=options.seed,
            changes=dict(options.changes),
            fresh=options.fresh,
        )
        view = watch(engine, run_id, Console(stderr=True))
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


def _repl(options: argparse.Namespace, settings: Settings) -> int:
    from app.remote import ServerWorkbench
    from app.repl import Repl
    from app.workbench import LocalWorkbench

    if options.server:
        login = _login(options.auth) if options.auth else None
        return Repl(ServerWorkbench(options.server, login, settings.paths.outputs)).loop(
            options.file
        )
    return Repl(LocalWorkbench(settings)).loop(options.file)


def _validate(options: argparse.Namespace, settings: Settings) -> int:
    from app.workflow.models.hub_headers import HubHeaders

    pairs = [word for word in options.words if INPUT.match(word)]
    files = [word for word in options.words if word not in pairs]
    if not files:
        raise BadRequest("Which workflow? A file, or a name that `workflows` lists, is needed.")
    room = _room(settings)
    wrong = 0
    with contextlib.closing(HubHeaders()) as hub:
        for file in files:
            try:
                _validate_one(file, dict(map(_pair, pairs)), options, settings, room, hub)
            except WorkbenchError as error:
                wrong += 1
                print(f"{error.message} {error.hint}".rstrip(), file=sys.stderr)
                # What was set for this run stands in no line of the file.
                elsewhere = dict(options.changes)
                lines = _lines(error, file, settings)
                for found in error.problems:
                    line = "" if found.pointer in elsewhere else lines.get(found.pointer, "")
                    where = found.pointer + line
                    told = f"{where}: {found.message}" if where else found.message
                    print(f"- {told} {found.hint}".rstrip(), file=sys.stderr)
    if room is None and wrong < len(files):
        print("Its worker alone knows how much memory the device has: set DW_DEVICE_BUDGET here.")
    return 1 if wrong else 0


def _lines(error: WorkbenchError, file: str, settings: Settings) -> dict[str, str]:
    """On which line of the file each of its problems is, in words, by its pointer."""
    from app.errors import InvalidWorkflow
    from app.workflow.catalog import find_workflow
    from app.workflow.json_text import line_of, text_of

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
    """Print what the workflow does and needs. Raises WorkbenchError where it cannot run."""
    from app.workflow.catalog import find_workflow
    from app.workflow.models import needs
    from app.workflow.planning.planner import make_plan

    workflow = find_workflow(file, settings.paths)
    plan = make_plan(workflow, inputs, paths=settings.paths, changes=dict(options.changes))
    for warning in plan.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for step in plan.steps:
        print(f"{step.name}: {step.title}")
    print(*needs.lines(plan, room, hub.ask), sep="\n")
    print(f"'{plan.workflow_id}' has no mistake: {len(plan.steps)} step(s).")


def _room(settings: Settings) -> Room | None:
    """What there is to run in, as far as it can be told without a worker that asks the device."""
    from app.machine import has_accelerator, ram_free_and_total_bytes
    from app.workflow.models.fit import DEVICE_SHARE, RAM_SHARE, Room

    worker = settings.worker.split()[0]
    budget = worker.device_budget
    _, ram_bytes = ram_free_and_total_bytes()
    if worker.device == "cpu" or (worker.device == "auto" and not has_accelerator()):
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

    from app.workflow.catalog import Catalog

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


def _runs(options: argparse.Namespace, settings: Settings) -> int:
    from app.history_command import list_runs

    words = " ".join(options.words)
    list_runs(settings.paths.outputs, words=words, limit=options.limit, as_json=options.json)
    return 0


def _free(options: argparse.Namespace, settings: Settings) -> int:
    from app.remote import ServerWorkbench

    login = _login(options.auth) if options.auth else None
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
