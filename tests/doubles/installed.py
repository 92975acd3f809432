"""Makes packages count as installed that are not."""

from __future__ import annotations

import importlib.machinery
import sys
import types

import pytest
from transformers.utils import is_timm_available, is_torchvision_available


def count_as_installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Adds empty modules of these names."""
    # Asked once, so that transformers does not see them.
    assert not is_torchvision_available()
    assert not is_timm_available()
    for name in names:
        there = types.ModuleType(name)
        there.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, there)
