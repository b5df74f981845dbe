"""Updates of a run: checked with it, read with it, and told apart from those of another classifier."""

import pyarrow.parquet as pq
import pytest

from icce_ray.export.formats import export_predictions
from icce_ray.progress import Progress
from icce_ray.store import RunError
from icce_ray.store import artifacts as a
from icce_ray.store.updates import bind_update, check_updates, generations, updates
from tests.small_run import finds, replaced
from tests.updated_run import updated


def test_an_update_is_verified_with_its_run(tmp_path):
    run, one = updated(tmp_path / "run")
    finds(run)
    one.storage.write_bytes(a.NOVELTY.path, b"{}")
    finds(run, ("updates/000001", a.NOVELTY.path, "written were"))


def test_an_update_with_a_lost_image_is_found(tmp_path):
    run, one = updated(tmp_path / "run")
    path = a.FEATURES.part(0)
    replaced(one, "embed", path, one.storage.read_table(path).slice(1), ok=1)
    line = ("updates/000001", "3 inputs, but 1 ok and 1 rejected")
    finds(run, line)


def test_an_interrupted_update_is_no_violation_but_nothing_to_export(tmp_path):
    run, _ = updated(tmp_path / "run", stages=("list",))
    finds(run)
    assert len(updates(run)) == 1
    with pytest.raises(RunError, match=r"update 1 .* is not complete; `icce update` finishes it"):
        generations(run)


def test_the_export_has_every_image_once_in_its_last_version(tmp_path):
    run, _ = updated(tmp_path / "run")
    done = export_predictions(run, "parquet", str(tmp_path / "out.parquet"), Progress())
    rows = {row["uri"]: row["label"] for row in pq.read_table(tmp_path / "out.parquet").to_pylist()}
    of_run = {f"file:///photos/{number}.png": label for number, label in zip([0, 1, 2, 5], [0, 0, 1, 1], strict=True)}
    assert rows == of_run | {"new.png": 1, "file:///photos/4.png": 0}
    assert done.images == len(rows)


def test_labels_of_a_classifier_that_was_replaced_are_refused_and_made_again(tmp_path):
    run, one = updated(tmp_path / "run")
    path = a.CLASSIFIER_WEIGHTS.path
    weights = {name: tensor + 1 for name, tensor in run.storage.read_tensors(path).items()}
    replaced(run, "classifier", path, weights)
    with pytest.raises(RunError, match="has labels of a classifier that the run had before"):
        generations(run)
    finds(run, ("updates/000001: predict", "fingerprint"))
    bind_update(one, run, "photos")  # as the next `icce update` does, which then labels again
    assert one.marker("predict") is None
    assert one.marker("embed") is not None
    assert one.storage.list("predictions") == []
    finds(run)


def test_a_run_that_was_listed_again_keeps_no_updates(tmp_path):
    run, _ = updated(tmp_path / "run")
    check_updates(run)
    listed = run.require("list")
    summary = listed.summary | {"digest": "e" * 64}
    run.commit("list", listed.files, fingerprint=listed.fingerprint, summary=summary, seconds=0)
    with pytest.raises(RunError, match=r"listed again since its update 1, .* delete .*updates and update again"):
        check_updates(run)
