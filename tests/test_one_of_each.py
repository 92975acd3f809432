"""README's table of what is added where: in a copy of `app/`, one of each kind is added and used.

Slow: the copy's own page, engine and worker are imported and run.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app.settings import PROJECT

SHOUT = """
from app.tasks.task import Arguments, Task

class Words(Arguments):
    text: str

def shout(arguments: Words) -> str:
    return arguments.text.upper() + "!"

SHOUT = Task(Words, shout, gives="text")
"""
SHOUTED = """
class Shouted(Message):
    type: Literal["shouted"] = "shouted"
    run_id: str
    time: float

"""
WORKFLOW = """{
  "id": "loud",
  "variables": {"words": "hello"},
  "inputs": {"words": {"kind": "colour"}},
  "steps": [{
    "name": "shout",
    "task": {"command": "shout", "arguments": {"text": "variable:words"}},
    "result": {"content_type": "text/loud"}
  }]
}"""
ADDED = {
    # A task: its file, and its line in TASKS.
    "app/tasks/__init__.py": [
        ("    borders,\n", "    shout,\n"),
        ("TASKS: dict[str, Task] = {\n", '    "shout": shout.SHOUT,\n'),
    ],
    "app/workflow/document.py": [
        ("ContentType = Literal[\n", '    "text/loud",\n'),
        ("InputKind = Literal[\n", '    "colour",\n'),
    ],
    # A result kind.
    "app/worker/results/__init__.py": [
        ("RESULT_KINDS: dict[str, ResultKind] = {\n",
         '    "text/loud": ResultKind(".loud", text.save_text),\n'),
    ],
    # A form widget.
    "app/ui/widgets.py": [
        ("WIDGETS: dict[str, Widget] = {\n",
         '    "colour": Widget(lambda spec, value: gr.ColorPicker(value, label=spec.label), str,'
         " lambda _, value: True),\n"),
    ],
    # A setting.
    "app/settings.py": [("    share: bool = False\n", "    loudness: int = 3\n")],
    # An event, and how it is shown.
    "app/protocol.py": [
        ("\nRunEvent = (\n    RunQueued\n", "    | Shouted\n"),
        ("TERMINAL = (RunSucceeded, RunFailed, RunCancelled)\n", SHOUTED),
    ],
    "app/run_view.py": [
        ("    RunQueued,\n", "    Shouted,\n"),
        ("    match event:\n",
         '        case Shouted():\n            return replace(view, status="It was loud")\n'),
    ],
    # A quantiser: what a document may say, what it is called, and what makes its configuration.
    "app/workflow/plan_sources.py": [
        ("QuantiserKind = Literal[", '"loud", '),
        ("        match self.kind:\n",
         '            case "loud":\n                return "loudly"\n'),
    ],
    "app/workflow/planning/quantisers.py": [
        ("QUANTISERS: dict[str, Quantiser] = {\n",
         '    "LoudConfig": Quantiser("loud", Package("json", "json"), Gguf),\n'),
    ],
    "app/worker/loading/quantising.py": [
        ("[[Any, Mapping[str, JsonValue]], Any]] = {\n",
         '    "loud": lambda home, given: ("loud", dict(given)),\n'),
    ],
    # An offload mode: its name, what is on the device at one time, and how a pipeline is told.
    "app/workflow/plan_settings.py": [("Offload = Literal[", '"quiet", ')],
    "app/workflow/models/fit.py": [
        ("AT_ONCE: dict[Offload | None, Callable[[Need], int]] = {\n",
         '    "quiet": lambda need: 7,\n'),
    ],
    "app/worker/tuning/offload.py": [
        ("WAYS: dict[Offload, Callable[[Any, PipelineStep, Device], None]] = {\n",
         '    "quiet": lambda pipeline, step, device: pipeline.append(step),\n'),
    ],
}  # fmt: skip
"""What is inserted behind which text of a file. Texts that come twice are meant where they come
first."""
USE = """
import sys
from pathlib import Path

folder = Path(sys.argv[1])

def parent():
    import gradio as gr
    from app.engine import Engine
    from app.protocol import ResultSaved, Shouted
    from app.run_view import RunView, advance
    from app.settings import PathSettings, Settings, WorkerSettings
    from app.ui.form import build_form
    from app.workflow.catalog import Catalog
    from app.workflow.document import Configuration
    from app.workflow.models.fit import Mode, Need, Room, Weights, peak_bytes
    from app.workflow.planning.quantisers import QUANTISERS, quantisation

    # The setting.
    assert Settings.from_environment({"DW_LOUDNESS": "11"}).ui.loudness == 11
    # The event.
    assert advance(RunView(), Shouted(run_id="1", time=0.0)).status == "It was loud"
    # The widget.
    paths = PathSettings(workflows=(folder,), outputs=folder / "outputs")
    (entry,) = Catalog(paths).entries()
    assert entry.problem is None, entry.problem
    with gr.Blocks(analytics_enabled=False):
        (field,) = build_form(entry.inputs, {})
    assert isinstance(field.component, gr.ColorPicker)
    # The quantiser and the offload mode, as far as planning goes.
    assert quantisation(QUANTISERS["LoudConfig"], {}).label == "loudly"
    assert Configuration(component_type="A", offload="quiet").offload == "quiet"
    need = Need("draw", (Weights("unet", "float32", 100),))
    assert peak_bytes(Mode("quiet"), need, Room(1000, 1000, 1000)) == 7
    # The task and the result kind, in a real worker.
    engine = Engine()
    engine.start(Settings(paths=paths, worker=WorkerSettings(device="cpu")))
    try:
        run_id = engine.submit(Path(entry.path), {})
        (saved,) = [e for e in engine.events(run_id) if isinstance(e, ResultSaved)]
    finally:
        engine.close()
    assert Path(saved.path).suffix == ".loud"
    assert Path(saved.path).read_text() == "HELLO!"

def worker():
    from app.worker.loading.quantising import configuration
    from app.worker.tuning.offload import WAYS
    from app.workflow.plan_sources import Quantisation

    assert configuration(Quantisation(kind="loud"), "diffusers") == ("loud", {})
    told = []
    WAYS["quiet"](told, "step", None)
    assert told == ["step"]

if __name__ == "__main__":
    parent()
    worker()
    print("all of it works")
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of `app/` beside what it needs of the project, with one of each kind added."""
    copy = tmp_path / "copy"
    shutil.copytree(PROJECT / "app", copy / "app", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("workflows", "models"):
        (copy / name).symlink_to(PROJECT / name)
    (copy / "app" / "tasks" / "shout.py").write_text(SHOUT)
    for name, additions in ADDED.items():
        file = copy / name
        text = file.read_text(encoding="utf-8")
        for behind, added in additions:
            assert behind in text, f"{name} has no {behind!r}"
            text = text.replace(behind, behind + added, 1)
        file.write_text(text, encoding="utf-8")
    return copy


def test_one_of_each_kind_is_added_where_the_readme_says(copy: Path, tmp_path: Path):
    folder = tmp_path / "workflows"
    folder.mkdir()
    (folder / "loud.json").write_text(WORKFLOW)
    script = copy / "use.py"
    script.write_text(USE)
    used = subprocess.run(
        [sys.executable, str(script), str(folder)],
        cwd=copy, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert used.stdout == "all of it works\n", used.stderr


def test_readme_names_every_file_in_which_something_is_added():
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    table = readme[readme.index("| to add |") :].partition("\n\n")[0]
    assert [name for name in ADDED if f"`{name}`" not in table] == []
