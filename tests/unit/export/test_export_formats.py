"""Predictions with their images in the layouts that other tools read, read back."""

import csv
import json
import os
import shutil
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icce_ray.export.formats import export_predictions
from icce_ray.io.sources import SourceSpec, find_source
from icce_ray.progress import Progress
from icce_ray.store import RunError, UsageError
from tests.failures import fails
from tests.forms import write
from tests.labelled_runs import labelled, prediction_of, run_of
from tests.pictures import encode, scene
from tests.sources import bytes_of

PNG, JPEG, GIF = encode(scene(), "PNG"), encode(scene(), "JPEG"), encode(scene(4, 4), "GIF")
IMAGES = [
    ("a/<script>.png", PNG),
    ('a/it\'s "1", or 2.JPG', JPEG),
    ("b/photo.png", GIF),
    ("b/test.v2.png", PNG + b"1"),
    ("c/" + "x" * 200 + ".jpeg", JPEG + b"2"),
    ("\U0001f600.png", PNG + b"3"),
]
LABELS = [0, 1, 1, None, 3, 0]
FILES = ["000000-script.png", "000001-it_s _1_, or 2.jpg", "000002-photo.gif", "", f"000004-{'x' * 100}.jpeg"]
FILES += ["000005-\U0001f600.png"]
NAMES = "label,name\n0,../cats\n1,\U0001f436\n"
FOLDERS = {0: "cats", 1: "\U0001f436", 3: "class-003"}


@pytest.fixture
def store(tmp_path):
    write("files", IMAGES, tmp_path / "photos")
    (tmp_path / "names.csv").write_text(NAMES)
    return labelled(run_of(tmp_path / "run", str(tmp_path / "photos")), LABELS, classes=4)


def export(store, form, **options):
    """The folder written, and what was logged."""
    out = Path(store.root).parent / "out"
    done = export_predictions(store, form, str(out), Progress(), **options)
    assert [path.name for path in out.parent.iterdir() if path.name.endswith(".tmp")] == []
    return out, done


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def as_source(out):
    """{key: bytes} that a run would read there."""
    source = find_source(SourceSpec(str(out)))
    rows = pa.concat_tables(source.listing())
    return dict(zip(rows["key"].to_pylist(), bytes_of(source, rows), strict=True))


def test_imagefolder(store, tmp_path):
    out, done = export(store, "imagefolder", names=str(tmp_path / "names.csv"))
    expected = {
        f"{FOLDERS[label]}/{FILES[index]}": IMAGES[index][1] for index, label in enumerate(LABELS) if label is not None
    }
    assert as_source(out) == expected
    assert (done.images, done.unreadable.total()) == (5, 0)
    assert sorted(path.name for path in out.iterdir()) == sorted([*FOLDERS.values(), "metadata.csv"])
    rows = read_csv(out / "metadata.csv")
    assert [row["file_name"] for row in rows] == list(expected)
    key = IMAGES[1][0]
    line = {"label": "1", "confidence": "0.71", "uri": key, "key": key, "name": "\U0001f436"}
    assert rows[1] == {"file_name": list(expected)[1]} | line


def test_imagefolder_without_names(store):
    out, _ = export(store, "imagefolder")
    assert {path.parent.name for path in out.glob("*/*")} == {"class-000", "class-001", "class-003"}
    assert list(read_csv(out / "metadata.csv")[0]) == ["file_name", "label", "confidence", "uri", "key"]


def test_links_lead_to_the_images_of_the_source(store, tmp_path):
    out, _ = export(store, "imagefolder", link=True)
    path = out / "class-001" / "000002-photo.gif"
    assert os.readlink(path) == str(tmp_path / "photos" / "b" / "photo.png")
    assert path.read_bytes() == GIF
    assert all(path.is_symlink() for path in out.glob("*/*"))


def test_fiftyone(store, tmp_path):
    out, done = export(store, "fiftyone", names=str(tmp_path / "names.csv"))
    assert done.images == 5
    found = json.loads((out / "labels.json").read_text())
    assert found["classes"] == ["../cats", "\U0001f436", "class-002", "class-003"]
    assert set(found) == {"classes", "labels"}
    stems = {path.stem: path.read_bytes() for path in (out / "data").iterdir()}
    assert list(found["labels"]) == [name.rsplit(".", 1)[0] for name in FILES if name]
    assert stems == {name.rsplit(".", 1)[0]: data for name, (_, data) in zip(FILES, IMAGES, strict=True) if name}
    key = IMAGES[4][0]
    target = {"label": 3, "confidence": 0.74, "attributes": {"uri": key, "key": key}}
    assert found["labels"][FILES[4].rsplit(".", 1)[0]] == target


def test_webdataset(store, tmp_path):
    out, done = export(store, "webdataset", names=str(tmp_path / "names.csv"), shard_images=2)
    assert done.images == 5
    assert sorted(path.name for path in out.iterdir()) == [f"shard-{shard:06d}.tar" for shard in range(3)]
    assert as_source(out) == {
        f"{index:06d}{FILES[index][-4:]}".replace("jpeg", ".jpeg"): IMAGES[index][1] for index in (0, 1, 2, 4, 5)
    }
    with tarfile.open(out / "shard-000001.tar") as tar:
        names = ["000002.gif", "000002.cls", "000002.json", "000004.jpeg", "000004.cls", "000004.json"]
        assert tar.getnames() == names  # the members of a sample stand together
        assert all(member.mtime == 0 and member.mode == 0o644 for member in tar)
        tar.extractall(tmp_path / "members", filter="data")
    texts = {path.name: path.read_bytes() for path in (tmp_path / "members").iterdir()}
    assert texts["000004.cls"] == b"3"
    described = {"uri": "b/photo.png", "key": "b/photo.png", "label": 1, "confidence": 0.72, "name": "\U0001f436"}
    assert json.loads(texts["000002.json"]) == described
    assert json.loads(texts["000004.json"])["name"] is None


def test_a_tar_is_no_larger_than_asked_unless_for_one_image(store):
    out, _ = export(store, "webdataset", shard_bytes=8000)
    sizes = []
    for path in sorted(out.iterdir()):
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            sizes.append((sum(512 + -(-member.size // 512) * 512 for member in members), len(members) // 3))
    assert sum(count for _, count in sizes) == 5
    assert all(size <= 8000 or count == 1 for size, count in sizes)
    assert max(count for _, count in sizes) > 1


@pytest.mark.parametrize(
    ("form", "link"), [("imagefolder", False), ("imagefolder", True), ("fiftyone", True), ("webdataset", False)]
)
def test_images_that_are_gone_are_listed(store, tmp_path, form, link):
    (tmp_path / "photos" / IMAGES[0][0]).unlink()
    (tmp_path / "photos" / IMAGES[1][0]).write_bytes(b"new")
    (tmp_path / "photos" / IMAGES[5][0]).write_bytes(b"<html>".ljust(len(IMAGES[5][1])))
    out, done = export(store, form, link=link)
    assert (done.images, dict(done.unreadable)) == (2, {"unreadable": 2, "not_an_image": 1})
    listed = {row["key"]: row["reason"] for row in read_csv(out / "unreadable.csv")}
    assert listed == {IMAGES[0][0]: "unreadable", IMAGES[1][0]: "unreadable", IMAGES[5][0]: "not_an_image"}
    if form == "imagefolder":
        assert len(read_csv(out / "metadata.csv")) == 2


def test_nothing_is_left_when_nothing_can_be_read(store, tmp_path):
    shutil.rmtree(tmp_path / "photos")
    (tmp_path / "photos").mkdir()
    with fails(RunError, store.root, "'unreadable': 5"):
        export(store, "imagefolder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["names.csv", "photos", "run"]


def test_a_prediction_of_a_parquet_source(store, tmp_path):
    table = pa.table({"jpg": pa.array([JPEG, PNG, b""], pa.binary())})
    (tmp_path / "new").mkdir()
    pq.write_table(table, tmp_path / "new" / "all.parquet")
    predicted = prediction_of(tmp_path / "prediction", store, str(tmp_path / "new"))
    out, done = export(labelled(predicted, [1, 0, 1], classes=2), "imagefolder")
    assert as_source(out) == {"class-000/000001-1.png": PNG, "class-001/000000-0.jpg": JPEG}
    assert dict(done.unreadable) == {"empty": 1}
    with fails(RunError, "--link", "local folder"):
        export_predictions(predicted, "fiftyone", str(tmp_path / "links"), Progress(), link=True)


def test_features_have_no_images(tmp_path):
    pq.write_table(pa.table({"features": [[1.0, 2.0], [3.0, 4.0]]}), tmp_path / "features.parquet")
    run = labelled(run_of(tmp_path / "run", str(tmp_path / "features.parquet")), [0, 1], classes=2)
    with fails(RunError, "features", "csv or parquet"):
        export(run, "webdataset")
    assert export(run, "csv")[1].images == 2


@pytest.mark.parametrize(
    ("form", "options", "facts"),
    [
        ("imagefolders", {}, ["--format imagefolders", "imagefolder?"]),
        ("webdataset", {"link": True}, ["--link", "imagefolder or fiftyone", "webdataset"]),
        ("csv", {"shard_images": 5}, ["--shard-images", "webdataset", "csv"]),
        ("webdataset", {"shard_bytes": 0}, ["--shard-mb", "1"]),
    ],
)
def test_options_that_cannot_be(store, form, options, facts):
    with fails(UsageError, *facts):
        export(store, form, **options)


def test_run_and_source_in_a_bucket(moto, tmp_path):
    bucket = moto.bucket()
    for key, data in [("photos/a/1.jpg", JPEG), ("photos/b/1 ä.png", PNG), ("photos/c.png", PNG)]:
        moto.client.put_object(Bucket=bucket, Key=key, Body=data)
    run = labelled(run_of(moto.uri(f"{bucket}/run"), moto.uri(f"{bucket}/photos")), [1, 0, 1], classes=2)
    moto.client.delete_object(Bucket=bucket, Key="photos/c.png")
    done = export_predictions(run, "imagefolder", str(tmp_path / "out"), Progress())
    assert as_source(tmp_path / "out") == {"class-000/000001-1 ä.png": PNG, "class-001/000000-1.jpg": JPEG}
    assert dict(done.unreadable) == {"unreadable": 1}
