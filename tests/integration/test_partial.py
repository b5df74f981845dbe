"""Incomplete runs and inputs that do not fit: what a user meets between the stages."""

import pyarrow as pa
import pytest

from icce_ray import commands, pipeline
from icce_ray.report.labels import headline
from icce_ray.store import RunError
from icce_ray.store.artifacts import MARKER, STAGES
from tests.failures import fails

from .conftest import tiny, write_digits


def test_heads_without_a_consensus_can_be_evaluated_and_shown(copy, digits):
    for stage in ("predict", "classifier", "consensus"):
        copy.storage.delete(f"{STAGES[stage].folder}/{MARKER}")
    figures = commands.evaluate(copy.root, str(digits[1]), verbose=False)
    assert [name for name, _ in headline(copy, figures)] == [
        f"mean of {copy.settings().heads.heads} heads",
        "best head (lowest loss)",
    ]


@pytest.mark.slow(8)
def test_too_few_usable_images_stop_every_attempt_before_the_neighbors(tmp_path):
    write_digits(tmp_path / "images", 3)
    for index in range(4):
        (tmp_path / f"images/broken{index}.png").write_bytes(b"no image")
    settings = tiny(tmp_path / "images", tmp_path / "run", clusters=5)
    for _ in range(2):  # `embed` is complete at the second attempt
        with fails(RunError, "clusters = 5", "3 of 7 images"):
            pipeline.run(settings, verbose=False)


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
        commands.evaluate(copy.root, str(tmp_path / "labels.csv"), verbose=False)


@pytest.mark.parametrize("labels", ["uri,label\nnowhere.png,1\n", "uri,label\n"])
def test_labels_of_none_of_the_images(copy, tmp_path, labels):
    (tmp_path / "labels.csv").write_text(labels)
    with fails(RunError, "labels.csv", "320 images", "uri column"):
        commands.evaluate(copy.root, str(tmp_path / "labels.csv"), verbose=False)
