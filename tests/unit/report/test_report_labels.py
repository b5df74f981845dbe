"""Labels of a run that a page shows."""

import shutil

from icce_ray.report.labels import labelled
from icce_ray.store import Store


def test_before_the_classifier_the_consensus_is_shown(tmp_path, made):
    copy = shutil.copytree(made.root, tmp_path / "run")
    shutil.rmtree(copy / "predictions")
    assert labelled(Store(str(copy))).share == "agreement"
    shutil.rmtree(copy / "consensus")
    assert labelled(Store(str(copy))) is None
