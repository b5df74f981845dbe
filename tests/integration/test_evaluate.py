"""Evaluation counts shard by shard; what no shard shows by itself is found all the same."""

import pyarrow as pa
import pytest

from icce_ray import pipeline
from icce_ray.store import RunError
from tests.failures import fails


def test_a_key_that_images_of_two_shards_share_is_no_label(copy, tmp_path):
    marker = copy.require("predict")
    files = []
    for info in marker.files:  # in each shard one image of the same key, as in two tar files
        table = copy.storage.read_table(info.path)
        keys = ["twice.png", *table["key"].to_pylist()[1:]]
        changed = table.set_column(table.column_names.index("key"), "key", pa.array(keys))
        files.append(copy.storage.write_table(info.path, changed))
    copy.commit("predict", files, **{name: getattr(marker, name) for name in ("fingerprint", "summary", "seconds")})
    (tmp_path / "labels.csv").write_text("key,label\ntwice.png,3\n0001.png,3\n")
    with fails(RunError, "labels are by key", "label by uri or image_id"):
        pipeline.evaluate_run(copy.root, str(tmp_path / "labels.csv"), verbose=False)


@pytest.mark.parametrize("labels", ["uri,label\nnowhere.png,1\n", "uri,label\n"])
def test_labels_of_none_of_the_images(copy, tmp_path, labels):
    (tmp_path / "labels.csv").write_text(labels)
    with fails(RunError, "labels.csv", "320 images", "uri column"):
        pipeline.evaluate_run(copy.root, str(tmp_path / "labels.csv"), verbose=False)
