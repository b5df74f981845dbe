"""True labels: every form of file, each fault named, and a class for each image by its own key."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icce_ray.io.locations import StorageError
from icce_ray.io.storage import Storage
from icce_ray.stages.features import FeatureRows
from icce_ray.stages.truth import class_names, labels_for, read_truth, truth_of_rows
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import FEATURES
from tests.failures import fails

URIS = pa.array(["b/1.png", "a/1.png", "new.png"])
IDS = pa.array([2, 0, 7], pa.int64())


def images(image_ids, uris):
    """Rows as a run has them; the key is the name without its folders."""
    keys = pa.array([uri.rpartition("/")[2] for uri in uris.to_pylist()], pa.string())
    return pa.table({"image_id": image_ids, "uri": uris, "key": keys})


def written(tmp_path, name, content):
    path = tmp_path / name
    if isinstance(content, pa.Table):
        Storage(tmp_path).write_table(name, content)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "uri,label\na/1.png,3\nb/1.png,9\nc.png,3\n"),
        ("t.CSV", "label,path\n3,a/1.png\n9,b/1.png\n3,c.png\n"),
        ("t.csv", "uri,label,note\na/1.png,cat,x\nb/1.png,dog,\nc.png,cat,\n"),
        ("t.csv", "image_id,label\n0,3\n2,9\n5,3\n"),
        ("t.parquet", pa.table({"uri": ["a/1.png", "b/1.png", "c.png"], "label": ["cat", "dog", "cat"]})),
        ("t.parquet", pa.table({"image_id": pa.array([0, 2, 5], pa.int32()), "label": [3.0, 9.0, 3.0]})),
        ("t.parquet", pa.table({"image_id": [0, 2, 5], "label": pa.array([3, 9, 3], pa.float16())})),
        (
            "t.parquet",
            pa.table(
                {
                    "uri": pa.array(["a/1.png", "b/1.png", "c.png"]).dictionary_encode(),
                    "label": pa.array(["cat", "dog", "cat"]).dictionary_encode(),
                }
            ),
        ),
        (
            "t.parquet",
            pa.table({"uri": pa.array(["a/1.png", "b/1.png", "c.png"], pa.large_string()), "label": [3, 9, 3]}),
        ),
    ],
)
def test_classes_are_numbered_and_found_by_key(tmp_path, name, content):
    truth = read_truth(written(tmp_path, name, content))
    assert truth["label"].to_pylist() == [0, 1, 0]
    labels = labels_for(truth, images(IDS, URIS))
    assert labels.dtype == np.int64
    assert labels.tolist() == [1, 0, -1]


def test_a_name_of_digits_is_a_name(tmp_path):
    truth = read_truth(written(tmp_path, "t.csv", "uri,label\n0,cat\n2,dog\n"))
    assert labels_for(truth, images(pa.array([0, 2]), pa.array(["2", "0"]))).tolist() == [1, 0]


def test_a_relative_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "t.csv", "uri,label\na,1\n")
    assert len(read_truth("t.csv")) == 1


def test_chunked_columns_and_no_images(tmp_path):
    truth = read_truth(written(tmp_path, "t.csv", "uri,label\na/1.png,3\nb/1.png,9\n"))
    chunked = pa.chunked_array([URIS.slice(0, 1), URIS.slice(1)])
    assert labels_for(truth, images(IDS, chunked)).tolist() == [1, 0, -1]
    assert labels_for(truth, images(IDS.slice(0, 0), URIS.slice(0, 0))).tolist() == []


def test_labels_by_key_need_keys_that_tell_images_apart(tmp_path):
    truth = read_truth(written(tmp_path, "t.csv", "key,label\nnew.png,x\nother.png,y\n"))
    assert labels_for(truth, images(IDS, URIS)).tolist() == [-1, -1, 0]
    truth = read_truth(written(tmp_path, "t.csv", "key,label\n1.png,x\n"))
    with fails(RunError, "by key", "uri or image_id"):
        labels_for(truth, images(IDS, URIS))


def of_bytes(*values):
    """Text that is not UTF-8, as other writers leave it."""
    binary = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(binary), binary.buffers())


def twice(name):
    return pa.Table.from_arrays([pa.array(["a"])] * 3, names=["uri", "label", name])


@pytest.mark.parametrize(
    ("name", "content", "facts"),
    [
        ("t.csv", "uri,class\na,1\n", ["'uri', 'class'", "needs label", "uri, key, path, image_id"]),
        ("t.csv", "file,label\na,1\n", ["'file', 'label'", "needs label", "uri, key, path, image_id"]),
        ("t.csv", ",".join(f"c{column}" for column in range(100_000)), ["needs label", "characters)"]),
        ("t.csv", "uri,label,uri\na,1,b\n", ["2 columns uri"]),
        ("t.csv", "label,uri,label\na,1,b\n", ["2 columns label"]),
        ("t.parquet", twice("uri"), ["2 columns uri"]),
        ("t.parquet", twice("label"), ["2 columns label"]),
        ("t.csv", "uri,label\na,1\na,1\nb,2\n", ["3 rows", "2 distinct uri"]),
        ("t.csv", "uri,label\na,1\nb,\n", ["1 of 2", "no label or no uri"]),
        ("t.csv", "uri,label\na,1\nb,nan\n", ["1 of 2", "no label or no uri"]),
        ("t.csv", "image_id,label\n0,1\n,2\n", ["1 of 2", "no label or no image_id"]),
        ("t.csv", "uri,label\na,cat\nb,\n,dog\nc,cat\n", ["2 of 4", "no label or no uri"]),
        ("t.parquet", pa.table({"uri": ["a", "b"], "label": [1.0, np.nan]}), ["1 of 2", "no label or no uri"]),
        ("t.csv", "image_id,label\nx,1\ny,2\n", ["image_id", "string", "whole numbers"]),
        ("t.parquet", pa.table({"image_id": pa.array([1 << 63], pa.uint64()), "label": [1]}), ["uint64", "2^63"]),
        ("t.parquet", pa.table({"uri": [1, 2], "label": [1, 2]}), ["uri", "int64", "text"]),
        ("t.parquet", pa.table({"uri": ["a"], "label": [[1]]}), ["label", "list", "text or numbers"]),
        ("t.parquet", pa.table({"uri": ["a"], "label": [b"\xff"]}), ["label", "binary", "text or numbers"]),
        ("t.parquet", pa.table({"uri": ["a"], "label": of_bytes(b"\xff")}), ["UTF-8"]),
        ("t.parquet", pa.table({"uri": of_bytes(b"\xff"), "label": ["a"]}), ["UTF-8"]),
        ("t.csv", "", ["columns []", "needs label"]),
        ("t.csv", b"uri,label\n\xff.png,1\n", ["CSV in UTF-8"]),
        ("t.csv", b"uri,label\na.png,\xff\n", ["CSV in UTF-8"]),
        ("t.csv", b"uri,label,\xff\na.png,1,2\n", ["CSV in UTF-8"]),
        ("t.parquet", "uri,label\na,1\n", ["CSV", "Parquet"]),
        ("t.parquet", b"PAR1" + b"\0" * 40 + b"\x10\0\0\0PAR1", ["CSV", "Parquet"]),
        ("labels.txt", "uri,label\na,1\n", ["CSV", "by its name", "Parquet"]),
    ],
)
def test_a_file_that_will_not_do_is_named(tmp_path, name, content, facts):
    location = tmp_path / name
    if isinstance(content, pa.Table):
        pq.write_table(content, location)
    else:
        location.write_bytes(content if isinstance(content, bytes) else content.encode())
    with fails((RunError, StorageError), f"labels = {location}", *facts) as caught:
        read_truth(str(location))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("place", ["no.csv", "no/no.csv", "pipe.csv", "folder.csv", "x" * 5000])
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path, place):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    with fails(StorageError, "labels =", "CSV", "Parquet") as caught:
        read_truth(str(tmp_path / place))
    assert len(str(caught.value)) < 1000


def test_a_column_that_does_not_matter_may_be_there_twice(tmp_path):
    location = written(tmp_path, "t.csv", "uri,label,note,note\na,1,x,y\n")
    assert class_names(read_truth(location)) == ["1"]


@pytest.fixture
def run(tmp_path):
    """A run with features of three images in two files."""
    store = Store(str(tmp_path / "run"))
    tables = [
        images(IDS.slice(1, 1), URIS.slice(1, 1)),
        images(pa.array([2, 7]), pa.array(["b/1.png", "new.png"])),
    ]
    files = [store.storage.write_table(FEATURES.part(index), one) for index, one in enumerate(tables)]
    store.commit("embed", files, fingerprint="", summary={}, seconds=0)
    return store


def test_all_images_of_a_run_need_a_class(tmp_path, run):
    location = written(tmp_path, "t.csv", "uri,label\nnew.png,x\na/1.png,y\nb/1.png,x\nmore.png,z\n")
    assert truth_of_rows(FeatureRows.of(run), location).tolist() == [1, 0, 0]
    location = written(tmp_path, "u.csv", "uri,label\na/1.png,y\n")
    with fails(RunError, location, "2 of 3 images", run.root, "b/1.png"):
        truth_of_rows(FeatureRows.of(run), location)


@pytest.mark.parametrize(("label", "names"), [(["cat", "dog", "cat"], ["cat", "dog"]), ([9, 3, 10], ["3", "9", "10"])])
def test_what_the_file_calls_the_classes(tmp_path, label, names):
    table = pa.table({"uri": ["a/1.png", "b/1.png", "c.png"], "label": label})
    truth = read_truth(written(tmp_path, "t.parquet", table))
    assert class_names(truth) == names
    assert [names[number] for number in truth["label"].to_pylist()] == [str(one) for one in label]
