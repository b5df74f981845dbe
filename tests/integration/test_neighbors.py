"""Stage `neighbors` on 20,000 real vectors: five actors are one exact index; inverted lists stop below their recall."""

import re

import numpy as np
import pytest
import torch

from icce_ray import pipeline
from icce_ray.core.neighbors import Limits
from icce_ray.core.projection import Moments
from icce_ray.core.search import mine
from icce_ray.settings import load
from icce_ray.stages import neighbors
from icce_ray.stages.features import FeatureRows
from icce_ray.stages.neighbors import index
from icce_ray.stages.neighbors.index import ShardedIndex
from icce_ray.stages.neighbors.layout import Layout
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import NEIGHBORS
from icce_ray.store.verify import violations
from tests.failures import fails
from tests.patches import THRESHOLD, photo_patches

from .conftest import tiny

pytestmark = pytest.mark.slow(10)
N = 20_000
LIMITS = {"threshold": THRESHOLD, "k_min": 20, "k_max": 120}


@pytest.fixture(scope="module")
def mined(cluster, tmp_path_factory):
    """(settings by search and shards, the run with lists of five exact shards)."""
    folder = tmp_path_factory.mktemp("patches")
    np.save(folder / "patches.npy", photo_patches(N))

    def settings(shards, **fields):
        return load(
            {
                "source": str(folder / "patches.npy"),
                "out": str(folder / "run"),
                "clusters": 10,
                "embed": {"rows_per_shard": 4096},
                "neighbors": LIMITS | {"components": 0} | fields,
                "resources": {"neighbor_shards": shards},
            }
        )

    pipeline.run(settings(5), last="neighbors", verbose=False)
    return settings, Store(settings(5).out)


def loaded(store):
    return neighbors.load(store.root, FeatureRows.of(store), similarities=True)


def test_five_actors_are_one_index(mined):
    found = loaded(mined[1])
    expected = mine(torch.from_numpy(photo_patches(N)), Limits(**LIMITS))
    assert torch.equal(found.offsets, expected.offsets)
    assert torch.equal(found.ids, expected.ids.int())
    assert torch.equal(found.similarities, expected.similarities)
    counts, mean_cosine = expected.counts, Moments.of(torch.from_numpy(photo_patches(N)), products=False).mean_cosine
    summary = mined[1].require("neighbors").summary
    assert summary == LIMITS | {
        "images": N,
        "dim": photo_patches(N).shape[1],
        "mean_cosine": pytest.approx(mean_cosine),
        "components": 0,
        "pairs": int(counts.sum()),
        "mean_neighbors": pytest.approx(float(counts.double().mean())),
        "smallest": int(counts.min()),
        "largest": int(counts.max()),
        "share_at_k_min": pytest.approx(float((counts <= LIMITS["k_min"]).double().mean())),
    }
    bare = neighbors.load(mined[1].root, FeatureRows.of(mined[1]))
    assert torch.equal(bare.ids, found.ids)
    assert len(bare.similarities) == 0


def test_copies_of_an_index_in_parts_share_the_queries(copy, monkeypatch):
    expected, searched = loaded(copy), []
    monkeypatch.setattr(neighbors, "layout_of", lambda *_: Layout(parts=2, copies=3))
    least = ShardedIndex.search

    def search(self, *block):
        found = least(self, *block)
        searched.extend(number for number, pending in enumerate(self._busy) if found[0] in pending)
        return found

    monkeypatch.setattr(ShardedIndex, "search", search)
    settings = tiny(copy.settings().source, copy.root, neighbors={"rows_per_shard": 40})
    pipeline.run(settings, redo="neighbors", last="neighbors", verbose=False)
    found = loaded(copy)
    assert torch.equal(found.ids, expected.ids)
    assert torch.equal(found.similarities, expected.similarities)
    assert set(searched) == {0, 1, 2}


def test_inverted_lists_say_which_recall_they_reach(mined):
    """Too few lists stop the run with the number that is enough; with that number it passes."""
    settings, store = mined
    exact = loaded(store)
    few = settings(2, search="ivf", ivf_lists=64, ivf_probes=1, recall=1.0, recall_queries=200)
    with fails(RunError, "neighbors.search = ivf is 0.", "1 of 64", "1.0", "neighbors.search=torch") as caught:
        pipeline.run(few, redo="neighbors", last="neighbors", verbose=False)
    assert not store.parts(NEIGHBORS)
    enough = int(re.search(r"neighbors\.ivf_probes to (\d+), which finds 1\.0000", str(caught.value))[1])
    assert 1 < enough <= 64
    summary = pipeline.run(
        settings(2, search="ivf", ivf_lists=64, ivf_probes=enough, recall=1.0, recall_queries=200),
        redo="neighbors",
        last="neighbors",
        verbose=False,
    )["neighbors"]
    assert {name: summary[name] for name in ("recall", "recall_queries", "ivf_lists", "ivf_probes")} == {
        "recall": 1.0,
        "recall_queries": 200,
        "ivf_lists": 64,
        "ivf_probes": enough,
    }
    found = loaded(store)
    assert (found.counts >= LIMITS["k_min"]).all()
    assert abs(len(found.ids) / len(exact.ids) - 1) < 0.01
    assert list(violations(store)) == []


def test_inverted_lists_do_not_depend_on_the_number_of_actors(copy, monkeypatch):
    monkeypatch.setattr(index, "PARTITION_ROWS", 110)  # three
    found = []
    for shards in (1, 3):
        fields = {"search": "ivf", "ivf_lists": 5, "ivf_probes": 2, "recall": 0.3}
        settings = tiny(copy.settings().source, copy.root, neighbors=fields, resources={"neighbor_shards": shards})
        summary = pipeline.run(settings, redo="neighbors", last="neighbors", verbose=False)["neighbors"]
        assert 0.3 <= summary["recall"] < 1.0
        found.append(loaded(copy))
    assert torch.equal(found[0].ids, found[1].ids)
    assert torch.equal(found[0].similarities, found[1].similarities)
