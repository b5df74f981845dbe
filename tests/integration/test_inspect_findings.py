"""Copies, images far from all and wrong labels, planted into shards of a run, are found by Ray tasks over these."""

import numpy as np
import pyarrow as pa
import pytest

from icce_ray.progress import Progress
from icce_ray.settings import load
from icce_ray.stages.cluster import Resources
from icce_ray.stages.features import list_column
from icce_ray.stages.inspect import duplicates, outliers
from icce_ray.stages.label_issues import write_label_issues
from icce_ray.stages.truth import read_truth
from icce_ray.store import Store, fingerprint
from icce_ray.store import artifacts as a
from icce_ray.store.contents import Contents
from tests.small_run import agreed, manifest, named, neighbors, written

pytestmark = pytest.mark.usefixtures("cluster")

IMAGES, DIM, SHARD = 400, 32, 100
EXACT, NEAR, UNMEASURED, FAR, WRONG = (7, 250), (20, 120), (330, 371), [40, 399], [60, 61, 160]
HERE = Resources(device="cpu", gpus=0, nodes=1, cores=1)


def values():
    """Two classes side by side, by the parity of the image."""
    random = np.random.default_rng(0)
    rows = np.eye(DIM)[np.arange(IMAGES) % 2] + random.normal(0, 0.06, (IMAGES, DIM))
    rows[FAR] = np.eye(DIM)[[7, 8]]
    for one, other in (EXACT, UNMEASURED):
        rows[other] = rows[one]
    rows[NEAR[1]] = rows[NEAR[0]] + random.normal(0, 0.002, DIM)
    return rows.astype(np.float16)


def features_tables(rows):
    """Shards, of which the last was written by a version that measured no pictures."""
    random = np.random.default_rng(1)
    digests, hashes = random.bytes(16 * IMAGES), random.bytes(32 * IMAGES)
    digest = [digests[16 * row : 16 * row + 16] for row in range(IMAGES)]
    picture_hash = [hashes[32 * row : 32 * row + 32] for row in range(IMAGES)]
    digest[EXACT[1]], picture_hash[NEAR[1]] = digest[EXACT[0]], picture_hash[NEAR[0]]
    measured = {"digest": pa.array(digest, pa.binary(16)), "picture_hash": pa.array(picture_hash, pa.binary(32))}
    whole = pa.table(named(range(IMAGES)) | {"features": list_column(rows)} | measured)
    shards = [whole.slice(start, SHARD).combine_chunks() for start in range(0, IMAGES, SHARD)]
    return [*shards[:-1], shards[-1].drop_columns(list(measured))]


def lists(rows):
    """The 20 nearest of each image."""
    unit = rows.astype(np.float32) / np.linalg.norm(rows.astype(np.float32), axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :20]
    return nearest.tolist(), np.take_along_axis(cosines, nearest, axis=1).tolist()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(str(tmp_path_factory.mktemp("inspected") / "run"))
    settings, rows = load({"source": "photos", "clusters": 2, "out": store.root}), values()
    store.claim(settings)
    near, cosines = lists(rows)
    halves = [(range(0, 200), 0), (range(200, 400), 1)]
    files = {
        "list": {a.MANIFEST.part(0): manifest(range(IMAGES))},
        "embed": {a.FEATURES.part(part): table for part, table in enumerate(features_tables(rows))},
        "sample": {},
        "neighbors": {
            a.NEIGHBORS.part(part): neighbors(ids, near[ids.start : ids.stop], cosines[ids.start : ids.stop])
            for ids, part in halves
        },
        "consensus": {
            a.CONSENSUS.part(part): agreed(list(ids), [one % 2 for one in ids]).set_column(
                4, "agreement", pa.array([0.5 if one == WRONG[2] else 0.9 for one in ids], pa.float32())
            )
            for ids, part in halves
        },
    }
    figures = {"list": {"images": IMAGES}, "embed": {"ok": IMAGES, "dim": DIM, "block_dim": 0}, "sample": {"images": 1}}
    for stage, content in files.items():
        infos = [written(store, *one) for one in content.items()]
        digest = fingerprint(settings, stage)
        store.commit(stage, infos, fingerprint=digest, summary=figures.get(stage, {}), seconds=0)
    return store


def found(store, part, table):
    """Rows and figures of a part of the stage, which `icce verify` has nothing to say against."""
    settings = store.settings()
    files, figures = part(settings, store, HERE, Progress())
    store.commit("inspect", files, fingerprint=fingerprint(settings, "inspect"), summary={}, seconds=0)
    markers = {stage: store.require(stage) for stage in ("list", "embed", "inspect")}
    assert list(Contents(store, markers, settings).artifact(table)) == []
    shards = [store.storage.read_table(info.path) for info in table.files(files)]
    return pa.concat_tables(shards).to_pylist(), figures


def test_copies_are_found_across_shards_and_batches(store, monkeypatch):
    monkeypatch.setattr(duplicates, "FILES", 1)
    monkeypatch.setattr(duplicates, "PARTITION_IMAGES", 150)
    rows, figures = found(store, duplicates.run, a.DUPLICATES)
    groups = {}
    for row in rows:
        groups.setdefault((row["group"], row["kind"]), []).append(row["image_id"])
    assert groups == {(EXACT[0], "exact"): [*EXACT], (NEAR[0], "near"): [*NEAR], (330, "exact"): [*UNMEASURED]}
    assert (figures["exact"], figures["near"], figures["groups"], figures["hashed"]) == (4, 2, 3, True)
    assert sum(figures["histogram"]) == figures["compared"] == IMAGES
    pairs = store.storage.read_table(a.DUPLICATE_PAIRS.path).slice(0, 1).to_pylist()
    assert [pairs[0]["image_id"], pairs[0]["other"]] == [*NEAR]


def test_images_far_from_all_are_found(store):
    rows, figures = found(store, outliers.run, a.OUTLIERS)
    assert [row["image_id"] for row in rows] == FAR
    assert min(row["score"] for row in rows) > figures["limit"]


def test_labels_that_class_and_neighbours_contradict_are_found(store, tmp_path):
    lines = [f"{one}.png,{'ab'[(one % 2) ^ (one in WRONG)]}" for one in range(IMAGES)]
    (tmp_path / "labels.csv").write_text("\n".join(["key,label", *lines]))
    assert write_label_issues(store, read_truth(str(tmp_path / "labels.csv"))) == 2  # heads disagree on the third
    rows = store.storage.read_table(a.LABEL_ISSUES.path).select(["image_id", "label", "suggested"]).to_pylist()
    assert rows == [{"image_id": 60, "label": "b", "suggested": "a"}, {"image_id": 61, "label": "a", "suggested": "b"}]
