"""The stage over shards against `core.consensus.consensus` on the same labels in one place."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from icce_ray.core.consensus import consensus as in_memory
from icce_ray.progress import Progress
from icce_ray.search.partition import PARTITIONERS_BESIDE_RAY
from icce_ray.settings import load
from icce_ray.stages import consensus, ensemble
from icce_ray.stages.cluster import Resources
from icce_ray.stages.features import list_column, read_column
from icce_ray.store import Store
from icce_ray.store.artifacts import CONSENSUS, FEATURES, HEAD_LABELS
from icce_ray.store.shards import shard_path

ALONE = Resources(device="cpu", gpus=0, nodes=1, cores=2)


def noisy(n, k, n_heads, flip, unequal=1.0, seed=0):
    """Head labels of classes of unequal sizes; in every head two clusters are one, and a share is random."""
    rng = np.random.default_rng(seed)
    share = np.geomspace(unequal, 1, k)
    truth = rng.choice(k, size=n, p=share / share.sum())
    labels = rng.integers(0, k, (n, n_heads))
    for head in range(n_heads):
        kept = rng.random(n) >= flip
        names = rng.permutation(k)
        names[rng.integers(k)] = names[0]
        labels[kept, head] = names[truth[kept]]
    return labels.astype(np.int32)


def run_of(folder, labels, k, rows_per_part, methods):
    """Settings and store of a run whose stages up to the heads are complete; its last part has no rows."""
    store, files = Store(str(folder)), {"embed": [], "heads": []}
    edges = [*range(0, len(labels), rows_per_part), len(labels), len(labels)]
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        names = [f"{image:05d}.png" for image in range(start, stop)]
        table = pa.table({"image_id": pa.array(range(start, stop), pa.int64()), "uri": names, "key": names})
        files["embed"].append(store.storage.write_table(FEATURES.part(number), table))
        table = table.append_column("labels", list_column(labels[start:stop]))
        files["heads"].append(store.storage.write_table(HEAD_LABELS.part(number), table))
    for stage, summary in {"embed": {}, "heads": {"heads": labels.shape[1]}}.items():
        store.commit(stage, files[stage], fingerprint="", summary=summary, seconds=0.0)
    values = {"source": str(folder), "out": str(folder), "clusters": k, "consensus": {"methods": methods}}
    return load(values), store


PROBLEMS = {
    # labels, K, methods; what the case is for is asserted below
    "votes": (noisy(1500, 5, 12, 0.5, unequal=10), 5, ("mcla", "hbgf")),
    "few distinct rows": (noisy(1500, 4, 6, 0.01), 4, ("cspa", "mcla")),
    "a label that wins no image": (noisy(600, 6, 7, 0.4, unequal=200), 12, ("mcla",)),
    "refused": (np.random.default_rng(0).integers(0, 60, (24_000, 3)).astype(np.int32), 60, ("cspa", "mcla")),
}


QUICK = [("votes", 4), ("few distinct rows", 4)]
FURTHER = [("votes", 1), *((name, 4) for name in PROBLEMS if (name, 4) not in QUICK)]
CASES = [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow(3)) for case in FURTHER)]


@pytest.mark.parametrize(("name", "shards"), CASES)
def test_shards_give_the_labels_of_one_place(name, shards, tmp_path, monkeypatch):
    labels, k, methods = PROBLEMS[name]
    whole = in_memory(labels, k, PARTITIONERS_BESIDE_RAY, methods=methods)
    settings, store = run_of(tmp_path, labels, k, len(labels) // 4, methods)
    if shards > 1:
        monkeypatch.setattr(ensemble, "IMAGES_PER_SHARD", len(labels) // shards)
        monkeypatch.setattr(ensemble, "HEADS_PER_ARRAY", 4)
    files, summary = consensus.run(settings, store, ALONE, Progress())
    store.commit("consensus", files, fingerprint="", summary=summary, seconds=0.0)
    np.testing.assert_array_equal(read_column(store, CONSENSUS, "label"), whole.label)
    parts = [store.storage.read_table(info.path) for info in CONSENSUS.files(store.require("consensus").files)]
    assert [len(part) for part in parts] == [len(labels) // 4] * 4 + [0]
    table = pa.concat_tables(parts)
    np.testing.assert_array_equal(table["agreement"].to_numpy(), whole.agreement)
    assert table["image_id"].to_pylist() == list(range(len(labels)))
    found = {key: summary[key] for key in ("method", "scores", "refused", "anmi", "votes")}
    assert found == {key: getattr(whole, key) for key in found}
    assert summary["cluster_sizes"] == np.bincount(whole.label, minlength=k).tolist()
    assert summary["alarms"] == [pytest.approx(alarm.as_dict()) for alarm in whole.alarms]
    assert summary["mean_agreement"] == pytest.approx(whole.agreement.mean(), abs=1e-6)
    assert not store.storage.list(consensus.CANDIDATES)


@pytest.mark.slow(10)
def test_the_problems_are_what_they_are_called(monkeypatch):
    """Else the test above would compare less than it says."""
    splits = []
    split = ensemble.tally.apply_splits
    monkeypatch.setattr(ensemble.tally, "apply_splits", lambda *given: splits.append(1) or split(*given))
    found = {name: in_memory(*given[:2], PARTITIONERS_BESIDE_RAY, methods=given[2]) for name, given in PROBLEMS.items()}
    assert found["votes"].votes > 0
    assert found["votes"].method == "mcla"
    assert splits
    assert "24000 distinct rows" not in found["refused"].refused["cspa"]  # some are equal
    few = PROBLEMS["few distinct rows"][0]
    assert len(np.unique(few, axis=0)) < ensemble.WORTH_COLLAPSING * len(few) / 4


def test_a_candidate_that_is_there_is_not_computed_again(tmp_path, monkeypatch):
    labels, k, methods = PROBLEMS["votes"]
    settings, store = run_of(tmp_path, labels, k, 400, methods)
    monkeypatch.setattr(ensemble, "IMAGES_PER_SHARD", 800)
    whole, planted = consensus.run(settings, store, ALONE, Progress())[1], labels[:, 0]
    for number, start in enumerate((0, 800)):
        table = pa.table({"label": planted[start : start + 800]})
        store.storage.write_table(shard_path("consensus/candidates/hbgf", number), table)
    store.storage.write_bytes("consensus/candidates/hbgf.json", b'{"anmi": 0.99}')
    summary = consensus.run(settings, store, ALONE, Progress())[1]
    assert summary["scores"] == whole["scores"] | {"hbgf": 0.99}
    assert summary["method"] == "hbgf"
    assert summary["anmi"] != whole["anmi"]  # the votes began with the labels that were there
