"""What the stream makes of errors in tasks, of features beyond float16, and of chunks without a good image."""

import pickle
from hashlib import blake2b
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from ray.exceptions import RayTaskError, UserCodeException

from icce_ray.backbones import BackboneInfo, Features, describe_backbone, load_backbone
from icce_ray.io.decode import decode
from icce_ray.io.locations import UnavailableError
from icce_ray.io.sources import SourceSpec, find_source, open_source
from icce_ray.progress import Progress
from icce_ray.settings import EmbedSettings, ResourceSettings
from icce_ray.stages import listing
from icce_ray.stages.chunks import Embedder, write
from icce_ray.stages.cluster import Resources
from icce_ray.stages.embed import Pool, check_memory, described_input, needs_of, run_stream
from icce_ray.stages.features import list_column
from icce_ray.stages.reading import read, split
from icce_ray.stages.stream import Stream, TaskError, errors_for_the_driver, packed, unpacked
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


def stream(root="", **values):
    """Of features, which need no backbone, unless `values` say otherwise."""
    source, embed = open_source(SourceSpec("features.npy", format="features", dim=2)), EmbedSettings()
    kept = {"source": source, "embed": embed, "info": described_input(source, embed), "batch": 64} | values
    return Stream(root=root, accepted=FEATURES, rejected=REJECTS, **kept)


def block_of(features):
    """A chunk as the reading task gives it."""
    rows, nothing = len(features), pa.nulls(len(features), pa.string())
    numbers, names = pa.array(range(rows), pa.int64()), pa.array([f"{row}" for row in range(rows)])
    table = {"chunk": pa.array([0] * rows, pa.int64()), "chunk_rows": pa.array([rows] * rows, pa.int64())}
    table |= {"image_id": numbers, "uri": names, "key": names, "reason": nothing, "detail": nothing}
    return packed(pa.table(table | {"features": list_column(np.array(features, np.float32))}))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Ray, which an actor asks how many threads it may use, is not there."""
    monkeypatch.setattr("icce_ray.stages.chunks.threads_here", lambda sharers: 1)


@pytest.mark.parametrize(
    ("scale", "reason", "fact"), [(1e6, "nonfinite_feature", "divide"), (1e-9, "zero_feature", "multiply")]
)
def test_features_that_float16_cannot_hold_are_rejects_that_say_what_helps(scale, reason, fact, tmp_path):
    embedder = Embedder(stream=stream(str(tmp_path)), device="cpu", sharers=1)
    (done,) = unpacked(embedder(block_of([[1.0, 2.0], [scale, 2 * scale]])))
    assert done["reason"].to_pylist() == [None, reason]
    assert fact in done["detail"][1].as_py()
    assert done["features"].to_pylist() == [[1.0, 2.0], [0.0, 0.0]]


def test_a_shard_without_rows_has_the_columns_of_any_other(tmp_path):
    embedder = Embedder(stream=stream(str(tmp_path)), device="cpu", sharers=1)
    schemas = []
    for name, features in (("some", [[1.0, 2.0], [0.0, 0.0]]), ("none", [[0.0, 0.0]])):
        root = str(tmp_path / name)
        write(embedder(block_of(features)), stream=stream(root))
        table = Store(root).storage.read_table(FEATURES.part(0))
        schemas.append(table.schema)
        assert len(table) == len(features) - 1
        assert Store(root).storage.read_table(REJECTS.part(0))["reason"].to_pylist() == ["zero_feature"]
    assert schemas[0].equals(schemas[1])
    assert schemas[0].names == ["image_id", "uri", "key", "features"]


def streamed(made, embedder):
    """What `write` gets of the first chunk."""
    pieces = split(pa.table({"chunk": [0]}), stream=made)
    return pa.concat_tables(embedder(block) for piece in pieces for block in read(piece, stream=made))


def test_the_walk_of_an_image_to_its_row_and_what_travels_pickles(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    good = {name: encode(scene(40, 60), kind) for name, kind in (("a.png", "PNG"), ("c.jpg", "JPEG"))}
    for name, data in {**good, "b.jpg": b"", "d.png": b"no picture", "e.jpg": bytes(2000)}.items():
        (tmp_path / "images" / name).write_bytes(data)
    source, store = find_source(SourceSpec(str(tmp_path / "images"))), Store(str(tmp_path / "run"))
    listing.run(source, store, Progress(), rows_per_shard=5)
    embed = EmbedSettings(backbone="hog", features="hog", max_bytes=1999)
    info = described_input(source, embed)
    made = stream(store.root, source=source, embed=embed, info=info, batch=2)
    made = pickle.loads(pickle.dumps(made))  # noqa: S301 - as Ray sends it
    monkeypatch.setattr("icce_ray.stages.stream.BLOCK_BYTES", 1)
    blocks = streamed(made, Embedder(stream=made, device="cpu", sharers=1))
    assert [len(rows) for rows in unpacked(blocks)] == [2, 2, 1]
    write(blocks, stream=made)
    rows = {row["key"]: row for row in store.storage.read_table(FEATURES.part(0)).to_pylist()}
    for name, data in good.items():
        pixels = decode(data, size=info.image_size, resize="squash", max_pixels=10**6)
        np.testing.assert_array_equal(
            np.array(rows[name]["features"], np.float16),
            load_backbone(info).embed(pixels[None]).main[0].astype(np.float16),
        )
        assert (rows[name]["width"], rows[name]["height"]) == (60, 40)
        assert rows[name]["digest"] == blake2b(data, digest_size=16).digest()
        assert 0.3 < rows[name]["sharpness"] <= 1
    rejects = {row["key"]: row["reason"] for row in store.storage.read_table(REJECTS.part(0)).to_pylist()}
    assert rejects == {"b.jpg": "empty", "d.png": "not_an_image", "e.jpg": "too_many_bytes"}
    assert set(rows) == set(good)


def test_a_chunk_that_came_in_part_or_out_of_order_is_an_error(tmp_path):
    made = stream(str(tmp_path))
    (rows,) = unpacked(Embedder(stream=made, device="cpu", sharers=1)(block_of([[1.0, 2.0], [3.0, 4.0]])))
    first, last = packed(rows.slice(0, 1)), packed(rows.slice(1))
    other = packed(rows.slice(0, 1).set_column(0, "chunk", pa.array([7])))
    for blocks, facts in (((first,), "1 of 2"), ((last, first), "2 of 2"), ((first, last, other), "of 3")):
        with fails(RunError, "chunk 0", facts):
            write(pa.concat_tables(blocks), stream=made)
    write(pa.concat_tables((first, last)), stream=made)


class Recorder:
    """A backbone whose features are the number of pictures in the batch, so that another batch shows."""

    def __init__(self, info):
        self.info, self.batches = info, []

    def embed(self, pixels):
        self.batches.append(len(pixels))
        return Features(np.full((len(pixels), self.info.dim), len(pixels), np.float32))


@pytest.mark.parametrize("block_bytes", [1, 7 * 3072, 40 << 20])
def test_the_batches_of_a_chunk_are_the_same_whatever_the_size_of_its_blocks(block_bytes, tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    for number in range(20):
        (tmp_path / f"images/{number:02d}.png").write_bytes(b"" if number in (0, 9) else encode(scene(32, 32), "PNG"))
    source, store = find_source(SourceSpec(str(tmp_path / "images"))), Store(str(tmp_path / "run"))
    listing.run(source, store, Progress(), rows_per_shard=20)
    monkeypatch.setattr("icce_ray.stages.stream.BLOCK_BYTES", block_bytes)
    embed = EmbedSettings(backbone="hog", features="hog")
    made = stream(store.root, source=source, embed=embed, info=described_input(source, embed), batch=3)
    embedder = Embedder(stream=made, device="cpu", sharers=1)
    embedder.backbone = Recorder(made.info)
    assert len(streamed(made, embedder)) == {1: 7, 7 * 3072: 4, 40 << 20: 1}[block_bytes]
    assert embedder.backbone.batches == [2, 3, 3, 2, 3, 3, 2]


def test_a_shard_that_no_node_has_the_memory_for_is_an_error_beforehand(monkeypatch):
    nodes = [{"Alive": True, "Resources": {"memory": 3e9}}, {"Alive": False, "Resources": {"memory": 9e9}}]
    monkeypatch.setattr("icce_ray.stages.embed.ray.nodes", lambda: nodes)
    made = stream(info=describe_backbone("hog", "hog", image_size=224), source=None)
    check_memory(needs_of(made, 1024), Pool(4, 4, 1.0, sharers=4), 1024)
    for rows, actors in ((10**6, 4), (1024, 500)):
        with fails(RunError, f"shards of {rows} rows", f"{actors} actors", "3.0 GB", "embed.rows_per_shard"):
            check_memory(needs_of(made, rows), Pool(actors, actors, 1.0, sharers=actors), rows)


LARGE = BackboneInfo(name="dinov2", features="cls", dim=2048, image_size=224, layout={}, block_dim=4096)


def test_a_task_of_a_shard_of_32768_rows_of_vit_large_needs_less_than_3_gb():
    assert max(needs_of(stream(info=LARGE, source=None), 32_768)) < 3e9


@pytest.mark.parametrize(
    ("values", "device"),
    [
        ({"source": None, "info": LARGE}, "cuda"),
        ({"source": None, "info": describe_backbone("hog", "hog")}, "cpu"),
        ({}, "cpu"),
    ],
    ids=["dinov2", "hog", "npy"],
)
def test_gpus_are_asked_for_only_where_the_backbone_runs_there(values, device, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("icce_ray.stages.embed._written", lambda *args: asked.append(args[-1]) or ())
    monkeypatch.setattr(Store, "require", lambda self, stage: SimpleNamespace(files=[SimpleNamespace(rows=0)]))
    run_stream(stream(str(tmp_path), **values), ResourceSettings(), Resources("cuda", 8, 1, 8), Progress())
    assert [resources.device for resources in asked] == [device]
