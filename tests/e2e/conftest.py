"""The demo, run once for all tests of commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def demo(folder):
    """Standard output and error of the command."""
    command = [Path(sys.executable).with_name("icce"), "demo", "--out", folder]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"COLUMNS": "120"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="session")
def first_demo(tmp_path_factory):
    """(folder, standard output, figures) of a first call."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    out, _ = demo(folder)
    return folder, out, json.loads((folder / "run-seed0/metrics.json").read_text())
