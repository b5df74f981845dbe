"""Decisions about the classes of a run become a version of it: the same one, whatever was killed in between."""

import json
import shutil

import numpy as np
import pytest

from icce_ray import commands, refining
from icce_ray.store import Store
from icce_ray.store.artifacts import CONSENSUS, PREDICTIONS
from icce_ray.store.verify import violations
from icce_ray.store.versions import labelling, version_of, versions
from tests.barriers import barrier

from .conftest import write_digits
from .drivers import Driver, rows, shared_cluster, stamps


def decided(run, folder, **what):
    """A file of decisions about a run or a version."""
    content = {"format": "icce-decisions", "version": 1, "run": labelling(run), **what}
    path = folder / f"decisions-{len(list(folder.glob('decisions-*')))}.json"
    path.write_text(json.dumps(content))
    return path


def everything(run):
    """Merge, split, reject and rename, and move an image to a class that is none of these; the image too."""
    labels = {row["image_id"]: row["label"] for row in rows(run, PREDICTIONS.path)}
    sizes = np.bincount(list(labels.values()), minlength=10)
    largest, *others = np.argsort(-sizes).tolist()
    merged, plain, rejected = others[:2], others[2], others[-1]
    image = next(image for image, label in labels.items() if label == merged[0])
    what = {"merge": [merged], "split": {str(largest): 2}, "reject": [rejected], "rename": {str(plain): "plain"}}
    return what | {"move": [{"image_id": image, "key": f"{image:04d}.png", "to": plain}]}, image


def refined(run, path):
    return refining.refine(run.root, str(path), verbose=False)


@pytest.mark.slow(20)
def test_a_version_has_what_was_decided_and_the_run_is_as_before(copy, digits, tmp_path):
    commands.evaluate(copy.root, str(digits[1]), verbose=False)
    (what, image), before = everything(copy), stamps(copy)
    done = refined(copy, decided(copy, tmp_path, **what))
    version = version_of(copy, 1)
    assert (done["version"], done["new"], done["classes"]) == (1, True, 10)
    assert done["evaluation"]["after"]["classifier_seen"]["images"] == 320
    labels = {row["image_id"]: (row["label"], row["confidence"]) for row in rows(version, PREDICTIONS.path)}
    names = {
        line.split(",")[1]: int(line.split(",")[0])
        for line in Store(version.root).storage.read_bytes("names.csv").decode().splitlines()[1:]
    }
    assert set(names) == {"plain", "rejected"}
    assert labels[image] == (names["plain"], 1.0)
    assert stamps(copy).items() >= {name: of for name, of in before.items() if name != "lock.json"}.items()
    assert refined(copy, decided(copy, tmp_path, **what))["new"] is False
    assert list(violations(copy)) == []

    more = write_digits(tmp_path / "more", 20, first=400)
    assert commands.update(version.root, str(tmp_path / "more"), verbose=False)[0]["labelled"] == len(more)
    again = refined(copy, decided(version, tmp_path, rename={"0": "first"}))
    assert (again["version"], list(versions(copy))) == (2, [1, 2])
    second = {row["image_id"]: row["label"] for row in rows(version_of(copy, 2), PREDICTIONS.path)}
    assert second == {image: label for image, (label, _) in labels.items()}
    assert list(violations(copy)) == []


@pytest.mark.slow(60)
@pytest.mark.faults
@pytest.mark.parametrize(
    "place", [f"{CONSENSUS.path}/part-*", "classifier/classifier.json", f"{PREDICTIONS.path}/part-*"]
)
def test_a_killed_refinement_goes_on(finished, tmp_path, ends, place):
    runs = [Store(str(tmp_path / name)) for name in ("unbroken", "killed")]
    for run in runs:
        shutil.copytree(finished.root, run.root)
    unbroken, killed = runs
    path = decided(killed, tmp_path, **everything(killed)[0])
    refined(unbroken, path)
    with barrier(version_of(killed, 1), place, passes=0 if place.endswith("json") else 2) as held:
        Driver(["refine", killed.root, "--decisions", path], tmp_path, ends, shared_cluster()).kill_at(held)
    assert refined(killed, path)["version"] == 1
    for table in (CONSENSUS, PREDICTIONS):
        assert rows(version_of(killed, 1), table.path) == rows(version_of(unbroken, 1), table.path)
    weights = [version_of(run, 1).storage.read_bytes("classifier/classifier.safetensors") for run in runs]
    assert weights[0] == weights[1]
    assert list(violations(killed)) == []
