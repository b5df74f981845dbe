"""Storage: whole files or none, the same answers on a disk and on an object store, clear errors."""

import contextlib
import errno
import hashlib
import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from icce_ray.io import locations
from icce_ray.io.locations import UnavailableError
from icce_ray.io.storage import FileInfo, Storage, StorageError
from icce_ray.io.stores import abort_uploads, read_whole, resolve
from tests.failures import fails
from tests.servers.proxy import FaultProxy

TABLE = pa.table({"image_id": pa.array([1, 2, 3], pa.int64()), "uri": ["a", "b", "c"]})


@pytest.fixture(params=["local", "memory", "moto", "radosgw"])
def storage(request, tmp_path):
    if request.param in ("moto", "radosgw"):
        server = request.getfixturevalue(request.param)
        return Storage(server.uri(f"{server.bucket()}/a%20run"))
    return Storage(tmp_path / "a run" if request.param == "local" else f"fsspec+memory://{tmp_path.name}/run")


@pytest.mark.parametrize("call", ["fsync", "open"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path, monkeypatch, call, code):
    def full(*_, **__):
        raise OSError(code, os.strerror(code))

    storage = Storage(tmp_path)
    storage.write_bytes("deep/file.bin", b"before")
    monkeypatch.setattr(*((os, "fsync", full) if call == "fsync" else (Path, "open", full)))
    with fails(StorageError, tmp_path / "deep" / "file.bin", os.strerror(code), "free some space"):
        storage.write_bytes("deep/file.bin", b"after")
    monkeypatch.undo()
    assert os.listdir(tmp_path / "deep") == ["file.bin"]
    assert storage.read_bytes("deep/file.bin") == b"before"


def test_bytes_round_trip(storage):
    assert not storage.exists("deep/er/file.bin")
    storage.write_bytes("deep/er/file.bin", b"one")
    storage.write_bytes("deep/er/file.bin", b"other")
    assert storage.exists("deep/er/file.bin")
    assert not storage.exists("deep")
    assert storage.read_bytes("deep/er/file.bin") == b"other"
    storage.write_bytes("deep/a b%20=1.bin", b"third")
    assert (storage.describe("deep/er/file.bin").rows, storage.describe("deep/er/file.bin").bytes) == (None, 5)
    for path, data in (("deep/er/file.bin", b"other"), ("deep/a b%20=1.bin", b"third")):
        assert read_whole(*resolve(storage.uri(path))) == data


def test_table_round_trip(storage):
    path = "features/status=ok/part-000000.parquet"
    info = storage.write_table(path, TABLE)
    data = storage.read_bytes(path)
    assert info == FileInfo(path=path, rows=3, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    assert storage.describe(path) == info
    assert storage.read_table(path).equals(TABLE)  # no column "status" from the folder's name
    assert storage.read_table(path, ["uri"]).equals(TABLE.select(["uri"]))
    metadata = pq.ParquetFile(pa.BufferReader(data)).metadata
    assert metadata.row_group(0).column(0).compression == "ZSTD"
    assert storage.write_table(path, TABLE) == info  # the same table gives the same bytes


def test_floats_get_no_dictionary_and_labels_do(tmp_path):
    """Of the first thousand rows; whatever the kind of list."""
    values = np.random.default_rng(0).integers(0, 5, 4000)
    columns = {"uri": ["a", "b"] * 500, "id": values[:1000], "share": values[:1000].astype(np.float32)}
    flat = {"features": pa.array(values.astype(np.float16)), "labels": pa.array(values)}
    columns |= {name: pa.FixedSizeListArray.from_arrays(leaves, 4) for name, leaves in flat.items()}
    offsets = np.arange(0, 4001, 4)
    columns["ids"] = pa.LargeListArray.from_arrays(pa.array(offsets), flat["labels"])
    columns["cosines"] = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values.astype(np.float32)))
    table = pa.table(columns)
    storage = Storage(str(tmp_path))
    storage.write_table("a.parquet", table)
    group = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0)
    chunks = [group.column(place) for place in range(group.num_columns)]
    coded = {chunk.path_in_schema.split(".")[0] for chunk in chunks if "RLE_DICTIONARY" in chunk.encodings}
    assert coded == {"uri", "id", "labels", "ids"}
    assert storage.read_table("a.parquet") == table


def test_a_folder_that_goes_away_while_it_is_listed(tmp_path):
    """As when a driver clears a stage's folder while somebody looks at the run."""
    storage = Storage(tmp_path)
    busy = """
import os, sys
while True:
    os.mkdir(sys.argv[1])
    os.rmdir(sys.argv[1])
"""
    with subprocess.Popen([sys.executable, "-c", busy, tmp_path / "stage"]) as worker:
        try:
            while not (tmp_path / "stage").exists():
                assert worker.poll() is None
            for _ in range(20_000):
                assert storage.list("stage") == []
            assert worker.poll() is None
        finally:
            worker.kill()


def test_list_is_sorted_and_skips_unfinished_writes(storage):
    assert storage.list() == []
    for name in ("b/2", "b/10", "a", "b/.0123.tmp", "b/.keep", ".0123.tmp", "b/c/.0123.tmp"):
        storage.write_bytes(name, b"12")
    assert storage.list() == [("a", 2), ("b/.keep", 2), ("b/10", 2), ("b/2", 2)]
    assert storage.list("b") == [("b/.keep", 2), ("b/10", 2), ("b/2", 2)]
    assert storage.list("nothing/here") == []


def test_delete_may_run_twice(storage):
    for name in ("a/1", "a/2", "b"):
        storage.write_bytes(name, b"")
    for _ in range(2):
        storage.delete("b")
        storage.delete_tree("a")
    assert storage.list() == []


def test_errors_name_the_file(storage):
    for read in (storage.read_bytes, storage.read_table, storage.describe):
        with fails(FileNotFoundError, "run/none.parquet"):
            read("none.parquet")
    storage.write_bytes("bad.parquet", b"no parquet")
    for read in (storage.read_table, storage.describe):
        with fails(StorageError, "bad.parquet"):
            read("bad.parquet")
    storage.write_table("a.parquet", TABLE)
    with fails(ValueError, "no column ['label']; it has ['image_id', 'uri']"):
        storage.read_table("a.parquet", ["label"])


@pytest.mark.parametrize("path", ["../x", "/x", "a//x", "a/./x", "a/"])
def test_paths_stay_below_the_root(storage, path):
    for call in (lambda: storage.write_bytes(path, b""), lambda: storage.delete_tree(path)):
        with fails(ValueError, "no path below a root"):
            call()
    with fails(ValueError, "no path below a root"):
        storage.delete_tree("")


def test_pickles_as_its_root(storage):
    storage.write_bytes("a", b"1")
    copy = pickle.loads(pickle.dumps(storage))  # noqa: S301, our own bytes
    assert copy.read_bytes("a") == b"1"
    assert copy.root == storage.root


def test_relative_and_file_roots_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Storage("run/").root == str(tmp_path / "run")
    assert Storage(f"file://{tmp_path}/a%20b").root == str(tmp_path / "a b")
    assert Storage("a%20b").root == str(tmp_path / "a%20b")
    assert Storage("run").uri("x/y=1/ü") == str(tmp_path / "run/x/y=1/ü")


def test_object_store_uris_keep_their_options():
    options = "?region=us-east-1&endpoint_override=localhost:1&scheme=http"
    storage = Storage("s3://bucket/run/" + options)
    assert storage.full_path("x/a b") == "bucket/run/x/a b"
    assert storage.uri("x/status=ok/a b") == "s3://bucket/run/x/status=ok/a%20b" + options
    assert resolve(storage.uri("x/a b"))[1] == "bucket/run/x/a b"


@pytest.mark.parametrize("uri", ["", "nope://bucket/x", "s3://bucket/a b?region=us-east-1"])
def test_bad_locations(uri):
    with fails(ValueError, "s3://"):
        Storage(uri)


@pytest.fixture(autouse=True)
def _empty_memory_store():
    yield
    fsspec.filesystem("memory").store.clear()


def test_any_flipped_byte_is_seen_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(locations.time, "sleep", lambda seconds: None)  # some damage looks like a cut transfer
    storage = Storage(tmp_path)
    info = storage.write_table("a.parquet", TABLE)
    data = storage.read_bytes("a.parquet")
    unreadable = 0
    for place in range(0, len(data), 7):
        storage.write_bytes("a.parquet", data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with contextlib.suppress(StorageError, MemoryError):
            assert storage.describe("a.parquet") != info
            storage.read_table("a.parquet")  # may go well: only the digest sees a changed value
            continue
        unreadable += 1
    assert unreadable > 10


@pytest.mark.parametrize("size", [0, 1, 100_000, 20_000_000])
def test_files_of_any_size(s3_server, size):
    storage = Storage(s3_server.uri(f"{s3_server.bucket()}/run"))
    data = os.urandom(size)
    storage.write_bytes("a", data)
    assert storage.read_bytes("a") == data
    assert storage.describe("a").sha256 == hashlib.sha256(data).hexdigest()
    assert abort_uploads(storage.root) == 0


@pytest.mark.parametrize(("rows", "requests"), [(1000, 1), (400_000, 4)])
def test_a_small_table_is_one_request_and_of_a_large_one_only_the_columns_are_read(s3_server, rows, requests):
    storage = Storage(s3_server.uri(f"{s3_server.bucket()}/run"))
    numbers = np.random.default_rng(0).integers(0, 2**62, (2, rows))
    storage.write_table("a.parquet", pa.table({"a": numbers[0], "b": numbers[1]}))
    with FaultProxy(s3_server.port) as proxy:
        behind = Storage(storage.root.replace(str(s3_server.port), str(proxy.port)))
        assert behind.read_table("a.parquet", ["b"]) == storage.read_table("a.parquet").select(["b"])
        assert proxy.done["requests"] <= requests
    with fails(FileNotFoundError, "/run/b.parquet"):
        storage.read_table("b.parquet")


@pytest.mark.parametrize("size", [200_000, 20_000_000])
def test_a_cut_upload_leaves_what_was_there_before(s3_server, size, monkeypatch):
    bucket = s3_server.bucket()
    Storage(s3_server.uri(f"{bucket}/run")).write_bytes("a", b"old")
    monkeypatch.setattr(locations.retried, "__kwdefaults__", {"patience": 0.0, "what": "it"})
    with FaultProxy(s3_server.port) as proxy:
        proxy.on_request = lambda method, path: "cut_up" if method == "PUT" else None
        storage = Storage(s3_server.uri(f"{bucket}/run", port=proxy.port))
        with fails(UnavailableError, "/run/a?"):
            storage.write_bytes("a", b"new" * (size // 3))
        assert storage.read_bytes("a") == b"old"
        assert storage.list() == [("a", 3)]
    assert abort_uploads(storage.root.replace(str(proxy.port), str(s3_server.port))) == 0


def test_a_cut_body_is_not_a_file(s3_server, monkeypatch):
    bucket = s3_server.bucket()
    storage = Storage(s3_server.uri(f"{bucket}/run"))
    storage.write_bytes("a", b"1" * 300_000)
    numbers = np.random.default_rng(0).integers(0, 2**62, 400_000)
    storage.write_table("large.parquet", pa.table({"a": numbers}))
    monkeypatch.setattr(locations.retried, "__kwdefaults__", {"patience": 0.0, "what": "it"})
    with FaultProxy(s3_server.port, cut_down=1.0) as proxy:
        behind = Storage(s3_server.uri(f"{bucket}/run", port=proxy.port))
        for read, name in ((behind.read_bytes, "a"), (behind.describe, "a"), (behind.read_table, "large.parquet")):
            with fails(UnavailableError, f"{bucket}/run/{name}"):
                read(name)


def test_too_little_memory_is_no_fault_of_the_file(tmp_path, monkeypatch):
    storage = Storage(tmp_path)
    storage.write_table("a.parquet", TABLE)

    def full(*_, **__):
        raise pa.ArrowMemoryError("malloc of size 64 failed")

    monkeypatch.setattr(pq, "ParquetFile", full)
    for read in (storage.read_table, storage.describe):
        with fails(MemoryError, tmp_path / "a.parquet", "malloc of size 64 failed"):
            read("a.parquet")


def test_tensors_round_trip(storage):
    tensors = {"w": torch.arange(6.0).reshape(2, 3), "empty": torch.empty(0, 4)}
    info = storage.write_tensors("w.safetensors", tensors)
    assert storage.describe("w.safetensors") == info
    same = storage.read_tensors("w.safetensors")
    assert all(torch.equal(same[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    "header",
    [
        *({"w": {"dtype": kind, "shape": [2], "data_offsets": [0, 1]}} for kind in ("F4", "F6_E2M3", "F6_E3M2")),
        *({"w": {"dtype": kind, "shape": [1], "data_offsets": [0, 1]}} for kind in ("F8_E8M0", "C64", "Q9")),
        {"w": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 8]}},
        {"w": {"dtype": "F32", "shape": [-1], "data_offsets": [8, 0]}},
        *([], 1, "x", {"w": []}, {"w": None}),
    ],
    ids=str,
)
def test_hostile_headers_of_tensors(tmp_path, header):
    text = json.dumps(header).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with fails(StorageError, tmp_path / "w.safetensors"):
        Storage(tmp_path).read_tensors("w.safetensors")
