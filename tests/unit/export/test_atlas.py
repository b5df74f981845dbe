"""The map as Embedding Atlas reads it."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from icce_ray.export.atlas import SIDE, export_atlas
from icce_ray.progress import Progress
from icce_ray.store import RunError, UsageError
from icce_ray.store.artifacts import CONSENSUS, MAP, PREDICTIONS
from jobs.bench.made_run import make_run, pictures

IMAGES, BROKEN, KEPT = 24, 4, np.arange(0, 24, 2)


class Lines(Progress):
    def __init__(self):
        self.lines = []

    def log(self, text):
        self.lines.append(text)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of large pictures, of which one is broken; every second is on the map, its neighbours the two before it."""
    folder = tmp_path_factory.mktemp("atlas")
    files = pictures(IMAGES, 2 * SIDE, seed=1)
    files[BROKEN] = b"\x89PNG, but no picture"
    (folder / "images").mkdir()
    pq.write_table(
        pa.table({"key": [f"{row:02d}.jpg" for row in range(IMAGES)], "image": files}), folder / "images" / "0.parquet"
    )
    store = make_run(str(folder / "run"), str(folder / "images"), clusters=3, heads=3, epochs=2, neighbors=4)
    labelled = store.storage.read_table(PREDICTIONS.part(0)).take(KEPT)
    lists = pa.array([[KEPT[row - 1], KEPT[row - 2]] for row in range(len(KEPT))], pa.large_list(pa.int64()))
    cosines = pa.array([[0.75, 0.5]] * len(KEPT), pa.large_list(pa.float32()))
    columns = {name: labelled[name] for name in ("image_id", "uri", "key", "label")}
    columns |= {name: pa.array(np.arange(len(KEPT)), pa.float32()) for name in ("x", "y")}
    info = MAP.write(store.storage, pa.table(columns | {"neighbor_ids": lists, "similarities": cosines}))
    store.commit("inspect", [info], fingerprint="x", summary={}, seconds=0)
    return store


@pytest.fixture
def exported(run, tmp_path):
    """(file, what was logged)."""
    names, log = tmp_path / "names.csv", Lines()
    names.write_text("label,name\n1,cat\n")
    assert export_atlas(run, str(tmp_path / "map.parquet"), log, names=str(names)) == len(KEPT)
    return tmp_path / "map.parquet", log.lines


def test_a_row_of_the_map_has_all_that_is_known_of_the_image(run, exported):
    found = pq.read_table(exported[0])
    assert found["image_id"].to_pylist() == KEPT.tolist()
    named = ["class-000", "cat", "class-002"]
    assert found["class"].to_pylist() == [named[label] for label in found["label"].to_pylist()]
    for name, table in (("confidence", PREDICTIONS), ("agreement", CONSENSUS)):
        assert found[name].equals(run.storage.read_table(table.part(0))[name].take(KEPT).cast(pa.float32()))
    # Rows of this file, as Embedding Atlas wants them, not image_ids.
    assert found["neighbors"][3].as_py() == {"ids": [2, 1], "distances": [0.25, 0.5]}


def test_pictures_are_small_and_a_broken_one_is_named(exported):
    path, lines = exported
    shown = pq.read_table(path)["image"].to_pylist()
    assert [row for row, picture in enumerate(shown) if picture is None] == [BROKEN // 2]
    assert lines == ["1 images cannot be read any more: they are there without a picture"]
    assert shown[5]["path"] == "10.jpg"
    assert max(Image.open(io.BytesIO(shown[5]["bytes"])).size) == SIDE


def test_a_run_without_a_map_says_how_to_make_one(run, tmp_path):
    with pytest.raises(UsageError, match=r"end it with \.parquet"):
        export_atlas(run, str(tmp_path / "map.csv"), Progress())
    marker = run.require("inspect")
    run.commit("inspect", [], fingerprint="x", summary={}, seconds=0)
    with pytest.raises(RunError, match=r"no inspection/map\.parquet.*--redo inspect"):
        export_atlas(run, str(tmp_path / "map.parquet"), Progress())
    run.commit("inspect", marker.files, fingerprint="x", summary={}, seconds=0)


@pytest.mark.filterwarnings("default")  # of the libraries that it takes
def test_embedding_atlas_takes_the_file(exported):
    """As its command does: read, with the ranks that it computes for `--image`, and written for its browser."""
    atlas = pytest.importorskip("embedding_atlas.cli", reason="embedding-atlas is not installed")
    metrics = pytest.importorskip("embedding_atlas.graph_metrics")
    from embedding_atlas.utils import to_parquet_bytes

    table = atlas.load_datasets([str(exported[0])])
    assert len(metrics.compute_pagerank_column(table, neighbors="neighbors")) == len(KEPT)
    assert to_parquet_bytes(table)[:4] == b"PAR1"
