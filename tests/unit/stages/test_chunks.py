"""What the stream makes of errors in tasks, of features beyond float16, and of chunks without a good image."""

import pickle

import numpy as np
import pyarrow as pa
import pytest
from ray.exceptions import RayTaskError, UserCodeException

from icce_ray.backbones import load_backbone
from icce_ray.io.decode import decode
from icce_ray.io.locations import UnavailableError
from icce_ray.io.sources import SourceSpec, find_source, open_source
from icce_ray.progress import Progress
from icce_ray.settings import EmbedSettings
from icce_ray.stages import listing
from icce_ray.stages.chunks import Embedder, Stream, TaskError, errors_for_the_driver, read, write
from icce_ray.stages.embed import described_input
from icce_ray.stages.features import list_column
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import FEATURES, REJECTS
from tests.failures import fails
from tests.pictures import encode, scene

MESSAGE = "bucket/x did not answer;\nthe same command resumes"


def test_an_error_of_ours_reaches_the_driver_with_its_own_words():
    with pytest.raises(TaskError) as caught, errors_for_the_driver():
        raise UnavailableError(MESSAGE)
    caught.value.args = (f"{MESSAGE}\nFailed after 1/1 attempts",)  # as Ray Data does to it
    task = RayTaskError("_read", "a traceback", caught.value)
    cause = pickle.loads(pickle.dumps(task)).cause  # noqa: S301 - as Ray sends it
    assert isinstance(cause, RunError)
    assert cause.message == MESSAGE


def test_any_other_is_a_fault_of_the_program():
    with fails(UserCodeException, "KeyError", "a fault") as caught, errors_for_the_driver():
        raise KeyError("a fault")
    assert not isinstance(caught.value, RunError)


def stream(root, source="features.npy"):
    """Of features, which need no backbone."""
    spec = SourceSpec(source, format="features", dim=2)
    source, embed = open_source(spec), EmbedSettings()
    info = described_input(source, embed)
    return Stream(source=source, root=root, embed=embed, info=info, accepted=FEATURES, rejected=REJECTS)


def chunk_of(features):
    """A chunk as the reading task gives it."""
    rows, nothing = len(features), pa.nulls(len(features), pa.string())
    numbers, names = pa.array(range(rows), pa.int64()), pa.array([f"{row}" for row in range(rows)])
    table = {"chunk": pa.array([0] * rows, pa.int64()), "chunk_rows": pa.array([rows] * rows, pa.int64())}
    table |= {"image_id": numbers, "uri": names, "key": names, "reason": nothing, "detail": nothing}
    return pa.table(table | {"features": list_column(np.array(features, np.float32))})


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Ray, which an actor asks how many threads it may use, is not there."""
    monkeypatch.setattr("icce_ray.stages.chunks.threads_here", lambda sharers: 1)


@pytest.mark.parametrize(
    ("scale", "reason", "fact"), [(1e6, "nonfinite_feature", "divide"), (1e-9, "zero_feature", "multiply")]
)
def test_features_that_float16_cannot_hold_are_rejects_that_say_what_helps(scale, reason, fact, tmp_path):
    embedder = Embedder(stream=stream(str(tmp_path)), device="cpu", sharers=1)
    done = embedder(chunk_of([[1.0, 2.0], [scale, 2 * scale]]))
    assert done["reason"].to_pylist() == [None, reason]
    assert fact in done["detail"][1].as_py()
    assert done["features"].to_pylist() == [[1.0, 2.0], [0.0, 0.0]]


def test_a_shard_without_rows_has_the_columns_of_any_other(tmp_path):
    embedder = Embedder(stream=stream(str(tmp_path)), device="cpu", sharers=1)
    schemas = []
    for name, features in (("some", [[1.0, 2.0], [0.0, 0.0]]), ("none", [[0.0, 0.0]])):
        root = str(tmp_path / name)
        write(embedder(chunk_of(features)), stream=stream(root))
        table = Store(root).storage.read_table(FEATURES.part(0))
        schemas.append(table.schema)
        assert len(table) == len(features) - 1
        assert Store(root).storage.read_table(REJECTS.part(0))["reason"].to_pylist() == ["zero_feature"]
    assert schemas[0].equals(schemas[1])
    assert schemas[0].names == ["image_id", "uri", "key", "features"]


def test_the_walk_of_an_image_to_its_row_and_what_travels_pickles(tmp_path):
    (tmp_path / "images").mkdir()
    good = {name: encode(scene(40, 60), kind) for name, kind in (("a.png", "PNG"), ("c.jpg", "JPEG"))}
    for name, data in {**good, "b.jpg": b"", "d.png": b"no picture", "e.jpg": bytes(2000)}.items():
        (tmp_path / "images" / name).write_bytes(data)
    source, store = find_source(SourceSpec(str(tmp_path / "images"))), Store(str(tmp_path / "run"))
    listing.run(source, store, Progress(), rows_per_shard=5)
    embed = EmbedSettings(backbone="hog", features="hog", max_bytes=1999)
    info = described_input(source, embed)
    made = Stream(source=source, root=store.root, embed=embed, info=info, accepted=FEATURES, rejected=REJECTS)
    made = pickle.loads(pickle.dumps(made))  # noqa: S301 - as Ray sends it
    chunk = read(pa.table({"id": [0]}), chunks=np.array([0]), stream=made)
    write(Embedder(stream=made, device="cpu", sharers=1)(chunk), stream=made)
    rows = {row["key"]: row for row in store.storage.read_table(FEATURES.part(0)).to_pylist()}
    for name, data in good.items():
        pixels = decode(data, size=info.image_size, resize=embed.resize, max_pixels=10**6)
        np.testing.assert_array_equal(
            np.array(rows[name]["features"], np.float16),
            load_backbone(info).embed(pixels[None]).main[0].astype(np.float16),
        )
    rejects = {row["key"]: row["reason"] for row in store.storage.read_table(REJECTS.part(0)).to_pylist()}
    assert rejects == {"b.jpg": "empty", "d.png": "not_an_image", "e.jpg": "too_many_bytes"}
    assert set(rows) == set(good)


def test_a_chunk_that_came_in_part_is_an_error(tmp_path):
    table = chunk_of([[1.0, 2.0], [3.0, 4.0]])
    with fails(RunError, "chunk 0", "1 of 2"):
        write(table.slice(0, 1), stream=stream(str(tmp_path)))
