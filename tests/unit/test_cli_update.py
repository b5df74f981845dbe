"""`icce update` as a command: what it prints, and its exit statuses."""

import pytest

from tests.updated_run import ALARMS, updated

DONE = {"images": 3, "changed": 1, "labelled": 2, "mean_confidence": 0.5, "rejected": 0, "alarms": []}


@pytest.fixture
def finds(monkeypatch):
    """What the command is to find."""
    return lambda *figures: monkeypatch.setattr("icce_ray.commands.update", lambda *_, **__: list(figures))


def test_what_serves_ends_with_0(icce, finds):
    finds(DONE)
    status, out, err = icce("update", "run", "photos")
    assert (status, err) == (0, "")
    assert "2 images labelled (1 of 3 are new versions), mean confidence 0.500" in " ".join(out.split())


def test_nothing_new_says_so(icce, finds):
    finds()
    assert icce("update", "run", "photos")[:2] == (0, "nothing new in photos\n")


def test_advice_of_a_new_training_ends_with_5(icce, finds):
    finds(DONE | {"alarms": ALARMS})
    status, _, err = icce("update", "run", "photos", "--quiet")
    assert (status, " ".join(err.split())) == (5, f"a new training is advised: {ALARMS[0]['text']}")


def test_a_run_without_a_classifier(icce, tmp_path, offline):
    run, _ = updated(tmp_path / "run")
    run.discard_from("predict")
    status, _, err = icce("update", run.root, tmp_path)
    assert status == 1
    assert "stage predict" in err
    assert "icce run" in err


def test_status_has_a_line_for_each_update(icce, tmp_path):
    run, _ = updated(tmp_path / "run")
    out = " ".join(icce("status", run.root)[1].split())
    assert "update 1: 3 of 8 images of photos, complete; a new training is advised" in out
