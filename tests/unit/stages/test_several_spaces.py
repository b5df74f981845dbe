"""Several feature spaces of images: each image is decoded once, and has features in all spaces or in none."""

import numpy as np
import pyarrow as pa
import pytest

from icce_ray.backbones import describe_backbone, load_backbone
from icce_ray.backbones.several import describe_several
from icce_ray.io import decode as decoding
from icce_ray.io.sources import SourceSpec, find_source
from icce_ray.progress import Progress
from icce_ray.settings import EmbedSettings
from icce_ray.stages import listing
from icce_ray.stages.chunks import Embedder, write
from icce_ray.stages.features import classifier_inputs
from icce_ray.stages.reading import read, split
from icce_ray.stages.spans import spans_of
from icce_ray.stages.stream import Stream
from icce_ray.store import Store
from icce_ray.store.artifacts import FEATURES, REJECTS
from icce_ray.store.views import is_precomputed
from tests.pictures import encode, scene

INFO = describe_several(
    {
        "shape": describe_backbone("hog", "hog", image_size=24),
        "both": describe_backbone("hog", "hog+color", image_size=48),
    }
)


@pytest.fixture
def shards(tmp_path, monkeypatch):
    """The rows of two pictures and a third without any gradient, which HOG makes nothing of; how often was decoded."""
    monkeypatch.setattr("icce_ray.stages.chunks.threads_here", lambda sharers: 1)
    opened, opening = [], decoding._open
    monkeypatch.setattr(decoding, "_open", lambda data, most: (opened.append(data), opening(data, most))[1])
    (tmp_path / "images").mkdir()
    for name, picture in (("a", scene(40, 60)), ("b", scene(50, 30)), ("flat", np.full((30, 30, 3), 200, np.uint8))):
        (tmp_path / "images" / f"{name}.png").write_bytes(encode(picture, "PNG"))
    source, store = find_source(SourceSpec(str(tmp_path / "images"))), Store(str(tmp_path / "run"))
    listing.run(source, store, Progress(), rows_per_shard=5)
    tables = {"accepted": FEATURES, "rejected": REJECTS}
    made = Stream(source=source, root=store.root, embed=EmbedSettings(), info=INFO, batch=2, **tables)
    pieces = split(pa.table({"chunk": [0]}), stream=made)
    embedder = Embedder(stream=made, device="cpu", sharers=1)
    write(pa.concat_tables(embedder(block) for piece in pieces for block in read(piece, stream=made)), stream=made)
    return store.storage.read_table(FEATURES.part(0)), store.storage.read_table(REJECTS.part(0)), opened


def test_an_image_is_decoded_once_for_all_backbones(shards, tmp_path):
    accepted, _, opened = shards
    assert len(opened) == 3
    data = (tmp_path / "images" / "a.png").read_bytes()
    for info, (start, stop) in zip(INFO.models, spans_of(INFO).values(), strict=True):
        square = decoding.decode(data, size=info.image_size, resize=info.preprocessing.resizing, max_pixels=10**6)
        alone = load_backbone(info).embed(square[None]).main[0].astype(np.float16)
        np.testing.assert_array_equal(np.array(accepted["features"][0].as_py()[start:stop], np.float16), alone)


def test_an_image_without_a_feature_in_one_space_is_a_reject_in_all(shards):
    accepted, rejected, _ = shards
    assert accepted["key"].to_pylist() == ["a.png", "b.png"]
    assert rejected.select(["key", "reason"]).to_pylist() == [{"key": "flat.png", "reason": "zero_feature"}]


def test_columns_of_each_space_and_inputs_of_the_classifier():
    spans = spans_of(INFO)
    assert spans == {"shape": (0, 324), "both": (324, 696)}
    assert spans_of(INFO.models[1]) == {}
    inputs = classifier_inputs(INFO.layout, INFO.dim, INFO.block_dim, spans)
    assert inputs == {"shape": [(0, 324)], "both": [(324, 696)], "shape+both": [(0, 696)]}
    assert is_precomputed({"hog.features": [0, 3], "b.features": [3, 4]})
    assert not is_precomputed({name: list(span) for name, span in INFO.layout.items()})
