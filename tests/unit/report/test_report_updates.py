"""The updates of a run on its page."""

import re
import shutil

import pytest

from icce_ray.progress import Progress
from icce_ray.report.page import write_report
from icce_ray.store import Store
from jobs.bench.made_run import pictures
from tests.updated_run import ALARMS, add_update


@pytest.fixture
def run(tmp_path, made, monkeypatch):
    """A copy of the made run, and a folder with one of the three images of its update."""
    shutil.copytree(made.root, tmp_path / "run")
    (tmp_path / "photos").mkdir()
    (picture,) = pictures(1, 48, seed=1)
    (tmp_path / "photos/new.png").write_bytes(picture)
    monkeypatch.setattr("tests.updated_run.SIZE", len(picture))
    return Store(str(tmp_path / "run"))


def section(run):
    write_report(run, Progress())
    page = run.storage.read_bytes("report/index.html").decode()
    return re.search(r'<section id="updates".*?</section>', page, re.DOTALL)[0]


def test_updates_and_their_candidates(run, tmp_path):
    add_update(run, source=str(tmp_path / "photos"))
    text = section(run)
    cells = re.findall(r"<td>(.*?)</td>", text)
    assert cells == [str(tmp_path / "photos"), "3", "1", "1", "10.0% (20.0%)", "0.300 (0.200)", "50.0%", "1"]
    assert ALARMS[0]["text"] in text
    assert "Candidate 1: about 2 images" in text
    assert re.search(r'<img src="data:image/webp;base64,[^"]+" alt="new.png"', text)
    assert "file:///photos/4.png: " in text  # which is not there any more


def test_an_update_that_is_not_complete_says_so(run, tmp_path):
    add_update(run, source=str(tmp_path / "photos"), stages=("list", "embed"))
    assert "not complete" in section(run)
