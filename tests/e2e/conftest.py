"""The demo, run once in a process of its own for all tests of it, and `icce` inside this process on its Ray."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def first_demo(tmp_path_factory):
    """(folder, standard output, figures), as a user gets them where another `ray start` has left its address."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    mine = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"COLUMNS": "120"}
    with tempfile.TemporaryDirectory() as ray:  # its path short for sockets
        (Path(ray) / "ray").mkdir()
        (Path(ray) / "ray/ray_current_cluster").write_text("127.0.0.1:9")
        command = [Path(sys.executable).with_name("icce"), "demo", "--out", folder]
        done = subprocess.run(command, capture_output=True, text=True, env=mine | {"RAY_TMPDIR": ray}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout, json.loads((folder / "run-seed0/metrics.json").read_text())


@pytest.fixture
def icce(cluster, monkeypatch, icce):
    """`icce WORDS` on the Ray of this process."""
    monkeypatch.setenv("COLUMNS", "120")
    return icce
