"""Folders of `save_to_disk`: every row's bytes or its reason, what counts among the files, damage named."""

import json
import random
from contextlib import suppress

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icce_ray.io.sources import SourceError, SourceSpec, find_source, open_source
from icce_ray.io.sources.arrow import ArrowStream
from icce_ray.io.stores import HeaderError, StoredFile, resolve
from tests.failures import fails
from tests.forms import IMAGE, write, write_arrow
from tests.sources import bytes_of, listed, rows_give_their_bytes

datasets.disable_progress_bars()
#: A row of each type that says how many buffers it has; one that counts wrongly reads another column's bytes.
EVERY_TYPE = {
    "list": pa.array([[1], []]),
    "map": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())),
    "null": pa.nulls(2),
    "categories": pa.array(["x", "y"]).dictionary_encode(),
    "pair": pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)),
    "union": pa.UnionArray.from_dense(pa.array([0, 0], pa.int8()), pa.array([0, 1], pa.int32()), [pa.array([1, 2])]),
    "view": pa.array([[1], [2]], pa.list_view(pa.int64())),
    "tensor": pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((2, 2, 2), np.float32)),
    "flag": pa.array([True, None]),
    "large": pa.array([b"1", b"22"], pa.large_binary()),
    "image": pa.array([{"bytes": b"333", "path": None}, None], IMAGE),
    "id": pa.array([7, None], pa.int16()),
}


def found(location, **options):
    return find_source(SourceSpec(str(location), **options))


def stream_of(path):
    return ArrowStream(StoredFile(*resolve(str(path))))


@pytest.fixture
def saved(tmp_path):
    """Six rows of real PNG files and odd rows, as the library saves them, in two files."""
    rows = [{"bytes": bytes([number]) * (number + 1), "path": f"{number}.png"} for number in range(4)]
    rows += [None, {"bytes": b"", "path": "5.png"}]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    data = datasets.Dataset.from_dict({"image": rows, "label": [0, 1] * 3}, features=features)
    data.save_to_disk(str(tmp_path / "saved"), num_shards=2)
    return tmp_path / "saved"


def test_what_the_library_saves(saved):
    source = found(saved)
    rows = listed(source)
    assert (source.spec.format, source.spec.column) == ("datasets", "image")
    assert rows["key"].to_pylist() == ["0.png", "1.png", "2.png", "3.png", "1", "5.png"]
    assert rows["size"].to_pylist() == [1, 2, 3, 4, None, 0]
    *images, null, nothing = bytes_of(open_source(source.spec), rows, limit=3)
    assert images[:3] == [b"\0", b"\1\1", b"\2\2\2"]
    assert [reject.reason for reject in (images[3], null, nothing)] == ["too_many_bytes", "empty", "empty"]


def test_caches_beside_it_are_not_part_of_it(saved):
    write_arrow(saved / "cache-0123.arrow", pa.table({"other": [1]}))
    source = found(saved)
    assert (len(listed(source)), source.left_out["other files"]) == (6, 3)
    one = found(saved / "data-00001-of-00002.arrow")
    assert listed(one)["container"].to_pylist() == [""] * 3


def test_a_dataset_saved_in_its_place_is_seen(saved):
    def digest():
        source = open_source(found(saved).spec)
        list(source.files())
        return source.digest()

    before = digest()
    assert digest() == before
    state = json.loads((saved / "state.json").read_text())
    (saved / "state.json").write_text(json.dumps(state | {"_fingerprint": "of another"}))
    assert digest() != before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"_data_files": [{"filename": "../secret.arrow"}]}, ["'../secret.arrow'", "this folder"]),
        ({"_data_files": [{"filename": "gone.arrow"}]}, ["lacks 1 of the files", "'gone.arrow'"]),
        ({"_indices_data_files": [{"filename": "x.arrow"}]}, ["indices", "save the dataset again"]),
        ({"_data_files": 7}, ["state.json", "_data_files"]),
    ],
)
def test_a_state_that_cannot_be(saved, change, says):
    state = json.loads((saved / "state.json").read_text())
    (saved / "state.json").write_text(json.dumps(state | change))
    with fails(SourceError, *says):
        found(saved)


def test_splits_and_other_folders_say_what_to_give(saved, tmp_path):
    (tmp_path / "both").mkdir()
    saved.rename(tmp_path / "both" / "train")
    (tmp_path / "both" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with fails(SourceError, "splits train, test", f"{tmp_path}/both/train"):
        found(tmp_path / "both")
    (tmp_path / "both" / "dataset_dict.json").unlink()
    with fails(SourceError, "save_to_disk", "state.json"):
        found(tmp_path / "both")


def test_every_type_of_column_keeps_its_own_buffers(tmp_path):
    names = random.Random(0).sample(list(EVERY_TYPE), len(EVERY_TYPE))
    table = pa.table({name: EVERY_TYPE[name] for name in names})
    write_arrow(tmp_path / "a.arrow", table)
    stream = stream_of(tmp_path / "a.arrow")
    (batch,) = stream.batches
    assert list(stream.values("image.bytes", [0, 1], 9)) == [b"333", None]
    assert list(stream.values("large", [0, 0, 1], 1)) == [b"1", b"1", 2]
    for name in ("id", "flag", "image.path"):
        expected = [None, None] if name == "image.path" else EVERY_TYPE[name].to_pylist()
        assert stream.column(batch, name).to_pylist() == expected
    with fails(HeaderError, "'map'", "nested"):
        stream.column(batch, "map")


@pytest.mark.parametrize(
    ("table", "options", "says"),
    [
        ({"image": pa.array([b"1"], pa.binary_view())}, {}, ["binary_view", "write it as binary"]),
        ({"image": pa.array([b"1"] * 99)}, {"compression": "zstd"}, ["compressed", "without compression"]),
    ],
)
def test_what_is_not_read(tmp_path, table, options, says):
    table, path = pa.table(table), tmp_path / "a.arrow"
    chosen = pa.ipc.IpcWriteOptions(**options)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema, options=chosen) as writer:
        writer.write_table(table)
    with fails(SourceError, "a.arrow", *says):
        listed(found(path))


@pytest.fixture(scope="module")
def hundred(tmp_path_factory):
    """Images by row, the folder, and its rows."""
    draw = random.Random(0)
    images = sorted((f"{row:03d}.png", draw.randbytes(draw.choice([1, 500, 20000]))) for row in range(100))
    folder = tmp_path_factory.mktemp("arrow")
    write("datasets", images, folder)
    return [data for _, data in images], folder, listed(found(folder))


@settings(deadline=None, max_examples=50)
@given(chosen=st.lists(st.integers(0, 99), min_size=1))
def test_any_rows_in_any_order_give_their_bytes(hundred, chosen):
    images, folder, rows = hundred
    rows_give_their_bytes(found(folder), rows, images, chosen)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_damage_is_a_reject_or_an_error_and_never_more(hundred, tmp_path_factory, seed):
    """A file cut or overwritten anywhere: listing it names it, reading it gives bytes or a reason for every row."""
    _, folder, rows = hundred
    draw, path = random.Random(seed), tmp_path_factory.mktemp("damaged") / "a.arrow"
    data = bytearray((folder / "data-00000-of-00003.arrow").read_bytes())
    headers = [at for at in range(0, len(data) - 8, 8) if data[at : at + 4] == b"\xff\xff\xff\xff"]
    at = draw.choice([draw.randrange(len(data)), draw.choice(headers) + draw.randrange(400)])
    value = draw.choice([b"\xff" * 8, b"\0" * 8, draw.randbytes(draw.randrange(1, 9)), b"\x7f"])
    data = data[:at] if draw.random() < 0.2 else data[:at] + value + data[at + len(value) :]
    path.write_bytes(data)
    with suppress(SourceError):  # and nothing else
        listed(found(path, format="datasets", column="image"))
    source = open_source(SourceSpec(str(path), "datasets", "image"))
    part = rows.slice(0, 34).set_column(3, "container", pa.array([""] * 34))
    assert len(bytes_of(source, part)) == 34
