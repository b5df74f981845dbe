"""A whole run on a local Ray cluster: what it writes, what it does not repeat, and what must not change its result."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, confusion_matrix, normalized_mutual_info_score

from icce_ray import ICCE, commands, pipeline
from icce_ray.core.alarms import cluster_sizes, head_alarms
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import NEIGHBORS, STAGES
from icce_ray.store.verify import violations
from tests.failures import fails

from .conftest import CLUSTERS, IMAGES, TINY, tiny, write_digits
from .drivers import stamps

D = 324


def read(store, artifact, columns=None):
    """All parts of an artifact in the order of their names, by pyarrow alone."""
    paths = sorted((Path(store.root) / artifact).glob("part-*.parquet"))
    return pa.concat_tables([pq.ParquetFile(path).read(columns) for path in paths])


def rows(column):
    """A column of lists of one length as a matrix."""
    return np.stack([row.values.to_numpy() for chunk in column.chunks for row in chunk])


def features(store):
    """(image_ids, features) in the order of image_id."""
    table = read(store, "features/status=ok").sort_by("image_id")
    return table["image_id"].to_numpy(), rows(table["features"])


def neighbor_lists(store):
    table = read(store, "neighbors")
    return {name: table[name].to_pylist() for name in table.column_names}


def settings_of(store, **changes):
    """The tiny settings for a copy of the finished run."""
    return tiny(store.settings().source, store.root, **changes)


# -- what a run writes -------------------------------------------------------------------------------------------------


NAMES = {"image_id": pa.int64(), "uri": pa.string(), "key": pa.string()}
SCHEMAS = {
    "features/status=ok": NAMES
    | {"features": pa.list_(pa.float16(), D), "digest": pa.binary(16), "picture_hash": pa.binary(32)}
    | {"width": pa.int32(), "height": pa.int32()}
    | dict.fromkeys(("brightness", "contrast", "sharpness"), pa.float32()),
    "neighbors": {
        "image_id": pa.int64(),
        "key": pa.string(),
        "neighbor_ids": pa.large_list(pa.int64()),
        "similarities": pa.large_list(pa.float32()),
    },
    "head_labels": {"image_id": pa.int64(), "key": pa.string(), "labels": pa.list_(pa.int32(), TINY["heads"]["heads"])},
    "consensus": NAMES | {"label": pa.int32(), "agreement": pa.float32()},
    "predictions": NAMES
    | {"label": pa.int32(), "confidence": pa.float32()}
    | {"runner_up": pa.int32(), "runner_up_confidence": pa.float32()},
}


@pytest.mark.parametrize("artifact", SCHEMAS)
def test_artifacts_have_their_columns_and_all_ids(finished, artifact):
    table = read(finished, artifact)
    assert {field.name: field.type for field in table.schema} == SCHEMAS[artifact]
    assert table["image_id"].to_pylist() == list(range(IMAGES))
    assert table["key"].to_pylist() == [f"{index:04d}.png" for index in range(IMAGES)]
    assert sum(column.null_count for column in table.columns) == 0


def test_what_was_chosen_is_the_best_and_nothing_else_is_left(finished):
    """The form of these files is what `verify` checks."""
    root, heads = Path(finished.root), TINY["heads"]["heads"]
    temi = pq.ParquetFile(root / "heads/losses.parquet").read()["temi"].to_numpy().reshape(-1, heads)
    assert len(temi) == TINY["heads"]["epochs"]
    assert temi[-1].mean() < temi[0].mean()
    sizes = cluster_sizes(rows(read(finished, "head_labels")["labels"]), CLUSTERS)
    assert finished.metrics()["heads"]["alarms"] == [alarm.as_dict() for alarm in head_alarms(temi, sizes)]
    grid = pq.ParquetFile(root / "classifier/grid.parquet").read()["accuracy"].to_pylist()
    assert len(grid) == 13
    assert json.loads((root / "classifier/classifier.json").read_text())["heldout_accuracy"] == max(grid)
    consensus = json.loads((root / "consensus/scores.json").read_text())
    assert consensus["method"] == max(consensus["scores"], key=consensus["scores"].get)
    assert set(consensus["scores"]) | set(consensus["refused"]) == {"cspa", "hgpa", "mcla", "hbgf"}
    assert not [path for path in root.rglob("*") if "checkpoint" in path.name or "candidates" in path.name]


def test_markers_name_every_file_with_rows_and_checksums(finished):
    content = yaml.safe_load((Path(finished.root) / "run.yaml").read_text())
    assert content["settings"] == settings_of(finished).model_dump(mode="json")
    assert content["versions"]["ray"]
    metrics = finished.metrics()
    for stage, declared in STAGES.items():
        marker = finished.marker(stage)
        assert marker.fingerprint == content["fingerprints"][stage]
        for info in marker.files:
            assert finished.storage.describe(info.path) == info
        data = {info.path for info in marker.files if info.path.startswith(declared.folder)}
        assert data == {path for path in stamps(finished, declared.folder) if not path.endswith("_manifest.json")}
        if stage != "list":
            assert metrics[stage] == marker.summary | {"seconds": marker.seconds}
    assert metrics["embed"]["images"] == metrics["embed"]["ok"] + metrics["embed"]["rejected"] == IMAGES
    assert list(violations(finished)) == []


def test_a_second_run_starts_no_work(finished, monkeypatch, capsys):
    def forbidden(*_):
        raise AssertionError("work was started")

    before = stamps(finished)
    for stage in pipeline.STAGES:
        monkeypatch.setitem(pipeline.STAGES, stage, forbidden)
    monkeypatch.setattr(pipeline, "connected", forbidden)
    metrics = pipeline.run(settings_of(finished))
    assert "nothing to do: embed to inspect" in capsys.readouterr().err
    assert metrics == finished.metrics()
    assert stamps(finished) == before


# -- what must not change the result: neither do shards of the features, as test_kills.py shows ------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"neighbors": {"rows_per_shard": 37}, "resources": {"neighbor_shards": 3}},
        pytest.param(
            {"neighbors": {"search": "faiss", "rows_per_shard": 1000}, "resources": {"neighbor_shards": 7}},
            marks=pytest.mark.slow(20),
        ),
    ],
    ids=["3 shards, small blocks", "faiss, 7 shards, 1 block"],
)
def test_neighbours_do_not_depend_on_shards_blocks_or_search(finished, copy, changes):
    settings = settings_of(copy, **changes)
    pipeline.run(settings, redo="neighbors", last="neighbors", verbose=False)
    parts = -(-IMAGES // settings.neighbors.rows_per_shard)
    assert len(NEIGHBORS.files(copy.require("neighbors").files)) == parts
    assert neighbor_lists(copy) == neighbor_lists(finished)
    assert list(violations(copy)) == []


@pytest.mark.filterwarnings("ignore::icce_ray.core.alarms.CollapseWarning")  # of few heads, in short trainings
def test_the_estimator_finds_the_labels_of_the_stages(finished):
    settings = settings_of(finished)
    ids, matrix = features(finished)
    assert (matrix.dtype, matrix.shape) == (np.float16, (IMAGES, D))
    limits = {"threshold": settings.neighbors.threshold, "k_min": settings.neighbors.k_min}
    model = ICCE(CLUSTERS, random_state=settings.seed, iterations=20, **limits, **settings.heads.recipe()).fit(matrix)
    np.testing.assert_array_equal(model.head_labels_, rows(read(finished, "head_labels")["labels"]))
    consensus = read(finished, "consensus")
    np.testing.assert_array_equal(model.labels_, consensus["label"].to_numpy())
    np.testing.assert_array_equal(model.agreement_, consensus["agreement"].to_numpy())
    assert model.consensus_scores_ == finished.metrics()["consensus"]["scores"]
    np.testing.assert_allclose(model.head_losses_, finished.metrics()["heads"]["temi"], atol=1e-6)
    np.testing.assert_array_equal(ids, np.arange(IMAGES))


# -- parts of a run ----------------------------------------------------------------------------------------------------


def test_redo_keeps_what_comes_before(finished, copy):
    kept = ("manifest", "features", "neighbors", "heads", "consensus")
    before = stamps(copy, *kept)
    changed = settings_of(copy, classifier={"iterations": 60})
    with fails(RunError, "classifier.iterations: 120", "60 now"):
        pipeline.run(changed, verbose=False)
    pipeline.run(changed, redo="classifier", verbose=False)
    assert stamps(copy, *kept) == before
    assert copy.run_file()["settings"]["classifier"]["iterations"] == 60
    assert list(violations(copy)) == []
    with fails(RunError, "embed.rows_per_shard"):
        pipeline.run(settings_of(copy, embed={"rows_per_shard": 8}), redo="classifier", verbose=False)


def test_until_and_then_the_rest(finished, copy):
    copy.discard_from("consensus")
    settings = settings_of(copy)
    pipeline.run(settings, last="consensus", verbose=False)
    assert [stage for stage in STAGES if not copy.marker(stage)] == ["classifier", "predict", "inspect"]
    with fails(RunError, "stage classifier", copy.root):
        pipeline.run(settings, first="predict", verbose=False)
    before = stamps(copy, "features", "consensus")
    pipeline.run(settings, first="classifier", verbose=False)
    assert stamps(copy, "features", "consensus") == before
    assert read(copy, "predictions").to_pylist() == read(finished, "predictions").to_pylist()


def test_fixed_neighbours(finished, copy):
    k = TINY["neighbors"]["k_min"]
    settings = settings_of(copy, neighbors={"mode": "fixed"})
    metrics = pipeline.run(settings, redo="neighbors", last="neighbors", verbose=False)
    expected = [ids[:k] for ids in neighbor_lists(finished)["neighbor_ids"]]
    assert neighbor_lists(copy)["neighbor_ids"] == expected
    assert metrics["neighbors"]["mean_neighbors"] == k
    assert list(violations(copy)) == []


@pytest.mark.slow(25)
def test_ground_truth_neighbours(digits, copy):
    changes = {"neighbors": {"mode": "ground_truth", "labels": str(digits[1])}}
    pipeline.run(settings_of(copy, **changes), redo="neighbors", verbose=False)
    with digits[1].open() as file:
        truth = [int(row["label"]) for row in csv.DictReader(file)]
    same = [{i for i in range(IMAGES) if truth[i] == truth[j] and i != j} for j in range(IMAGES)]
    lists = neighbor_lists(copy)
    assert [set(ids) for ids in lists["neighbor_ids"]] == same
    assert [len(ids) for ids in lists["neighbor_ids"]] == [len(ids) for ids in same]
    figures = commands.evaluate(copy.root, str(digits[1]), verbose=False)
    assert figures["consensus"]["acc"] > 0.9  # the upper bound: nearly right, whatever the features
    assert list(violations(copy)) == []


# -- new images, and the truth -----------------------------------------------------------------------------------------


@pytest.mark.slow(5)
def test_predicting_the_runs_own_images_gives_its_own_labels(finished, digits, tmp_path):
    summary = commands.predict(finished.root, str(digits[0]), str(tmp_path / "out"), verbose=False)
    mine, own = read(Store(str(tmp_path / "out")), "predictions"), read(finished, "predictions")
    assert mine.schema.equals(own.schema)
    for name in ("image_id", "uri", "key", "label"):
        assert mine[name].to_pylist() == own[name].to_pylist()
    np.testing.assert_allclose(mine["confidence"], own["confidence"], rtol=1e-5)
    assert summary["labelled"] == IMAGES
    assert summary["class_sizes"] == finished.metrics()["predict"]["class_sizes"]


@pytest.mark.slow(10)
def test_predicting_goes_on_where_it_was_and_serves_one_source(finished, digits, tmp_path, capsys):
    write_digits(tmp_path / "new", 140, first=IMAGES)
    job = (finished.root, str(tmp_path / "new"), str(tmp_path / "out"))
    summary = commands.predict(*job, verbose=False)
    out = Store(str(tmp_path / "out"))
    before, labels = stamps(out, "predictions"), read(out, "predictions").to_pylist()
    lost = "predictions/part-000001.parquet"
    for name in ("predictions/_manifest.json", lost):
        (tmp_path / "out" / name).unlink()
    assert commands.predict(*job) == summary
    assert "64 of 140 images were done before" not in (text := capsys.readouterr().err)
    assert "76 of 140 images were done before" in text
    after = stamps(out, "predictions")
    assert {name for name in before if after[name] != before[name]} == {"predictions/_manifest.json", lost}
    assert read(out, "predictions").to_pylist() == labels
    assert commands.predict(*job) == summary
    assert "nothing to do" in capsys.readouterr().err
    assert stamps(out, "predictions") == after
    write_digits(tmp_path / "new", 1)
    with fails(RunError, "141 files"):
        commands.predict(*job, verbose=False)
    with fails(RunError, out.root):
        commands.predict(finished.root, str(digits[0]), out.root, verbose=False)
    with fails(RunError, "--out"):
        commands.predict(finished.root, str(digits[0]), finished.root, verbose=False)


@pytest.mark.slow(8)
def test_evaluation_is_what_scikit_learn_computes_from_the_files(digits, copy, tmp_path):
    truth = write_digits(tmp_path / "new", 60, first=1000)
    every = digits[1].read_text() + "".join(f"{1000 + i:04d}.png,{label}\n" for i, label in enumerate(truth))
    (tmp_path / "labels.csv").write_text(every)
    commands.predict(copy.root, str(tmp_path / "new"), str(tmp_path / "out"), verbose=False)
    (tmp_path / "ids.csv").write_text("image_id,label\n0,1\n")
    with fails(RunError, "label by uri"):
        commands.evaluate(copy.root, str(tmp_path / "ids.csv"), predictions=str(tmp_path / "out"), verbose=False)
    labels = str(tmp_path / "labels.csv")
    figures = commands.evaluate(copy.root, labels, predictions=str(tmp_path / "out"), kmeans=True, verbose=False)
    classes = {row["uri"]: int(row["label"]) for row in csv.DictReader(every.splitlines())}

    def by_hand(table, label):
        known = np.array([classes[uri] for uri in table["uri"].to_pylist()])
        counts = confusion_matrix(known, label)
        return {
            "acc": counts[linear_sum_assignment(-counts)].sum() / len(known),
            "nmi": normalized_mutual_info_score(known, label),
            "ari": adjusted_rand_score(known, label),
        }

    own = read(copy, "predictions")
    heads = [by_hand(own, column) for column in rows(read(copy, "head_labels")["labels"]).T]
    temi = pq.ParquetFile(Path(copy.root) / "heads/losses.parquet").read()["temi"].to_numpy()[-len(heads) :]
    expected = {
        "consensus": by_hand(own, read(copy, "consensus")["label"].to_numpy()),
        "classifier_seen": by_hand(own, own["label"].to_numpy()),
        "mean_head": {key: np.mean([head[key] for head in heads]) for key in heads[0]},
        "best_head": heads[temi.argmin()],
        "highest_head": max(heads, key=lambda head: head["acc"]),
    }
    new = read(Store(str(tmp_path / "out")), "predictions")
    expected["classifier_unseen"] = by_hand(new, new["label"].to_numpy())
    for name, scores in expected.items():
        assert {key: figures[name][key] for key in scores} == pytest.approx(scores, abs=1e-9), name
    assert 0.3 < figures["kmeans"]["acc"] <= 1
    known = np.array([classes[uri] for uri in own["uri"].to_pylist()])
    for label, most in enumerate(figures["classes"]):
        true, counts = np.unique(known[own["label"].to_numpy() == label], return_counts=True)
        assert most["share"] == pytest.approx(counts.max() / counts.sum(), abs=1e-5)
        assert most["class"] in {str(one) for one in true[counts == counts.max()]}
    errors = figures["confused"]
    assert [one["images"] for one in errors] == sorted((one["images"] for one in errors), reverse=True)
    wrong = round((1 - figures["classifier_seen"]["acc"]) * len(known))
    assert 0 < sum(one["images"] for one in errors) <= wrong
    assert len(errors) == 20 or sum(one["images"] for one in errors) == wrong
    for one in errors:
        mine = own["label"].to_numpy() == one["label"]
        assert one["images"] == (known[mine] == int(one["true"])).sum()
        assert one["taken_for"] != one["true"]
    assert copy.metrics()["evaluation"] == figures
    assert "Most confused" in Path(commands.report(copy.root, verbose=False)).read_text()


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow(8)
def test_a_changed_source_is_an_error(tmp_path):
    write_digits(tmp_path / "images", 30)
    settings = tiny(tmp_path / "images", tmp_path / "run", embed={"rows_per_shard": 30})
    pipeline.run(settings, last="embed", verbose=False)
    write_digits(tmp_path / "images", 1, first=30)
    with fails(RunError, "31 files", "--redo list"):
        pipeline.run(settings, verbose=False)
    (tmp_path / "images/0030.png").rename(tmp_path / "images/0007.png")
    with fails(RunError, "30 files", "names and sizes"):
        pipeline.run(settings, verbose=False)
    metrics = pipeline.run(settings, redo="list", last="embed", verbose=False)
    assert metrics["embed"]["images"] == 30
    assert list(violations(Store(settings.out))) == []


def test_gpus_that_are_not_there_and_too_many_clusters(digits, tmp_path):
    with fails(RunError, "0 GPUs", "resources.device=cpu"):
        pipeline.run(tiny(digits[0], tmp_path / "run", resources={"device": "cuda"}), verbose=False)
    with fails(RunError, "clusters = 400", f"{IMAGES} images"):
        pipeline.run(tiny(digits[0], tmp_path / "other", clusters=400), verbose=False)
    assert not (tmp_path / "other/run.yaml").exists()
