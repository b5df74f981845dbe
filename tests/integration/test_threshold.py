"""`neighbors.threshold: auto`: found before anything is mined, kept with its evidence, the same in the estimator."""

import json
from pathlib import Path

import numpy as np
import pytest

from icce_ray import ICCE, pipeline
from icce_ray.settings.sweep import Sweep
from icce_ray.stages.neighbors import known
from icce_ray.stages.neighbors.threshold import EVIDENCE
from icce_ray.stages.verify import violations
from icce_ray.store import RunError

from .conftest import CLUSTERS
from .test_run import features, neighbor_lists, settings_of


def test_auto_is_a_number_found_before_the_search(copy):
    changed = settings_of(copy, neighbors={"threshold": "auto"})
    metrics = pipeline.run(changed, redo="neighbors", last="neighbors", verbose=False)["neighbors"]
    evidence = json.loads(copy.storage.read_bytes(EVIDENCE))
    assert metrics["threshold"] == evidence["threshold"]
    point = next(one for one in evidence["curve"] if one["threshold"] == evidence["threshold"])
    assert point["accuracy"] >= evidence["floor"]
    assert metrics["mean_neighbors"] == pytest.approx(point["mean_neighbors"])  # the sample was all images
    assert EVIDENCE in {info.path for info in copy.require("neighbors").files}
    assert list(violations(copy)) == []
    _, matrix = features(copy)
    limits = {"k_min": changed.neighbors.k_min, "threshold": "auto"}
    model = ICCE(CLUSTERS, random_state=changed.seed, iterations=1, **limits, **changed.heads.recipe()).fit(matrix)
    assert model.threshold_ == pytest.approx(evidence["threshold"], abs=1e-6)
    found = neighbor_lists(copy)
    scores = np.concatenate([row[changed.neighbors.k_min :] for row in found["similarities"]])
    assert scores.min() >= evidence["threshold"]


def test_a_run_that_was_killed_keeps_its_number(copy):
    changed = settings_of(copy, neighbors={"threshold": "auto"})
    pipeline.run(changed, redo="neighbors", last="neighbors", verbose=False)
    marker = Path(copy.root) / "neighbors" / "_manifest.json"
    evidence = json.loads(copy.storage.read_bytes(EVIDENCE))
    marker.unlink()
    next((Path(copy.root) / "neighbors").glob("part-*.parquet")).unlink()
    evidence["floor"] = 0.5  # a second pilot would write its own
    copy.storage.write_bytes(EVIDENCE, json.dumps(evidence).encode())
    again = pipeline.run(changed, last="neighbors", verbose=False)["neighbors"]
    assert again["threshold"] == evidence["threshold"]
    assert json.loads(copy.storage.read_bytes(EVIDENCE))["floor"] == 0.5
    assert list(violations(copy)) == []


def test_a_sweep_takes_the_number_found_or_asks_for_one(copy):
    changed = settings_of(copy, neighbors={"threshold": "auto"})
    found = pipeline.run(changed, redo="neighbors", last="neighbors", verbose=False)["neighbors"]["threshold"]
    assert known(copy.settings(), copy).neighbors.threshold == found
    assert copy.settings().neighbors.threshold == "auto"
    (Path(copy.root) / "neighbors" / "_manifest.json").unlink()
    with pytest.raises(RunError, match=r"add --param neighbors\.threshold=0\.3:0\.7:0\.1"):
        pipeline.sweep_run(copy.root, Sweep.of(["seed=0,1"]), verbose=False)
