"""The run of `small_run` with an update of three images: one new, one in another version, and one that is rejected."""

import pyarrow as pa

from icce_ray.store import artifacts as a
from icce_ray.store.updates import bind_update, update_fingerprints, update_of
from tests.small_run import DIM, features, labels, made, named, rejects, written

#: Of the run is number 4; it has other bytes now.
NAMES = {0: "new.png", 1: "file:///photos/4.png", 2: "bad.png"}
NOVELTY = {"unsure": [0.1, 0.2], "drift": [0.3, 0.2], "far": 0.5, "candidates": [[2, [0, 1]]]}
#: Bytes of the new one.
SIZE = 100
FILES = {"source": {"format": "files", "column": None, "key_column": None}}
ALARMS = [{"text": "2 of 3 lie far from every class"}]


def with_names(table):
    names = pa.array([NAMES[one] for one in table["image_id"].to_pylist()], pa.string())
    for name in a.NAMES:
        table = table.set_column(table.column_names.index(name), name, names)
    return table


def updated(root, **options):
    """The small run and its update; see `add_update`."""
    run = made(root)
    listed, summary = run.require("list"), {"images": 6, "digest": "d" * 64} | FILES
    run.commit("list", listed.files, fingerprint=listed.fingerprint, summary=summary, seconds=0)
    return run, add_update(run, **options)


def add_update(run, *, source="photos", stages=("list", "embed", "predict")):
    """An update of a run as far as these stages."""
    one = update_of(run, 1)
    bind_update(one, run, source)
    none = {"container": pa.nulls(3, pa.string()), "position": pa.nulls(3, pa.int64())}
    manifest = pa.table(named(range(3)) | {"size": pa.array([SIZE, 101, 100], pa.int64())} | none)
    counts = {"images": 3, "ok": 2, "rejected": 1, "rejected_by_reason": {"truncated": 1}}
    content = {
        "list": ({a.MANIFEST.part(0): manifest}, {"images": 3, "listed": 8, "changed": 1} | FILES),
        "embed": (
            {a.FEATURES.part(0): features([0, 1]), a.REJECTS.part(0): rejects([2])},
            counts | {"dim": DIM, "block_dim": 0, "first_rejects": []},
        ),
        "predict": (
            {a.PREDICTIONS.part(0): labels([0, 1], [1, 0]), a.NOVELTY.path: NOVELTY},
            {"class_sizes": [1, 1], "labelled": 2, "mean_confidence": 0.5, "alarms": ALARMS},
        ),
    }
    for stage in stages:
        files, summary = content[stage]
        infos = [written(one, path, with_names(it) if isinstance(it, pa.Table) else it) for path, it in files.items()]
        one.commit(stage, infos, fingerprint=update_fingerprints(run)[stage], summary=summary, seconds=0)
    return one
