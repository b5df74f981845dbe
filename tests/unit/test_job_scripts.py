"""The scripts of `jobs/`: thin, with a help that teaches, and a log that says how they ended."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from icce_ray.cli.main import app
from icce_ray.pipeline import STAGES

ROOT = Path(__file__).parents[2]
STUDY = "jobs/paper.py"  # no stage and no command: it runs where it is called, without Ray
SCRIPTS = sorted({path.relative_to(ROOT).as_posix() for path in ROOT.glob("jobs/*.py")} - {STUDY})


def run_script(script, *arguments):
    """(exit status, log) of `python SCRIPT ...` in the repository, which Ray puts on the path of a job's processes."""
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "RAY_ADDRESS": "nowhere.invalid:1"},
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def help_of(script, monkeypatch, capsys, words=()):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [script, *words, "--help"])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as end:
        runpy.run_path(script, run_name="__main__")
    assert end.value.code == 0
    return re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)


def test_there_is_a_job_for_every_stage():
    names = {"run", "evaluate", *STAGES, "inspection"} - {"predict", "inspect"}  # a script `inspect` hides Python's own
    assert {f"jobs/{name}.py" for name in names} <= set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_teaches(script, monkeypatch, capsys):
    text = help_of(script, monkeypatch, capsys)
    assert f"Usage: python {script}" in text
    example = " ".join(re.search(r"Example: (ray job submit .*?)\n\s*\n", text, re.DOTALL)[1].split())
    words = shlex.split(example)
    assert words[:8] == ["ray", "job", "submit", "--working-dir", ".", "--", "python", script]
    help_of(script, monkeypatch, capsys, words[8:])  # a wrong option comes before --help


def test_a_stage_has_no_other_stages(monkeypatch, capsys):
    text = help_of("jobs/neighbors.py", monkeypatch, capsys)
    assert "--until" not in text
    assert "--redo" in text
    whole = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "200"}).output
    assert "--until" in whole


def test_help_needs_no_cluster():
    program = (
        "import sys, runpy\nsys.argv = ['jobs/run.py', '--help']\n"
        "try: runpy.run_path('jobs/run.py', run_name='__main__')\n"
        "finally: assert not {'ray', 'torch'} & set(sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_log_says_how_it_ended(tmp_path):
    status, log = run_script("jobs/run.py", tmp_path, "-k", 1, "--out", tmp_path / "run")
    assert (status, "clusters = 1" in log) == (2, True)
    assert "exit status 2: the command line or the settings are wrong" in log.splitlines()[-1]
    status, log = run_script("jobs/heads.py", tmp_path, "-k", 2, "--out", tmp_path / "run", "--until", "predict")
    assert (status, "No such option" in log) == (2, True)
    status, log = run_script("jobs/run.py", tmp_path / "none", "-k", 2, "--out", tmp_path / "run", "--backbone", "hog")
    assert (status, str(tmp_path / "none") in log) == (1, True)
    assert "exit status 1: it cannot go on as asked" in log.splitlines()[-1]
