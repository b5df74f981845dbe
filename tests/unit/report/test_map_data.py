"""The map of a page as its script unpacks it, against the tables of the run, read the slow way."""

import base64
import gzip
import io
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from icce_ray.export.images import RunImages
from icce_ray.progress import Progress
from icce_ray.report.labels import labelled
from icce_ray.report.map_data import NO_CLASS, NO_SHARE, map_section, on_grid, packed, shares_of
from icce_ray.report.sprites import SIDE, spread, sprites
from icce_ray.stages.truth import keep_map_truth, read_truth
from icce_ray.store.artifacts import CONSENSUS, MAP_TRUTH, PREDICTIONS
from jobs.bench.made_run import add_map, make_run
from tests.unit.report.conftest import HOSTILE, source_of


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """A run of 300 images in 5 classes, 10 of them rejected, with a map."""
    folder = tmp_path_factory.mktemp("mapped")
    store = make_run(str(folder / "run"), source_of(folder / "images", 300, HOSTILE), clusters=5, heads=2, rejects=10)
    add_map(store)
    return store


def section(store):
    return map_section(store, labelled(store), Progress())


def unpacked(data):
    """As `unpackedMap` of the script."""
    buffer, offset, found = gzip.decompress(base64.b64decode(data["packed"])), 0, {}
    for name, kind in data["columns"]:
        found[name] = np.frombuffer(buffer, kind, data["images"], offset)
        offset += found[name].nbytes
    assert offset == len(buffer)
    return found | {"names": json.loads(gzip.decompress(base64.b64decode(data["names"])))}


def rows(store, table, name):
    """{image_id: value} of a column."""
    tables = [store.storage.read_table(info.path) for info in table.files(store.require(table.stage).files)]
    return {row["image_id"]: row[name] for one in tables for row in one.to_pylist()}


def test_every_image_has_its_own_figures(mapped):
    found = section(mapped)
    data = unpacked(found.data)
    label, key = rows(mapped, PREDICTIONS, "label"), rows(mapped, PREDICTIONS, "key")
    confidence, agreement = rows(mapped, PREDICTIONS, "confidence"), rows(mapped, CONSENSUS, "agreement")
    ids = data["gaps"].astype(np.int64).cumsum().tolist()
    assert ids == sorted(label)
    assert len(ids) == 290
    for place, image_id in enumerate(ids):
        assert data["label"][place] == label[image_id]
        assert data["names"][place][-1] == key[image_id]
        assert abs(data["confidence"][place] / 254 - confidence[image_id]) <= 0.5 / 254 + 1e-6
        assert abs(data["agreement"][place] / 254 - agreement[image_id]) <= 0.5 / 254 + 1e-6
    assert (found.data["of"], len(found.wanted), found.data["truth"]) == (290, 0, None)


def test_images_without_a_share_are_said_to_have_none(mapped):
    """As those outside the sample, of which there is no agreement; here those that were rejected."""
    files = CONSENSUS.files(mapped.require("consensus").files)
    shares = shares_of(mapped, files, np.arange(300), "agreement")
    missing = np.setdiff1d(np.arange(300), list(rows(mapped, CONSENSUS, "agreement")))
    assert np.flatnonzero(shares == NO_SHARE).tolist() == missing.tolist()
    assert len(missing) == 10


def test_both_sides_have_one_scale():
    places = np.array([[-3, 10], [5, 12], [1, 14]], np.float32)
    assert on_grid(places).tolist() == [[0, 16384], [65535, 32768], [32768, 49151]]
    assert on_grid(np.ones((2, 2), np.float32)).tolist() == [[32768, 32768]] * 2  # images that are all alike


def test_large_gaps_and_equal_names(mapped):
    names = [("a.png", "a.png"), ("b.parquet", "x")]
    data = packed(np.array([3_000_000_000, 3_000_000_001]), np.eye(2, dtype=np.float32), {}, names)
    assert unpacked(data)["gaps"].tolist() == [3_000_000_000, 1]
    assert unpacked(data)["names"] == [["a.png"], ["b.parquet", "x"]]


def test_each_point_has_its_own_picture(mapped):
    data = section(mapped).data
    ids = unpacked(data)["gaps"].astype(np.int64).cumsum()
    shown = data["sprites"]
    sheets = [Image.open(io.BytesIO(base64.b64decode(sheet))).convert("RGB") for sheet in shown["sheets"]]
    assert sorted(shown["points"]) == list(range(290))
    originals = dict(RunImages(mapped).read(ids))
    for slot in range(0, 290, 17):
        sheet, place = sheets[slot // 256], slot % 256
        left, top = place % 16 * SIDE, place // 16 * SIDE
        picture = np.asarray(sheet.crop((left, top, left + SIDE, top + SIDE)), float)
        with Image.open(io.BytesIO(originals[int(ids[shown["points"][slot]])])) as image:
            original = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC), float)
        assert np.abs(picture - original).mean() < 15


def test_pictures_stay_within_their_bytes(mapped):
    ids = np.fromiter(rows(mapped, PREDICTIONS, "label"), np.int64)
    shown = sprites(mapped, ids, np.arange(len(ids)), Progress(), budget=60_000)
    assert 0 < sum(len(base64.b64decode(sheet)) for sheet in shown["sheets"]) <= 60_000
    assert 0 < len(shown["points"]) < 290
    assert sprites(mapped, ids, np.arange(len(ids)), Progress(), budget=500) is None


def test_the_first_pictures_are_spread_over_the_map():
    random = np.random.default_rng(0)
    dense, sparse = random.integers(0, 4096, (5000, 2)), random.integers(0, 65536, (200, 2))
    grid = np.concatenate([dense, sparse]).astype(np.uint16)
    order = spread(grid)
    assert sorted(order) == list(range(5200))
    squares = {tuple(row) for row in (grid >> 13).tolist()}
    assert {tuple(row) for row in (grid[order[: len(squares)]] >> 13).tolist()} == squares


def test_true_classes_are_those_of_the_evaluation(mapped, tmp_path):
    key = rows(mapped, PREDICTIONS, "key")
    some = {image_id: name for image_id, name in key.items() if image_id % 3}
    names = [f"true <{image_id % 4}>" for image_id in some]
    labels = pa.table({"key": list(some.values()), "label": names})
    pq.write_table(labels, tmp_path / "labels.parquet")
    keep_map_truth(mapped, read_truth(str(tmp_path / "labels.parquet")))
    data = section(mapped).data
    found, ids = unpacked(data)["truth"], sorted(key)
    for image_id, number in zip(ids, found.tolist(), strict=True):
        assert (number == NO_CLASS) == (image_id not in some)
        if image_id in some:
            assert data["truth"][number] == f"true <{image_id % 4}>"
    mapped.storage.delete(MAP_TRUTH)


def test_a_map_of_images_without_labels_is_none(mapped):
    """As where there is only a consensus, on a sample without any of them."""
    assert map_section(mapped, replace(labelled(mapped), files=[]), Progress()) is None


def test_a_run_without_a_map_has_none(made):
    assert section(made) is None
