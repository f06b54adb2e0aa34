"""A LangGraph project in a folder of its own; what loading it changes in the process is undone."""

import json
import os
import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def untouched_process(monkeypatch):
    """Loading changes the import path, the modules and the environment of the process: undo it after each test."""
    modules, environment = set(sys.modules), dict(os.environ)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in set(sys.modules) - modules:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to("/tmp"):
            del sys.modules[name]
    for name in set(os.environ) - environment.keys():
        del os.environ[name]


@pytest.fixture
def project(tmp_path):
    """Write a project: file name -> text, and the langgraph.json."""

    def write(langgraph_json, **files):
        for name, text in files.items():
            file = tmp_path / (name.replace("__", "/") + ".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        path = tmp_path / "langgraph.json"
        path.write_text(langgraph_json if isinstance(langgraph_json, str) else json.dumps(langgraph_json))
        return path

    return write
