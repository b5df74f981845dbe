"""`icce verify` on what files hold: each kind of damage behind right checksums gives its own line."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from icce_ray.stages.features import list_column
from icce_ray.store import artifacts
from icce_ray.store.artifacts import Column, Table
from tests import small_run
from tests.small_run import (
    C1,
    DESCRIBED,
    DIM,
    DRAWN,
    F0,
    F1,
    H0,
    H1,
    LOSSES,
    M0,
    M1,
    N0,
    N1,
    NEW_R0,
    P0,
    P1,
    R0,
    S0,
    SCORES,
    TEMI,
    WEIGHTS,
    agreed,
    cosines,
    features,
    finds,
    head_labels,
    labels,
    manifest,
    neighbors,
    rejects,
    replaced,
    vectors,
)

HEADS_FILE, CLASSIFIER = WEIGHTS
DESCRIPTION, SCORES_FILE = artifacts.CLASSIFIER_DESCRIPTION.path, artifacts.CONSENSUS_SCORES.path


@pytest.fixture
def sampled(tmp_path):
    return small_run.made_of_sample(tmp_path / "sampled")


def with_column(table, name, values):
    """The table with other values of a column, or without it."""
    index = table.column_names.index(name)
    kind = table.schema.field(name).type
    return table.drop_columns(name) if values is None else table.set_column(index, name, pa.array(values, kind))


def with_a(value, path):
    name = sorted(WEIGHTS[path])[0]
    return WEIGHTS[path] | {name: torch.full_like(WEIGHTS[path][name], value)}


def reshaped(path, name, *shape):
    return WEIGHTS[path] | {name: torch.zeros(shape)}


@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [
        # the manifest: ids, counts, names
        (M0, manifest([0, 1, 3, 2]), [("list", "0 missing", "0 extra")]),
        (M1, manifest([4]), [("list", "1 missing", "5 rows")]),
        (
            M0,
            with_column(manifest(range(4)), "key", list("abcd")),
            [("embed", F0, "3 images", "key", 0), ("embed", R0, "1 images", 3)],
        ),
        (R0, with_column(rejects([3]), "uri", ["x"]), [("embed", R0, "1 images", "uri", "first 3")]),
        (P0, with_column(labels([0, 1, 2], [0, 0, 1]), "key", list("abc")), [("predict", P0, "3 images", "first 0")]),
        # features: ids, directions, columns
        (F1, features([4, 3]), [("embed", "1 missing", "1 twice")]),
        (F1, features([4]), [("embed", "6 inputs", "4 ok", "1 rejected"), ("embed", "ok = 5", "hold 4")]),
        (F1, features([5, 4]), [("embed", "ascend")]),
        (F1, features([4, 6]), [("embed", "1 missing", "1 that were never listed")]),
        *(
            (F1, features([4, 5], np.full((2, 3), value, np.float16)), [("embed", F1, "features")])
            for value in (0, np.nan, np.inf)
        ),
        (F1, features([4, 5], np.ones((2, 4), np.float16)), [("embed", F1, "4 features", "not 3")]),
        (F1, features([4, 5], np.ones((2, 3), np.float32)), [("embed", F1, "type fixed_size_list")]),
        (F1, with_column(features([4, 5]), "image_id", [4, None]), [("embed", F1, "1 rows", "image_id")]),
        (R0, rejects([3], "empty"), [("embed", "{'truncated': 1}", "{'empty': 1}")]),
        (F1, features([4, 5], vectors([5, 4])), [("neighbors", N0, "cosine"), ("neighbors", N1, "cosine")]),
        # the sample, where none is needed, and what heads learn from
        (S0, features([0, 1, 2, 4, 5]), [("sample", "1 files", "heads.max_images", "all 5")]),
        (N0, neighbors([0, 2], [[1, 2], [1, 4, 0]]), [("neighbors", "learned", "1 missing", "0 extra", "4 rows")]),
        # labels
        (H1, head_labels([4, 5], [[0, 2], [1, 0]]), [("heads", H1, "labels", "0 to 2", "0 to 1")]),
        (H1, head_labels([4, 5], [[0, 1, 1], [1, 0, 0]]), [("heads", H1, "3 labels", "not 2")]),
        (C1, agreed([4, 5], [-1, 0]), [("consensus", C1, "label", "-1 to 0", "0 to 1")]),
        *((C1, agreed([4, 5], [1, 0], share), [("consensus", C1, "agreement", "0 to 1")]) for share in (1.5, -0.1)),
        (P1, labels([4, 5], [1, 1], np.nan), [("predict", P1, "confidence", "0 to 1")]),
        (P1, labels([4, 3], [1, 1]), [("predict", "accepted", "1 missing", "1 extra")]),
        (P1, labels([4, 5], [0, 1]), [("predict", "class_sizes = [2, 3]", "hold [3, 2]")]),
        # weights and figures
        (CLASSIFIER, with_a(np.inf, CLASSIFIER), [("classifier", CLASSIFIER, "bias", "not finite")]),
        (
            HEADS_FILE,
            reshaped(HEADS_FILE, "prototypes", 2, 3, 4),
            [("heads", HEADS_FILE, "prototypes", (2, 3, 4), (2, 2, 4))],
        ),
        (CLASSIFIER, {"weight": torch.zeros(2, DIM)}, [("classifier", CLASSIFIER, "bias", None, (2,))]),
        *(
            (DESCRIPTION, DESCRIBED | change, [("classifier", DESCRIPTION, *facts)])
            for change, *facts in (
                ({"classes": 3}, "3 classes", "say 2"),
                ({"columns": [[0, 4]]}, "[(0, 4)]", "width 3"),
                ({"columns": [[0]]}, "columns.0.1 is missing"),
            )
        ),
        (
            SCORES_FILE,
            SCORES | {"method": "mcla"},
            [("consensus", SCORES_FILE, "marker")],
        ),
        (LOSSES, TEMI.slice(0, 4), [("heads", LOSSES, "4 rows", "3 epochs", "2 heads")]),
        (LOSSES, with_column(TEMI, "temi", [np.nan] * 6), [("heads", LOSSES, "temi", "not finite")]),
    ],
)
def test_content_that_is_wrong(run, path, content, expected):
    replaced(run, artifacts.stage_of(path), path, content)
    finds(run, *expected)


def test_blocks_of_another_width(run):
    for path, ids, width in ((F0, [0, 1, 2], 6), (F1, [4, 5], 7)):
        blocks = list_column(np.ones((len(ids), width), np.float16))
        replaced(run, "embed", path, features(ids).append_column("cls_blocks", blocks), block_dim=6)
    finds(run, ("embed", F1, "7 cls_blocks", "not 6"))


@pytest.mark.parametrize(
    ("neighbor_ids", "similarities", "facts"),
    [
        ([2, 1], [0.77, 0.94], ["descending"]),
        ([1, 2], [0.94, None], ["descending"]),
        ([1, 2, 4], [0.94, 0.77, 0.34], ["threshold 0.5"]),
        ([0, 1], [1.0, 0.94], ["own neighbours"]),
        ([1, 1], [0.94, 0.94], ["twice"]),
        ([1, None], [0.94, 0.2], ["learn"]),
        ([1], [0.94], ["k_min 2", "k_max 3"]),
        ([1, 2], [0.94], ["differ in length"]),
        ([1, 2], [0.94, 0.9], ["cosine", "images 0 and 2", "0.9000", "0.7662", "1 of 8"]),
    ],
)
def test_a_bad_list(run, neighbor_ids, similarities, facts):
    others = [[0, 2, 4], [1, 4, 0]]
    true = [cosines(image, ids) for image, ids in enumerate(others, start=1)]
    replaced(run, "neighbors", N0, neighbors([0, 1, 2], [neighbor_ids, *others], [similarities, *true]))
    finds(run, ("neighbors", N0, *facts))


@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [
        (S0, features([1, 3]), ("sample", "1 missing", "1 extra")),
        (S0, features([2, 1]), ("sample", "0 missing", "0 extra", "in order")),
        (S0, features([1, 2], vectors([1, 5])), ("sample", S0, "1 images", "features", "first 2")),
        (S0, with_column(features([1, 2]), "uri", ["a", "b"]), ("sample", S0, "2 images", "uri")),
        (N0, neighbors([1, 2, 5], [[2, 4], [1, 4], [4, 2]]), ("neighbors", "learned", "1 missing", "1 extra")),
        (N0, neighbors(DRAWN, [[2, 4], [1, 5], [2, 1]]), ("neighbors", N0, "learn")),
        (H0, head_labels([1, 2, 5], [[0, 1], [0, 0], [1, 1]]), ("heads", "learned", "1 missing", "1 extra")),
        (P1, labels([4], [1]), ("predict", "accepted", "1 missing", "4 rows")),
    ],
)
def test_content_of_a_sampled_run_that_is_wrong(sampled, path, content, expected):
    replaced(sampled, artifacts.stage_of(path), path, content)
    finds(sampled, expected)


def test_a_sample_that_was_never_written(sampled):
    marker = sampled.require("sample")
    for info in marker.files:
        sampled.storage.delete(info.path)
    sampled.commit("sample", [], fingerprint=marker.fingerprint, summary=marker.summary, seconds=0)
    finds(sampled, ("sample", "3 missing", "0 extra", "0 rows"))


def test_other_figures_of_the_sample(sampled):
    replaced(sampled, "sample", S0, features([1, 2]), images=4, of=6, seed=1)
    wrong = (("images", 4, 3), ("of", 6, 5), ("seed", 1, 27))
    finds(sampled, *(("sample", f"{name} = {was}", value) for name, was, value in wrong))


@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [
        (
            P1,
            labels([4], [1]),
            [("predict", "class_sizes = [2, 3]", "hold [2, 2]"), ("predict", "4 ok"), ("predict", "ok = 5", "hold 4")],
        ),
        (NEW_R0, rejects([5]), [("predict", "1 missing", "1 twice")]),
        (NEW_R0, with_column(rejects([3]), "reason", None), [("predict", NEW_R0, "no column", "reason")]),
        (P1, labels([4, 5], [1, 2]), [("predict", P1, "1 to 2", "0 to 1")]),
    ],
)
def test_rows_of_a_prediction(predicted, path, content, expected):
    replaced(predicted, "predict", path, content)
    finds(predicted, *expected)


def test_a_new_artifact_takes_one_declaration(run, monkeypatch):
    columns = {"image_id": Column(pa.int64()), "rank": Column(pa.int32(), within=(0, "clusters"))}
    ranks = Table(stage="consensus", path="ranks", columns=columns, rows="learned")
    declared = (*artifacts.DECLARED, ranks)
    monkeypatch.setattr(artifacts, "DECLARED", declared)
    for ids, values, *expected in [
        ([0, 1, 2, 4, 5], [0, 1, 0, 1, 0]),
        ([0, 1, 2, 4, 5], [0, 1, 0, 1, 2], ("consensus", ranks.part(0), "rank", "0 to 2", "0 to 1")),
        ([0, 1, 2, 4, 6], [0, 1, 0, 1, 0], ("consensus", "ranks", "learned", "1 missing", "1 extra")),
        ([0, 1, 2, None, 5], [0, 1, 0, 1, 0], ("consensus", ranks.part(0), "1 rows", "image_id")),
    ]:
        table = pa.table({"image_id": pa.array(ids, pa.int64()), "rank": pa.array(values, pa.int32())})
        ranks.write(run.storage, table, 0)
        replaced(run, "consensus", ranks.part(0), table)
        finds(run, *expected)
    run.storage.write_table(ranks.part(1), pa.table({"image_id": [1]}))
    finds(run, ("consensus", ranks.part(1), "no marker"))
    run.discard_from("consensus")
    assert run.storage.list("ranks") == []
