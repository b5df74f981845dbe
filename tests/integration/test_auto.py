"""`clusters: auto` and `neighbors.threshold: auto`: found before anything is mined, kept with their evidence, the same
in the estimator."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from sklearn.datasets import load_digits

from icce_ray import ICCE, pipeline
from icce_ray.settings.sweep import Sweep
from icce_ray.stages.neighbors import known
from icce_ray.stages.neighbors.auto import CLUSTERS_EVIDENCE
from icce_ray.stages.neighbors.auto import THRESHOLD_EVIDENCE as EVIDENCE
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


def test_a_number_of_clusters_is_found_and_every_stage_takes_it(copy, tmp_path):
    changed = settings_of(copy, clusters="auto", neighbors={"threshold": "auto", "cluster_range": (4, 30)})
    metrics = pipeline.run(changed, redo="neighbors", verbose=False)
    evidence = json.loads(copy.storage.read_bytes(CLUSTERS_EVIDENCE))
    found = metrics["neighbors"]["clusters"]
    assert found == evidence["clusters"] == min(evidence["curve"], key=lambda drop: drop["ratio"])["clusters"]
    assert [drop["clusters"] for drop in evidence["curve"]] == list(range(4, 31))
    assert {CLUSTERS_EVIDENCE, EVIDENCE} <= {info.path for info in copy.require("neighbors").files}
    assert len(metrics["consensus"]["cluster_sizes"]) == len(metrics["predict"]["class_sizes"]) == found
    assert list(violations(copy)) == []
    _, matrix = features(copy)
    limits = {"k_min": changed.neighbors.k_min, "cluster_range": (4, 30), **changed.heads.recipe()}
    model = ICCE("auto", random_state=changed.seed, iterations=1, **limits).fit(matrix)
    assert model.n_clusters_ == found
    uris = copy.storage.read_table(copy.require("predict").rows_of("predictions/")[0].path)["uri"].to_pylist()
    truth = {"uri": uris, "label": load_digits().target[: len(uris)]}
    pyarrow.csv.write_csv(pa.table(truth), tmp_path / "truth.csv")
    figures = pipeline.evaluate_run(copy.root, str(tmp_path / "truth.csv"), kmeans=True, verbose=False)
    assert figures["kmeans"]["acc"] > 0.2
    table = pipeline.sweep_run(copy.root, Sweep.of(["seed=0,1"]), verbose=False)
    assert known(copy.settings(), copy).clusters == found
    assert copy.settings().count_unknown
    assert len(table) == 2


def test_what_needs_a_number_says_so_before_there_is_one(copy):
    changed = settings_of(copy, clusters="auto", neighbors={"cluster_range": (300, 320)})
    with pytest.raises(RunError, match=r"320 images with k_min = 8 .* enough for 40 clusters, .* from 300 on"):
        pipeline.run(changed, redo="neighbors", last="neighbors", verbose=False)
    assert copy.require("neighbors")  # nothing was deleted
    pipeline.run(settings_of(copy, clusters="auto"), redo="neighbors", last="neighbors", verbose=False)
    (Path(copy.root) / "neighbors" / "_manifest.json").unlink()
    with pytest.raises(RunError, match=r"add --param clusters=10:90:20"):
        pipeline.sweep_run(copy.root, Sweep.of(["seed=0,1"]), verbose=False)
