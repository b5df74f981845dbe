"""The part `quality` of stage `inspect` on Ray: trouble of a run of which a part is of an earlier version."""

import numpy as np
import pyarrow as pa
import pytest

from icce_ray.progress import Progress
from icce_ray.settings import load
from icce_ray.stages.cluster import resources
from icce_ray.stages.features import list_column
from icce_ray.stages.inspect import quality
from icce_ray.store import Store
from icce_ray.store.artifacts import FEATURES, QUALITY

ROWS = 400


def shard(part, *, measured):
    """Features of images of which the first is dark and the third blurred and narrow."""
    ids = pa.array(range(ROWS * part, ROWS * (part + 1)), pa.int64())
    names = pa.array([f"{number}.jpg" for number in ids.to_pylist()])
    table = {"image_id": ids, "uri": names, "key": names, "features": list_column(np.ones((ROWS, 2), np.float16))}
    if measured:
        random = np.random.default_rng(part)
        width, brightness, contrast = np.full(ROWS, 640), np.full(ROWS, 0.5), np.full(ROWS, 0.8)
        sharpness = 2 ** random.normal(-0.3, 0.1, ROWS).clip(-0.7, 0)
        brightness[0], contrast[0], sharpness[2], width[2] = 0.06, 0.1, 0.35, 6000
        table |= {"width": pa.array(width, pa.int32()), "height": pa.array([480] * ROWS, pa.int32())}
        table["digest"] = pa.array([bytes(16)] * ROWS, pa.binary(16))
        floats = {"brightness": brightness, "contrast": contrast, "sharpness": sharpness}
        table |= {name: pa.array(values, pa.float32()) for name, values in floats.items()}
    return pa.table(table)


def found(root, measured):
    """(files, figures, lines of the log) of the part on shards of which some were measured."""
    store, lines = Store(str(root)), []
    files = [FEATURES.write(store.storage, shard(part, measured=one), part) for part, one in enumerate(measured)]
    store.commit("embed", files, fingerprint="", summary={}, seconds=0)
    settings = load({"source": "photos", "clusters": 2, "out": store.root})

    class Logged(Progress):
        def log(self, text):
            lines.append(text)

    written, figures = quality.run(settings, store, resources(settings.resources), Logged())
    return store, written, figures, lines


@pytest.mark.usefixtures("cluster")
def test_trouble_is_written_shard_by_shard_and_what_was_not_measured_is_said(tmp_path):
    store, files, figures, lines = found(tmp_path / "run", [True, False, True])
    assert {info.path for info in files} == {QUALITY.part(0), QUALITY.part(2)}
    rows = [row for info in QUALITY.files(files) for row in store.storage.read_table(info.path).to_pylist()]
    expected = [(0, "dark", 0.11), (2, "blurred", 0.35), (2, "narrow", 0.08)]
    expected += [(800 + number, problem, value) for number, problem, value in expected]
    assert [(row["image_id"], row["problem"], round(row["value"], 5)) for row in rows] == expected
    assert rows[0]["key"] == "0.jpg"
    assert (figures["images"], figures["unmeasured"]) == (800, 400)
    counts = {name: one["images"] for name, one in figures["problems"].items()}
    assert counts == {"blank": 0, "dark": 2, "bright": 0, "blurred": 2, "small": 0, "narrow": 2}
    assert "400 of 1,200 images were not measured" in lines[0]
    _, files, figures, _ = found(tmp_path / "old", [False])
    assert (files, figures) == ([], {"images": 0, "unmeasured": 400, "problems": {}})
