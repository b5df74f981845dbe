"""The tab "Changes" of a version: what was decided, and which images have another class than that says."""

import pytest
from jinja2 import Environment, PackageLoader, StrictUndefined

from icce_ray.documents import sealed_json
from icce_ray.report.changes import changes
from icce_ray.store import RunError
from icce_ray.store.artifacts import CHANGES_FILE
from tests.small_run import made, refined

SCORES = {"labels": "truth.csv", "images": 5}


def evaluated(store, acc):
    scores = {"acc": acc, "nmi": 0.5, "ari": 0.5, "images": 5}
    store.record("evaluation", SCORES | {"classifier_seen": scores, "consensus": scores})


@pytest.fixture
def version(tmp_path):
    run = made(tmp_path / "run")
    version = refined(run, rename={"0": "<b>"}, reject=[1])
    version.storage.write_bytes(CHANGES_FILE, sealed_json({"flows": [[0, 0, 2], [1, 1, 2], [1, 0, 1]]}))
    evaluated(run, 0.5)
    evaluated(version, 0.75)
    return version


def test_what_was_decided_and_what_else_moved(version):
    data = changes(version).data
    assert data["base"] == "the run"
    assert data["decisions"] == [["rejected", [1], [1], [3]]]
    assert (data["flows"], data["changed"], data["images"], data["more"]) == ([[1, 0, 1]], 1, 5, 0)
    assert data["scores"] == [("classifier", 50.0, 75.0), ("consensus", 50.0, 75.0)]


def test_the_panel_shows_it_as_text(version):
    assets = PackageLoader("icce_ray.report", "assets")
    page = Environment(loader=assets, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    text = page.get_template("changes.html").render(data={"changes": changes(version).data})
    assert "Of 5 images 1 changed class beside what was decided about it" in " ".join(text.split())
    assert "<td>1 (rejected)</td>" in text
    assert "0 (&lt;b&gt;)" in text
    assert "<li>0: &lt;b&gt;</li>" in text


def test_a_run_and_a_version_that_is_not_complete_have_none(version):
    run = made(f"{version.origin}-other")
    assert changes(run) is None
    version.storage.write_bytes(CHANGES_FILE, b"{}x")
    with pytest.raises(RunError, match=r"changes\.json is damaged"):
        changes(version)
    version.storage.delete(CHANGES_FILE)
    assert changes(version) is None
