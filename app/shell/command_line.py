"""Parses the command line, and makes the settings from it and the environment."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from app import __version__
from app.dialect.model_kinds import KINDS
from app.errors import BadRequest, Problem
from app.mistakes import in_words
from app.models.layout import layout_folders
from app.settings import Settings, variables
from app.shell.home import from_home, without_mark

OF_THE_PAGE = ("host", "port", "share", "media_urls")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
ANYWHERE = (Path("/"),)
"""People with a shell on this machine may name any file that the shell can read."""


def parser() -> argparse.ArgumentParser:
    """Returns the parser; the chosen command is `name` of the result."""
    called = "dw" if Path(sys.argv[0]).name == "dw" else "python -m app"
    parser = argparse.ArgumentParser(
        prog=called, description="Diffusers Workbench. Without a command: the dw> prompt."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="name")

    serve = commands.add_parser("serve", help="start the web page and its API")
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
    run.add_argument(
        "file", type=from_home, help="a workflow's JSON file, or a name listed by `workflows`"
    )
    run.add_argument(
        "inputs", nargs="*", metavar="name=value", type=pair, help="values for its variables"
    )
    _add_set(run)
    run.add_argument("--seed", type=int, help="seed (default: the document's, else random)")
    run.add_argument(
        "--fresh", action="store_true", help="run again instead of using cached results"
    )
    run.add_argument("--json", action="store_true", help="print one JSON object instead of paths")
    _add_no_history(run)
    _add_common(run, "WARNING")

    batch = commands.add_parser("batch", help="run a workflow for each row of a table; resumable")
    batch.add_argument(
        "file", type=_path, metavar="FILE.csv | FILE.jsonl",
        help="a table whose columns are inputs, or one JSON object per line; `seed` and `workflow`"
        " are special; results are noted in FILE.results.jsonl",
    )  # fmt: skip
    batch.add_argument("--workflow", metavar="NAME", help="workflow of the rows that name none")
    _add_set(batch)
    batch.add_argument(
        "--fresh", action="store_true",
        help="run every row again instead of using cached results, and begin the results file anew",
    )  # fmt: skip
    batch.add_argument(
        "--watch", action="store_true", help="then run rows appended to the file, until Ctrl-C"
    )
    _add_server(batch, "use this running server instead of starting a worker", None)
    _add_no_history(batch)
    _add_common(batch, "WARNING")

    repl = commands.add_parser("repl", help="open the dw> prompt")
    repl.add_argument("file", nargs="?", type=from_home, help="a workflow to load at the start")
    _add_server(repl, "use this running server instead of starting a worker", None)
    _add_no_history(repl)
    _add_common(repl, "INFO")

    validate = commands.add_parser("validate", help="check workflows without running them")
    validate.add_argument(
        "words", nargs="+", metavar="FILE | name=value",
        help="workflows to check, and values for their variables",
    )  # fmt: skip
    _add_set(validate)
    _add_common(validate, "WARNING")

    workflows = commands.add_parser("workflows", help="list workflows and what each still needs")
    workflows.add_argument("--json", action="store_true", help="print a JSON list")
    _add_common(workflows, "WARNING")

    models = commands.add_parser("models", help="list the models in the folders of their kinds")
    models.add_argument("--kind", choices=KINDS, help="list only models of this kind")
    models.add_argument("--json", action="store_true", help="print a JSON list")
    _add_common(models, "WARNING")

    runs = commands.add_parser("runs", help="list past and current runs, newest first")
    runs.add_argument("words", nargs="*", help="list only runs whose text contains all these words")
    runs.add_argument(
        "--limit", type=int, default=20, help="number of runs to list (default 20; -1 lists all)"
    )
    runs.add_argument("--json", action="store_true", help="print a JSON list")
    _add_common(runs, "WARNING")

    free = commands.add_parser("free", help="free the memory of a running server")
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
    weights.add_argument("--clear", action="store_true", help="delete all of them")
    _add_common(weights, "WARNING")
    return parser


def _add_common(parser: argparse.ArgumentParser, log_level: str) -> None:
    parser.add_argument(
        "--workflows", action="append", type=_path, metavar="FOLDER", default=[],
        help="an additional folder of workflows; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--models", action="append", type=_path, metavar="FOLDER", default=[],
        help="an additional folder of models: OWNER/NAME, or the folders of ComfyUI or A1111;"
        " repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--models-layout", type=Path, metavar="FILE",
        help="ComfyUI's extra_model_paths.yaml, which names more folders of models",
    )  # fmt: skip
    parser.add_argument(
        "--allow-pickles", action="store_true",
        help="read weight files that may contain code (.ckpt, .bin); the code is never run",
    )  # fmt: skip
    parser.add_argument(
        "--trust-remote-code", action="append", metavar="OWNER/NAME", default=[],
        help="allow code from this model repository if a document asks for it; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=_path, metavar="FOLDER", dest="outputs", help="folder for results"
    )
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:1 or mps (default auto)")
    parser.add_argument("--log-level", choices=LOG_LEVELS, help=f"log level (default {log_level})")
    parser.set_defaults(default_log_level=log_level)


def _add_no_history(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-history", action="store_false", default=None, dest="keep_history",
        help="keep no history of the runs on disk",
    )  # fmt: skip


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", type=_change, metavar="POINTER=VALUE", default=[], dest="changes",
        help="change one value of the document for this run, by its JSON pointer, for example"
        " /steps/0/pipeline/arguments/width=256; repeatable",
    )  # fmt: skip


def _add_server(parser: argparse.ArgumentParser, text: str, default: str | None) -> None:
    parser.add_argument("--server", metavar="URL", default=default, help=text)
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="login of the server")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options; exits with a message for wrong ones.

    No words at all open the prompt. Inputs and words may come after flags, which argparse does not
    allow by itself.
    """
    reader = parser()
    words = [*map(without_mark, sys.argv[1:] if arguments is None else arguments)]
    options, late = reader.parse_known_args(words or ["repl"])
    if late and not any(word.startswith("-") for word in late):
        try:
            if hasattr(options, "inputs"):
                options.inputs += map(pair, late)
                return options
            if hasattr(options, "words"):
                options.words += late
                return options
        except argparse.ArgumentTypeError as error:
            reader.error(str(error))
    if late:
        reader.error(f"unrecognized arguments: {' '.join(late)}")
    return options


def pair(text: str) -> tuple[str, str]:
    """Returns name and value of `name=value`."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form name=value")
    return name, without_mark(value)


def _path(text: str) -> Path:
    return Path(from_home(text))


def _change(text: str) -> tuple[str, Any]:
    """Parses `/steps/0/seed=7`: the value is JSON, or else text."""
    pointer, value = pair(text)
    try:
        return pointer, json.loads(value)
    except ValueError:
        return pointer, value


def settings_of(options: argparse.Namespace) -> Settings:
    """Returns the settings; the command line overrides the environment."""
    try:
        given = Settings.from_environment()
        ui = {name: getattr(options, name, None) for name in OF_THE_PAGE}
        ui = {name: value for name, value in ui.items() if value is not None}
        if options.name == "serve" and options.auth:
            ui["auth"] = read_login(options.auth)
        paths: dict[str, Any] = {}
        for name in ("workflows", "models"):
            folders = getattr(options, name)
            missing = [str(folder) for folder in folders if not folder.is_dir()]
            if missing:
                raise BadRequest(f"There is no folder '{missing[0]}' for --{name}.")
            paths[name] = (*getattr(given.paths, name), *folders)
        paths["allow_pickles"] = given.paths.allow_pickles or options.allow_pickles
        paths["trust_remote_code"] = (*given.paths.trust_remote_code, *options.trust_remote_code)
        if layout := options.models_layout or given.paths.models_layout:
            # A file that is not understood is refused here, not by each run.
            layout_folders(layout)
            paths["models_layout"] = layout
        if options.outputs:
            paths["outputs"] = options.outputs
        if options.name != "serve":
            paths["media"] = ANYWHERE
        engine = {"keep_history": False} if getattr(options, "keep_history", None) is False else {}
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
    """Returns the devices of the command line, which override the environment's."""
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
    if options.name in ("run", "batch", "repl") and given.worker.devices:
        # One run at a time needs one worker.
        return {"device": given.worker.devices[0], "devices": ()}
    return {}


def _wrong_settings(error: ValidationError) -> list[Problem]:
    """Returns the problems of the settings, each with its variable's name."""
    names = dict(variables())
    found = []
    for each in error.errors():
        path = tuple(str(part) for part in each["loc"])
        variable = next((names[path[:end]] for end in (3, 2) if path[:end] in names), path[-1])
        message, hint = in_words(each)
        found.append(Problem(place=variable, message=message, hint=hint))
    return found


def read_login(text: str) -> tuple[str, str]:
    """Returns user and password of `USER:PASSWORD`. Raises BadRequest."""
    user, colon, password = text.partition(":")
    if not colon or not user or not password:
        raise BadRequest("--auth takes USER:PASSWORD.")
    return user, password
