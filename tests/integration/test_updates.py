"""A run whose collection grows: what is new is embedded once, also by an update that was killed."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from icce_ray import commands
from icce_ray.io.sources import SourceSpec, find_source
from icce_ray.progress import Progress
from icce_ray.stages import growth
from icce_ray.store import Store
from icce_ray.store.artifacts import FEATURES, PREDICTIONS
from icce_ray.store.updates import generations, update_of
from icce_ray.store.verify import violations
from tests.barriers import barrier

from .conftest import write_digits
from .drivers import Driver, rows, shared_cluster, stamps

FIRST, THEN = 200, 40


def first(folder):
    write_digits(folder, FIRST, first=320)
    return folder


def grown(folder):
    """More images, and one with other bytes than before."""
    write_digits(folder, THEN, first=320 + FIRST)
    (folder / "0330.png").write_bytes((folder / "0331.png").read_bytes() + b"\0")


def updated(run, folder):
    return commands.update(run.root, str(folder), verbose=False)


def embedded(run):
    """How often each image of the updates was embedded."""
    return Counter(row["uri"] for one in generations(run)[1:] for row in rows(one.store, FEATURES.path))


def test_a_folder_that_grows_is_embedded_once(copy, tmp_path):
    before = stamps(copy, "manifest", "features", "predictions", "classifier")
    (figures,) = updated(copy, first(tmp_path / "more"))
    assert (figures["images"], figures["ok"], figures["changed"]) == (FIRST, FIRST, 0)
    kept = stamps(copy, "updates/000001")
    grown(tmp_path / "more")
    (figures,) = updated(copy, tmp_path / "more")
    assert (figures["images"], figures["listed"], figures["changed"]) == (THEN + 1, FIRST + THEN, 1)
    assert updated(copy, tmp_path / "more") == []
    assert updated(copy, copy.settings().source) == []
    assert embedded(copy) == dict.fromkeys((f"{n:04d}.png" for n in range(320, 320 + FIRST + THEN)), 1) | {
        "0330.png": 2
    }
    assert stamps(copy, "manifest", "features", "predictions", "classifier") == before
    assert stamps(copy, "updates/000001") == kept
    assert not Path(copy.root, "updates/000003").exists()
    assert list(violations(copy)) == []


@pytest.mark.slow(60)
@pytest.mark.faults
def test_a_killed_update_goes_on(finished, tmp_path, ends):
    """Killed in the middle of its embedding; before it is given again the folder has grown once more."""
    folder, runs = first(tmp_path / "more"), [Store(str(tmp_path / name)) for name in ("unbroken", "killed")]
    for run in runs:
        shutil.copytree(finished.root, run.root)
    unbroken, killed = runs
    updated(unbroken, folder)
    with barrier(update_of(killed, 1), f"{FEATURES.path}/part-*", passes=2) as held:
        Driver(["update", killed.root, folder], tmp_path, ends, shared_cluster()).kill_at(held)
    begun = {name: time for name, time in stamps(killed, f"updates/000001/{FEATURES.path}").items() if "/part-" in name}
    assert len(begun) == 2
    grown(folder)
    updated(unbroken, folder)
    assert [figures["images"] for figures in updated(killed, folder)] == [FIRST, THEN + 1]
    assert begun.items() <= stamps(killed, "updates/000001").items()
    assert embedded(killed) == embedded(unbroken)
    for one, other in zip(generations(unbroken), generations(killed), strict=True):
        for table in (FEATURES, PREDICTIONS):
            assert rows(one.store, table.path) == rows(other.store, table.path)
    assert list(violations(killed)) == []


@pytest.mark.slow(30)
def test_partitions_of_names_find_what_one_look_finds(copy, tmp_path, monkeypatch):
    folder = first(tmp_path / "more")
    updated(copy, folder)
    grown(folder)
    source = find_source(SourceSpec(str(folder)))
    known = [growth.Listed.of(one, one.images()[0]) for one in (copy, update_of(copy, 1))]
    whole = growth.run(source, known, Store(str(tmp_path / "whole")), Progress(), 16)
    monkeypatch.setattr(growth, "FEW", 0)
    monkeypatch.setattr(growth, "PARTITION", 150)
    parts = growth.run(find_source(SourceSpec(str(folder))), known, Store(str(tmp_path / "parts")), Progress(), 16)
    assert parts == whole
    assert whole[1]["images"] == THEN + 1
