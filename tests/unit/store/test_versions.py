"""A version of a run: it has labels for itself, reads the rest from the run, and neither changes the other."""

from dataclasses import replace

import pytest

from icce_ray.export.formats import export_predictions
from icce_ray.io.storage import StorageError
from icce_ray.progress import Progress
from icce_ray.settings import load
from icce_ray.store import RunError, check_files
from icce_ray.store import artifacts as a
from icce_ray.store.refinement import check_labelling
from icce_ray.store.updates import update_of
from icce_ray.store.verify import violations
from icce_ray.store.versions import (
    chosen_version,
    labelling,
    number_of,
    refinement_of,
    versions,
)
from tests.small_run import FILES, SCORES, SUMMARIES, decided, finds, labels, made, refined, replaced, written


@pytest.fixture
def run(tmp_path):
    return made(tmp_path / "run")


def test_a_version_reads_from_its_run_what_it_has_not(run):
    version = refined(run)
    assert list(versions(run)) == [1]
    assert (number_of(version), number_of(run), version.origin, run.origin) == (1, 0, run.root, None)
    assert version.marker("embed") == run.marker("embed")
    assert version.marker("predict").fingerprint == refinement_of(version).digest() != run.marker("predict").fingerprint
    assert labelling(version) == labelling(run) | {"version": 1}
    assert list(violations(version)) == list(violations(run)) == []


def test_what_is_wrong_with_a_version_is_found_with_its_run(run):
    version = refined(run)
    replaced(version, "predict", a.PREDICTIONS.part(0), labels([0, 1, 2], [0, 0, 5]))
    finds(run, ("versions/1: predict", "label", 5))
    finds(version, ("predict", "label", 5))


def test_a_version_never_writes_to_its_run(run):
    version = refined(run)
    with pytest.raises(StorageError, match=r"belongs to .*run, whose files .*versions/1 only reads"):
        version.storage.write_bytes(a.FEATURES.part(0), b"")
    with pytest.raises(StorageError, match="only reads"):
        version.discard_from("embed")
    with pytest.raises(RunError, match=r"is a refined version of .*run"):
        version.claim(load({"source": "photos", "clusters": 2, "out": version.root}))
    assert list(violations(run)) == []


def test_updates_of_a_version_have_the_features_of_those_of_its_run(run):
    version = refined(run)
    one = update_of(version, 3)
    written(update_of(run, 3), *next(iter(FILES["list"].items())))
    assert one.origin == update_of(run, 3).root
    assert one.parts(a.MANIFEST) == {0}
    one.storage.write_bytes(a.PREDICTION_FILE, b"run: x")
    assert not update_of(run, 3).storage.exists(a.PREDICTION_FILE)


def test_a_run_that_was_repeated_has_no_use_for_its_versions(run):
    version = refined(run)
    replaced(run, "heads", a.HEAD_LOSSES.path, FILES["heads"][a.HEAD_LOSSES.path].slice(0, 3))
    with pytest.raises(RunError, match=r"repeated from stage heads on since .*versions/1 was made"):
        check_files(version, "predict")
    assert any("repeated from stage heads" in line for line in violations(version))


def test_decisions_are_about_the_very_labels(run):
    decisions = decided(run, reject=[1])
    check_labelling(run, decisions)
    other = {a.PREDICTIONS.part(0): labels([0, 1, 2], [0, 1, 1])}
    replaced(run, "predict", *next(iter(other.items())), class_sizes=[1, 4])
    with pytest.raises(RunError, match=r"about other classes: .* decide again"):
        check_labelling(run, decisions)


def test_only_versions_that_are_there_can_be_chosen(run):
    assert chosen_version(run.root, None) == chosen_version(run.root, 0) == run.root
    with pytest.raises(RunError, match=r"--version 1: .*`icce refine` makes the first one"):
        chosen_version(run.root, 1)
    version = refined(run, 2)
    assert chosen_version(run.root, 2) == version.root
    with pytest.raises(RunError, match="give one of 2"):
        chosen_version(run.root, 1)


def test_images_of_rejected_classes_are_not_exported(run, tmp_path):
    version = refined(run)
    done = export_predictions(version, "csv", str(tmp_path / "out.csv"), Progress())
    assert (done.images, done.rejected) == (2, SUMMARIES["predict"]["class_sizes"][1])
    assert [line.split(",")[2] for line in (tmp_path / "out.csv").read_text().splitlines()[1:]] == ["0", "0"]
    assert export_predictions(run, "csv", str(tmp_path / "all.csv"), Progress()).images == 5


def test_a_damaged_refinement_is_named(run):
    version = refined(run)
    version.storage.write_bytes(a.REFINEMENT_FILE, replace(refinement_of(version), base=7).data()[:-60])
    with pytest.raises(RunError, match=r"refinement\.json is damaged"):
        refinement_of(version)
    assert SCORES["cluster_sizes"] == run.marker("consensus").summary["cluster_sizes"]
