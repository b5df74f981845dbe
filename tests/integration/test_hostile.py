"""Forty good images among two hundred hostile and odd files: each has its expected outcome, and none stops the run."""

import os
import threading
from collections import Counter

import pytest
from hostile import MAX_PIXELS, contents, write

from icce_ray import commands, pipeline
from icce_ray.io.filenames import to_bytes
from icce_ray.store import RejectBudgetError, Store
from icce_ray.store.artifacts import FEATURES, REJECTS
from icce_ray.store.verify import violations

from .conftest import tiny, write_digits
from .drivers import rows

GOOD, OK, REJECTED = 40, FEATURES.path, REJECTS.path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """(folder, what a run must make of it)."""
    folder = tmp_path_factory.mktemp("hostile")
    write_digits(folder, GOOD)
    corpus = write(folder)
    corpus.outcomes.update({f"{index:04d}.png": "ok" for index in range(GOOD)})
    yield folder, corpus
    for path in folder.rglob("*.png"):  # what removes the folder must be allowed to
        if not path.is_symlink():
            path.chmod(0o600)


@pytest.fixture(scope="module")
def embedded(source, tmp_path_factory):
    """The run up to its features, while one of the files grows."""
    folder, _ = source
    done = threading.Event()

    def grow():
        while not done.wait(0.01):
            with open(folder / "0000.png", "ab") as file:
                file.write(b"more")

    settings = tiny(
        folder,
        tmp_path_factory.mktemp("run") / "run",
        embed={"max_pixels": MAX_PIXELS, "reject_budget": 1.0, "rows_per_shard": 50},
    )
    grower = threading.Thread(target=grow)
    grower.start()
    try:
        pipeline.run(settings, last="embed", verbose=False)
    finally:
        done.set()
        grower.join()
    return Store(settings.out)


def outcomes(store):
    """By key: `ok`, or why it was rejected."""
    accepted = {row["key"]: "ok" for row in rows(store, OK)}
    return accepted | {row["key"]: row["reason"] for row in rows(store, REJECTED)}


def test_every_file_ends_as_it_must(source, embedded):
    _, corpus = source
    assert outcomes(embedded) == corpus.outcomes
    assert all(row["detail"] for row in rows(embedded, REJECTED))


@pytest.mark.slow(20)
def test_every_file_ends_as_it_must_in_a_bucket_too(source, embedded, radosgw):
    folder, corpus = source
    bucket = radosgw.bucket()
    expected = {key: outcome for key, outcome in corpus.outcomes.items() if (folder / key).is_file()}
    for key in expected:
        radosgw.client.put_object(Bucket=bucket, Key=f"in/{key}", Body=(folder / key).read_bytes())
    changes = {"max_pixels": MAX_PIXELS, "reject_budget": 1.0, "rows_per_shard": 50}
    settings = tiny(radosgw.uri(f"{bucket}/in"), radosgw.uri(f"{bucket}/run"), embed=changes)
    pipeline.run(settings, last="embed", verbose=False)
    store = Store(settings.out)
    assert outcomes(store) == expected
    assert list(violations(store)) == []


def test_inputs_are_ok_or_rejected_and_nothing_else(source, embedded):
    _, corpus = source
    listed, summary = embedded.require("list").summary, embedded.require("embed").summary
    assert listed["images"] == len(corpus.outcomes) == summary["images"] == summary["ok"] + summary["rejected"]
    assert listed["left_out"] == corpus.left_out
    expected = Counter(corpus.outcomes.values())
    assert summary["ok"] == expected.pop("ok")
    assert summary["rejected_by_reason"] == expected
    assert list(violations(embedded)) == []


def test_names_are_kept_to_the_letter(source, embedded):
    folder, _ = source
    for row in rows(embedded, OK):
        assert (folder / os.fsdecode(to_bytes(row["key"]))).exists(), row["key"]
    assert len({row["image_id"] for row in rows(embedded, OK)}) == len(rows(embedded, OK))


def test_what_was_left_out_was_not_opened(source):
    """Opening a pipe would have blocked: it still has no reader and no writer."""
    folder, _ = source
    pipe = os.open(folder / "pipe.jpg", os.O_RDONLY | os.O_NONBLOCK)
    assert os.read(pipe, 1) == b""
    os.close(pipe)


@pytest.mark.slow(5)
def test_what_predict_writes_can_be_verified(finished, tmp_path):
    folder, out = tmp_path / "new", Store(str(tmp_path / "out"))
    write_digits(folder, 12, first=400)
    for name in ("text.jpg", "nothing.png", "cut-10.png"):
        (folder / name).write_bytes(contents()[name].data)
    with pytest.raises(RejectBudgetError):
        commands.predict(finished.root, str(folder), out.root, verbose=False)
    assert list(violations(out)) == []
    (path, *_) = (name for name, _ in out.storage.list("rejects") if name.endswith(".parquet"))
    out.storage.delete(path)
    assert list(violations(out)) == [f"predict: {path} is missing"]
