"""What the page knows of the run, to correct it."""

import os
import shlex

import numpy as np

from icce_ray.progress import Progress
from icce_ray.report.corrections import correctable
from icce_ray.report.labels import labelled
from icce_ray.report.pool import LONGEST_NAME, Section, pool
from jobs.bench.made_run import make_run
from tests.unit.report.conftest import source_of


def test_decisions_are_about_the_labels_of_now(tmp_path):
    source = source_of(tmp_path / "images", 30)
    store = make_run(str(tmp_path / "my run; rm"), source, clusters=2, heads=2, epochs=3, rejects=3)
    found = correctable(store)
    assert (found["version"], found["classes"], found["images"]) == (0, 2, 30)
    assert shlex.split(found["command"]) == ["icce", "refine", store.root, "--decisions", "decisions.json"]
    with_names = shlex.split(correctable(store, "my names.csv")["command"])
    assert with_names[-2:] == ["--names", os.path.abspath("my names.csv")]
    again = make_run(str(tmp_path / "again"), source, clusters=2, heads=2, epochs=3, rejects=3)
    assert correctable(again)["predictions"] == found["predictions"]
    other = make_run(str(tmp_path / "other"), source, clusters=2, heads=2, epochs=3, rejects=3, seed=1)
    assert correctable(other)["predictions"] != found["predictions"]
    store.discard_from("predict")
    assert correctable(store) is None  # the consensus of a sample cannot be corrected


def test_an_image_keeps_its_whole_name(tmp_path):
    """The page cuts long names; decisions name an image as the run does."""
    long = "a" * LONGEST_NAME + "b.jpg"
    store = make_run(str(tmp_path / "run"), source_of(tmp_path / "images", 20, [long]), clusters=2, heads=2, epochs=3)
    images = pool(store, labelled(store), [Section(None, np.arange(20))], Progress()).images
    assert {one["whole"] for one in images.values() if "whole" in one} == {long}
