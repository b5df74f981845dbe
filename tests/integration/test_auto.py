"""`clusters: auto` and `neighbors.threshold: auto`: found before anything is mined, kept with their evidence, the same
in the estimator."""

import json
import shutil

import numpy as np
import pytest

from icce_ray import ICCE, commands, pipeline
from icce_ray.settings.sweep import Sweep
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import CLUSTERS_EVIDENCE, MARKER, NEIGHBORS, THRESHOLD_EVIDENCE
from icce_ray.store.verify import violations
from tests.failures import fails

from .test_run import features, neighbor_lists, settings_of

pytestmark = pytest.mark.slow(15)
RANGE = (4, 30)


@pytest.fixture(scope="module")
def searched(finished, tmp_path_factory):
    """(a whole run that found both numbers, its figures)."""
    store = Store(str(shutil.copytree(finished.root, tmp_path_factory.mktemp("auto") / "run")))
    settings = settings_of(store, clusters="auto", neighbors={"threshold": "auto", "cluster_range": RANGE})
    return store, pipeline.run(settings, redo="neighbors", verbose=False)


@pytest.fixture
def copy(searched, tmp_path):
    """That run as a test's own."""
    return Store(str(shutil.copytree(searched[0].root, tmp_path / "run")))


def evidence(store, file):
    return json.loads(store.storage.read_bytes(file.path))


def test_both_numbers_are_found_before_the_search_and_every_stage_takes_them(searched):
    store, metrics = searched
    counts, thresholds = evidence(store, CLUSTERS_EVIDENCE), evidence(store, THRESHOLD_EVIDENCE)
    found = metrics["neighbors"]["clusters"]
    assert found == counts["clusters"] == min(counts["curve"], key=lambda drop: drop["ratio"])["clusters"]
    assert counts["interval"][0] <= found <= counts["interval"][1]
    assert all(RANGE[0] <= number <= RANGE[1] for number in counts["graph"])
    assert len(counts["graph"]) == 3
    assert [drop["clusters"] for drop in counts["curve"]] == list(range(RANGE[0], RANGE[1] + 1))
    assert len(metrics["consensus"]["cluster_sizes"]) == len(metrics["predict"]["class_sizes"]) == found
    assert metrics["neighbors"]["threshold"] == thresholds["threshold"]
    point = next(one for one in thresholds["curve"] if one["threshold"] == thresholds["threshold"])
    assert point["accuracy"] >= thresholds["floor"]
    assert metrics["neighbors"]["mean_neighbors"] == pytest.approx(point["mean_neighbors"])  # the sample was all images
    lists, least = neighbor_lists(store)["similarities"], store.settings().neighbors.k_min
    assert np.concatenate([row[least:] for row in lists]).min() >= thresholds["threshold"]
    assert {CLUSTERS_EVIDENCE.path, THRESHOLD_EVIDENCE.path} <= {info.path for info in store.require("neighbors").files}
    assert list(violations(store)) == []


@pytest.mark.filterwarnings("ignore::icce_ray.core.alarms.CollapseWarning")  # of few heads, in short trainings
def test_the_estimator_finds_the_same_numbers(searched):
    store, metrics = searched
    settings = store.settings()
    limits = {"k_min": settings.neighbors.k_min, "cluster_range": RANGE, "threshold": "auto"}
    recipe = settings.heads.recipe()
    model = ICCE("auto", random_state=settings.seed, iterations=1, **limits, **recipe).fit(features(store)[1])
    assert model.n_clusters_ == metrics["neighbors"]["clusters"]
    assert model.threshold_ == pytest.approx(metrics["neighbors"]["threshold"], abs=1e-6)


def test_a_run_that_was_killed_keeps_its_numbers(copy):
    before = {file: evidence(copy, file) for file in (CLUSTERS_EVIDENCE, THRESHOLD_EVIDENCE)}
    copy.storage.delete(f"neighbors/{MARKER}")
    copy.storage.delete(NEIGHBORS.part(1))
    for file, kept in before.items():  # a second pilot would write its own
        copy.storage.write_bytes(file.path, json.dumps(kept | {"planted": True}).encode())
    again = pipeline.run(copy.settings(), last="neighbors", verbose=False)["neighbors"]
    assert again["clusters"] == before[CLUSTERS_EVIDENCE]["clusters"]
    assert again["threshold"] == before[THRESHOLD_EVIDENCE]["threshold"]
    assert all(evidence(copy, file)["planted"] for file in before)


def test_a_sweep_and_an_evaluation_take_the_numbers_found_or_ask_for_them(copy, digits):
    clusters, threshold = copy.metrics()["neighbors"]["clusters"], copy.metrics()["neighbors"]["threshold"]
    for asked in (copy.settings(), copy.resolved(copy.settings())):
        assert asked.count_unknown == (asked.clusters == "auto") == (asked.neighbors.threshold == "auto")
    assert (asked.clusters, asked.neighbors.threshold) == (clusters, threshold)
    assert commands.evaluate(copy.root, str(digits[1]), kmeans=True, verbose=False)["kmeans"]["acc"] > 0.2
    assert len(commands.sweep(copy.root, Sweep.of(["seed=0,1"]), verbose=False)) == 2
    copy.storage.delete(f"neighbors/{MARKER}")
    for asked in ("seed=0,1", "clusters=4,5"):
        with fails(RunError, "no neighbours yet", "--until neighbors"):
            commands.sweep(copy.root, Sweep.of([asked]), verbose=False)


def test_a_range_out_of_reach_is_refused_before_anything_is_deleted(copy):
    changed = settings_of(copy, clusters="auto", neighbors={"cluster_range": (300, 320)})
    with fails(RunError, "320 images", "k_min = 8", "40 clusters", "300"):
        pipeline.run(changed, redo="neighbors", last="neighbors", verbose=False)
    assert copy.require("neighbors")
