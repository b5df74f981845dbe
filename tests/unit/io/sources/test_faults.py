"""Files in stores as readers see them: the same bytes whatever the read-ahead; faults tried again or named."""

import io
import random
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icce_ray.io import locations
from icce_ray.io.locations import UnavailableError
from icce_ray.io.sources import SourceSpec, find_source, open_source
from icce_ray.io.sources.walk import one_ahead
from icce_ray.io.stores import StoredFile
from tests.failures import fails
from tests.servers.proxy import FaultProxy
from tests.sources import bytes_of


def test_streams_one_after_the_other():
    started = []

    def stream(number):
        started.append(number)
        yield from range(number * 10, number * 10 + number)

    assert list(one_ahead((stream(number) for number in range(6)), width=2)) == [
        number * 10 + item for number in range(6) for item in range(number)
    ]
    assert sorted(started) == list(range(6))


def test_no_more_streams_are_open_than_asked_for_and_all_are_closed():
    opened = set()

    def stream(number):
        opened.add(number)
        try:
            yield from range(3)
        finally:
            opened.discard(number)

    items = one_ahead((stream(number) for number in range(100)), width=4)
    for _ in range(20):
        next(items)
        assert len(opened) <= 4
    items.close()
    assert opened == set()


def test_an_error_of_a_stream_comes_in_its_place():
    def stream(number):
        yield number
        if number == 2:
            raise ValueError("number 2")

    items = one_ahead(stream(number) for number in range(5))
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with fails(ValueError, "number 2"):
        next(items)


@pytest.fixture
def three_forms(moto):
    """Images, and their keys below a bucket as a tar, as Parquet and as features."""
    draw = random.Random(0)
    images = [draw.randbytes(20_000) for _ in range(40)]
    tar, table, array = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as file:
        for number, data in enumerate(images):
            info = tarfile.TarInfo(f"{number:02d}.jpg")
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    pq.write_table(pa.table({"jpg": images}), table, row_group_size=10)
    np.save(array, np.frombuffer(b"".join(images), np.uint8).reshape(40, -1).astype(np.float16))
    bucket = moto.bucket()
    for name, file in [("a.tar", tar), ("a.parquet", table), ("a.npy", array)]:
        moto.client.put_object(Bucket=bucket, Key=name, Body=file.getvalue())
    return images, bucket


@pytest.mark.parametrize("faults", [{"busy": 0.3}, {"cut_down": 0.3}], ids=str)
@pytest.mark.parametrize("name", ["a.tar", "a.parquet", "a.npy"])
def test_faults_of_the_line_change_nothing(moto, three_forms, name, faults, monkeypatch):
    monkeypatch.setattr(locations, "_LONGEST_PAUSE", 0.05)
    images, bucket = three_forms
    with FaultProxy(moto.port, **faults) as proxy:
        source = find_source(SourceSpec(moto.uri(f"{bucket}/{name}", port=proxy.port)))
        rows = pa.concat_tables(source.listing())
        if name == "a.npy":
            array = open_source(source.spec).features(rows)
            found = [row.astype(np.uint8).tobytes() for row in array]
        else:
            found = bytes_of(open_source(source.spec), rows)
        assert proxy.done["requests"] > 5
    assert found == images


@pytest.mark.parametrize("name", ["a.tar", "a.parquet", "a.npy"])
def test_a_store_that_is_gone_is_no_reject(moto, three_forms, name, monkeypatch):
    _, bucket = three_forms
    source = find_source(SourceSpec(moto.uri(f"{bucket}/{name}")))
    rows = pa.concat_tables(source.listing())

    def gone(*_):
        raise UnavailableError("the store did not answer")

    monkeypatch.setattr(StoredFile, "read_at", gone)
    again = open_source(source.spec) if name != "a.npy" else source
    with fails(UnavailableError, "did not answer"):
        bytes_of(again, rows) if name != "a.npy" else again.features(rows)
    with fails(UnavailableError, "did not answer"):
        list(open_source(source.spec).listing())
