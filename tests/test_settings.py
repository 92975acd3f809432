"""Settings from the environment, and refused values."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ByteSize, ValidationError

from app.settings import PROJECT, SHIPPED_WORKFLOWS, Settings, WorkerSettings, variables
from tests import settings_table

SPECIAL = {
    "DW_AUTH": ("me:a:b", ("me", "a:b")),
    "DW_OPERATOR_AUTH": ("me:a:b", ("me", "a:b")),
    "DW_API_TOKEN": ("0123456789abcdef", "0123456789abcdef"),
    "DW_WEBHOOK_SECRET": ("0123456789abcdef", "0123456789abcdef"),
    "DW_ROOT_PATH": ("/draw", "/draw"),
    "DW_PICTURE_BACKGROUND": ("#102030", "#102030"),
    "DW_DEVICE": ("cuda:1", "cuda:1"),
    "DW_DEVICES": ("cuda:0, cuda:1", ("cuda:0", "cuda:1")),
    "DW_LOG_LEVEL": ("DEBUG", "DEBUG"),
    "DW_WORKFLOWS": (f"a{os.pathsep}b", (SHIPPED_WORKFLOWS, Path("a"), Path("b"))),
    "DW_MODELS": (f"a{os.pathsep}b", (PROJECT / "models", Path("a"), Path("b"))),
    "DW_TRUST_REMOTE_CODE": ("a/b c/d", ("a/b", "c/d")),
}
"""Variables with a form of their own, and the parsed value."""
DECIDED = {("paths", "media"), ("worker", "workers"), ("worker", "workers_on_device")}
"""Fields that are not given: each command or the engine sets them."""


def fields(model: type[BaseModel] = Settings, path: tuple[str, ...] = ()) -> dict[Any, Any]:
    """Returns every field of the settings that holds a value, by its path."""
    found: dict[Any, Any] = {}
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= fields(inner, (*path, name))
        else:
            found[(*path, name)] = field
    return found


def sample(variable: str, field: Any) -> tuple[str, Any]:
    """Returns a text that fits the field and is not its default, and its value."""
    if variable in SPECIAL:
        return SPECIAL[variable]
    kinds = (field.annotation, *getattr(field.annotation, "__args__", ()))
    if bool in kinds:
        return ("0", False) if field.default is True else ("1", True)
    if any(isinstance(kind, type) and issubclass(kind, ByteSize) for kind in kinds):
        return "7MiB", 7 * 1024 * 1024
    if int in kinds:
        return "77", 77
    if float in kinds:
        return "7.5", 7.5
    if Path in kinds:
        return "some folder", Path("some folder")
    if tuple in (getattr(kind, "__origin__", None) for kind in kinds):
        return "one two", ("one", "two")
    return "a_word", "a_word"


def value_at(settings: BaseModel, path: tuple[str, ...]) -> Any:
    found: Any = settings
    for name in path:
        found = getattr(found, name)
    return found


def test_every_field_has_a_variable() -> None:
    assert {path for path, _ in variables()} == set(fields()) - DECIDED


@pytest.mark.parametrize(("path", "variable"), [*variables()], ids=str)
def test_variable_sets_its_field(path: tuple[str, ...], variable: str) -> None:
    text, value = sample(variable, fields()[path])
    assert value_at(Settings(), path) != value
    assert value_at(Settings.from_environment({variable: text}), path) == value
    assert Settings.from_environment({variable: ""}) == Settings()


def test_guide_has_the_tables_of_these_settings() -> None:
    written = settings_table.PAGE.read_text(encoding="utf-8")
    assert settings_table.page() == written, "run: python -m tests.settings_table"


def test_variables_of_two_fields_differ() -> None:
    """Only the switch of media URLs has two: for the page, and for everybody."""
    found = [variable for _, variable in variables()]
    assert {each for each in found if found.count(each) > 1} == {"DW_MEDIA_URLS"}


@pytest.mark.parametrize(
    ("variable", "text"),
    [("DW_API_TOKEN", "too-short"), ("DW_API_TOKEN", "with blanks in its text"),
     ("DW_PUBLIC", "maybe"), ("DW_CANCEL_GRACE_S", "inf"), ("DW_CANCEL_GRACE_S", "nan"),
     ("DW_MAX_UPLOAD_BYTES", "0"), ("DW_DEVICES", "auto"), ("DW_DEVICES", "cpu cpu"),
     ("DW_TRUST_REMOTE_CODE", "no-owner")],
)  # fmt: skip
def test_wrong_value_is_refused(variable: str, text: str) -> None:
    with pytest.raises(ValidationError):
        Settings.from_environment({variable: text})


def test_devices_are_split_into_one_worker_each() -> None:
    given = WorkerSettings(devices="cuda, cuda:1 ,cuda:0", ram_budget="7MiB")  # type: ignore[arg-type]
    workers = given.split()
    assert [each.device for each in workers] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [each.workers_on_device for each in workers] == [2, 1, 2]
    assert {(each.workers, each.devices, each.ram_budget) for each in workers} == {
        (3, (), 7 * 1024 * 1024)
    }
    assert WorkerSettings(device="mps").split() == (WorkerSettings(device="mps"),)


def test_device_and_devices_together_are_refused() -> None:
    with pytest.raises(ValidationError, match="either one device or several"):
        Settings.from_environment({"DW_DEVICE": "cpu", "DW_DEVICES": "cpu,cpu"})
