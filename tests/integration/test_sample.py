"""Above `heads.max_images`: learned from a uniform sample, every image labelled, nearly as well as from all."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from icce_ray import commands, pipeline
from icce_ray.core.sampling import uniform_rows
from icce_ray.progress import Progress
from icce_ray.report.labels import headline
from icce_ray.settings import load
from icce_ray.stages import sample
from icce_ray.stages.cluster import resources
from icce_ray.stages.features import list_column
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import FEATURES, MARKER, NEIGHBORS, PREDICTIONS, RUN_FILE
from icce_ray.store.artifacts import SAMPLE as SAMPLE_TABLE
from icce_ray.store.verify import violations
from tests.failures import fails

from .drivers import stamps, table

IMAGES, SAMPLE, CLASSES, DIM, SEED = 50_000, 5_000, 10, 32, 3
#: Distance of the means from the origin; noise is standard normal. The best classifier there can be is right on
#: 89.5 % of the images.
SPREAD = 3.0
SETTINGS = {
    "clusters": CLASSES,
    "embed": {"rows_per_shard": 4096},
    "neighbors": {"mode": "fixed", "components": 0, "k_min": 20, "search": "faiss"},
    "heads": {
        "heads": 4,
        "hidden": 64,
        "bottleneck": 32,
        "warmup_epochs": 1,
        "batch_size": 256,
        "learning_rate": 4e-3,
        "teacher_momentum": 0.99,
        "sample_seed": SEED,
    },
    "consensus": {"methods": ["mcla"]},
    "classifier": {"iterations": 400, "batch_size": 256, "learning_rates": [0.01, 0.1]},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """(.npy of features, Parquet of true classes by image_id) of a mixture of ten normal distributions."""
    folder = tmp_path_factory.mktemp("mixture")
    generator = np.random.default_rng(0)
    means = generator.standard_normal((CLASSES, DIM))
    means *= SPREAD / np.linalg.norm(means, axis=1, keepdims=True)
    truth = generator.integers(0, CLASSES, IMAGES)
    np.save(folder / "features.npy", (means[truth] + generator.standard_normal((IMAGES, DIM))).astype(np.float32))
    pq.write_table(pa.table({"image_id": np.arange(IMAGES), "label": truth}), folder / "truth.parquet")
    return folder / "features.npy", folder / "truth.parquet"


def learned(source, out, redo=None, **heads):
    """A complete run and its scores."""
    values = SETTINGS | {"heads": SETTINGS["heads"] | heads, "source": str(source[0]), "out": str(out)}
    settings = load(values)
    pipeline.run(settings, redo=redo, verbose=False)
    return Store(settings.out), commands.evaluate(settings.out, str(source[1]), verbose=False)


@pytest.fixture(scope="module")
def sampled(cluster, source, tmp_path_factory):
    """(run on the sample, its scores)."""
    return learned(source, tmp_path_factory.mktemp("sampled") / "run", max_images=SAMPLE, epochs=20)


def column(store, artifact, name):
    return table(store, artifact, [name])[name].to_numpy()


def kept(store):
    """Stamps but of what every start changes: what is tracked, and the page."""
    changing = ("metrics.jsonl", "tensorboard/", "report/")
    return {name: time for name, time in stamps(store).items() if not name.startswith(changing)}


@pytest.mark.slow(60)
def test_a_sample_serves_all_images_nearly_as_well_as_all_of_them(sampled, source, tmp_path):
    store, figures = sampled
    drawn = uniform_rows(IMAGES, SAMPLE, SEED)
    for artifact in ("sample", "neighbors", "head_labels", "consensus"):
        assert np.array_equal(column(store, artifact, "image_id"), drawn)
    assert np.array_equal(column(store, "predictions", "image_id"), np.arange(IMAGES))
    assert store.metrics()["predict"]["labelled"] == sum(store.metrics()["predict"]["class_sizes"]) == IMAGES
    assert store.metrics()["sample"] | {"seconds": 0} == {"images": SAMPLE, "of": IMAGES, "seed": SEED, "seconds": 0}
    assert list(violations(store)) == []

    images = {name: scores["images"] for name, scores in figures.items() if isinstance(scores, dict)}
    assert images.pop("classifier_seen") == figures["images"] == IMAGES
    assert images.pop("classifier_rest") == IMAGES - SAMPLE
    assert set(images.values()) == {SAMPLE}
    assert "classifier, images outside the sample" in dict(headline(store, figures))

    shutil.copytree(store.root, tmp_path / "whole")  # with its features
    whole, best = learned(source, tmp_path / "whole", redo="sample", epochs=2)  # as many steps
    assert not whole.sampled()
    assert not whole.storage.list("sample/part-")
    assert 0.86 < best["classifier_seen"]["acc"] < 0.92
    assert figures["classifier_seen"]["acc"] > best["classifier_seen"]["acc"] - 0.02
    assert abs(figures["classifier_rest"]["acc"] - figures["classifier_seen"]["acc"]) < 0.005
    assert "classifier_rest" not in best
    assert best["consensus"]["images"] == IMAGES


@pytest.mark.slow(5)
def test_labels_of_images_outside_the_sample_score_the_classifier_only(sampled, tmp_path):
    store, _ = sampled
    rest = np.setdiff1d(np.arange(IMAGES), uniform_rows(IMAGES, SAMPLE, SEED))[:300]
    label = column(store, "predictions", "label")[rest]
    pq.write_table(pa.table({"image_id": rest, "label": label}), tmp_path / "truth.parquet")
    figures = commands.evaluate(store.root, str(tmp_path / "truth.parquet"), kmeans=True, verbose=False)
    perfect = {"acc": 1.0, "nmi": pytest.approx(1.0), "ari": 1.0, "images": 300}
    assert {name: value for name, value in figures.items() if name != "labels"} == {
        "images": 300,
        "classifier_seen": perfect,
        "classifier_rest": perfect,
        "classes": [{"class": str(one), "share": 1.0} for one in range(CLASSES)],
        "confused": [],
    }


@pytest.mark.slow(5)
def test_predictions_go_on_shard_by_shard(sampled, tmp_path):
    store = Store(str(shutil.copytree(sampled[0].root, tmp_path / "run")))
    labels, summary = column(store, "predictions", "label"), store.metrics()["predict"]
    before = kept(store)
    lost = [f"predictions/{MARKER}", *(PREDICTIONS.part(index) for index in (0, 5, 12))]
    for path in lost:
        store.storage.delete(path)
    pipeline.run(store.settings(), verbose=False)
    after = kept(store)
    assert np.array_equal(column(store, "predictions", "label"), labels)
    assert store.metrics()["predict"] | {"seconds": 0} == summary | {"seconds": 0}
    assert {path for path in after if after[path] != before[path]} == {*lost, "metrics.json"}


# -- the stage alone ---------------------------------------------------------------------------------------------------


def embedded(root, edges):
    """A run whose features are complete: ids with gaps, and in each file the rows between two edges."""
    ids = np.flatnonzero(np.arange(30_000) % 7 != 3)
    numbers = np.arange(len(ids) * 4).reshape(-1, 4) % 2039
    table = pa.table(
        {
            "image_id": ids,
            "uri": [f"{index}.png" for index in ids],
            "key": [f"{index}.png" for index in ids],
            "features": list_column(numbers.astype(np.float16)),
            "cls_blocks": list_column(numbers[:, :2].astype(np.float16)),
        }
    )
    store = Store(str(root))
    spans = zip([0, *edges], [*edges, len(ids)], strict=True)
    files = [
        store.storage.write_table(FEATURES.part(index), table.slice(start, stop - start))
        for index, (start, stop) in enumerate(spans)
    ]
    store.commit("embed", files, fingerprint="", summary={}, seconds=0)
    return store, table


def drawn_by(store, max_images):
    """(files, summary) of the stage."""
    heads = {"max_images": max_images, "sample_seed": SEED}
    settings = load({"source": "photos", "clusters": 2, "out": store.root, "heads": heads})
    return sample.run(settings, store, resources(settings.resources), Progress())


def contents(store, files):
    return pa.concat_tables([store.storage.read_table(info.path) for info in files])


def test_the_sample_is_the_same_for_any_shards_of_the_features_and_after_a_kill(tmp_path):
    size = 20_000
    # One file of rejects only; one file for all.
    (store, table), (other, _) = embedded(tmp_path / "many", [1000, 1000, 9001]), embedded(tmp_path / "one", [])
    files, summary = drawn_by(store, size)
    assert summary == {"images": size, "of": len(table), "seed": SEED}
    files.sort(key=lambda info: info.path)
    assert [info.rows for info in files] == [8192, 8192, size - 2 * 8192]
    expected = table.take(uniform_rows(len(table), size, SEED))
    assert contents(store, files).equals(expected)
    ordered = sorted(drawn_by(other, size)[0], key=lambda info: info.path)
    assert contents(other, ordered).equals(expected)

    store.storage.delete(files[1].path)
    before = kept(store)
    again, summary_again = drawn_by(store, size)
    assert (sorted(again, key=lambda info: info.path), summary_again) == (files, summary)
    assert {path: time for path, time in kept(store).items() if path in before} == before


def test_where_all_images_may_be_used_nothing_is_drawn(tmp_path):
    store, table = embedded(tmp_path / "run", [])
    before = kept(store)
    for most in (len(table), 2_000_000):
        assert drawn_by(store, most) == ([], {"images": len(table), "of": len(table), "seed": SEED})
    assert kept(store) == before


def test_neighbours_of_all_images_are_not_mixed_with_a_sample(tmp_path):
    store, table = embedded(tmp_path / "run", [])
    store.storage.write_table(NEIGHBORS.part(0), table)
    with fails(RunError, "25,714 images", "--redo sample"):
        drawn_by(store, 1000)
    assert not store.parts(SAMPLE_TABLE)


def test_a_complete_run_of_a_version_without_samples_only_gets_its_marker(copy):
    content = yaml.safe_load(copy.storage.read_bytes(RUN_FILE))
    del content["fingerprints"]["sample"]
    copy.storage.write_bytes(RUN_FILE, yaml.safe_dump(content).encode())
    copy.storage.delete(f"sample/{MARKER}")
    before = kept(copy)
    pipeline.run(copy.settings(), verbose=False)
    after = kept(copy)
    assert copy.require("sample").files == []
    assert {path for path in after if after[path] != before.get(path)} == {f"sample/{MARKER}", "metrics.json"}
