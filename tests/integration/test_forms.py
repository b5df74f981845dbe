"""The same 500 images in every form of a source, on a local disk and on S3: the same features by key, the same labels.

Some of them each time, all with `python -m pytest -m "exhaustive or not exhaustive" tests/integration/test_forms.py`.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icce_ray import pipeline
from icce_ray.stages.rows import FeatureRows
from icce_ray.stages.verify import violations
from icce_ray.store import RunError, Store
from tests import forms

from .conftest import tiny, write_digits
from .drivers import rows

IMAGES = 500
SMALL = {"embed": {"rows_per_shard": 128}, "resources": {"embed_actors": 1}}
PRECOMPUTED = ("features npy", "features parquet")
ALL = [*forms.FORMS, *PRECOMPUTED]
PLACES = [(where, form) for where in ("local", "s3") for form in ALL]
#: What is embedded, and what is run to its end, in every test run; all of both are `exhaustive`.
EMBEDDED = [
    ("local", "uri table"),
    ("local", "features parquet"),
    ("s3", "files"),
    ("s3", "webdataset"),
    ("s3", "uris"),
]
WHOLE = [("local", "img2dataset"), ("s3", "hugging face"), ("s3", "features npy")]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """(key, bytes) of 500 digits in folders, with names that need care in a URI."""
    folder = tmp_path_factory.mktemp("digits500") / "images"
    write_digits(folder, IMAGES)
    return sorted((f"{int(path.stem) // 100} #%é/{path.name}", path.read_bytes()) for path in folder.iterdir())


@pytest.fixture(scope="module")
def reference(images, tmp_path_factory):
    """The whole run on a folder."""
    folder = tmp_path_factory.mktemp("reference")
    forms.write("files", images, folder / "source")
    settings = tiny(folder / "source", folder / "run", **SMALL)
    pipeline.run(settings, verbose=False)
    return Store(settings.out)


@pytest.fixture(scope="module")
def s3(request):
    """A real server where there is one; what a run needs of it, the other tests ask of both."""
    try:
        return request.getfixturevalue("radosgw")
    except pytest.skip.Exception as reason:
        print(f"moto instead of a real server: {reason}")
        return request.getfixturevalue("moto")


def written(form, images, reference, folder):
    """Path of the source below `folder`."""
    if form not in PRECOMPUTED:
        return forms.write(form, images, folder)
    folder.mkdir(parents=True)
    features = FeatureRows.of(reference).features().astype(np.float32)
    if form == "features npy":
        np.save(folder / "features.npy", features)
        return "features.npy"
    keys = [row["key"] for row in rows(reference, "features/status=ok")]
    table = pa.table({"key": keys, "embedding": pa.FixedSizeListArray.from_arrays(features.ravel(), features.shape[1])})
    pq.write_table(table.slice(0, 200), folder / "0.parquet")
    pq.write_table(table.slice(200), folder / "1.parquet")
    return ""


def placed(where, form, images, reference, tmp_path, request):
    """Source and run of a form on one of the stores."""
    path = written(form, images, reference, tmp_path / "source")
    if where == "local":
        return str(tmp_path / "source" / path), str(tmp_path / "run")
    server = request.getfixturevalue("s3")
    bucket, files = server.bucket(), [file for file in (tmp_path / "source").rglob("*") if file.is_file()]

    def put(file: Path):
        server.client.put_object(
            Bucket=bucket, Key=f"in/{file.relative_to(tmp_path / 'source').as_posix()}", Body=file.read_bytes()
        )

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(put, files))
    return server.uri(f"{bucket}/in/{path}"), server.uri(f"{bucket}/run")


def by_key(store, artifact, column):
    return {row["key"]: row[column] for row in rows(store, artifact)}


def assert_same_features(store, reference, form):
    assert [row["image_id"] for row in rows(store, "features/status=ok")] == list(range(IMAGES))
    if form == "features npy":  # whose keys are numbers of rows
        assert np.array_equal(FeatureRows.of(store).features(), FeatureRows.of(reference).features())
        assert list(by_key(store, "features/status=ok", "image_id")) == [str(row) for row in range(IMAGES)]
    else:
        ours, theirs = (by_key(run, "features/status=ok", "features") for run in (store, reference))
        assert ours == theirs


def some(often):
    """Every place and form, those that are not run often marked so."""
    return [pytest.param(*one, marks=[] if one in often else pytest.mark.exhaustive) for one in PLACES]


@pytest.mark.parametrize(("where", "form"), some(EMBEDDED))
def test_features_of_every_form(form, where, images, reference, tmp_path, request):
    source, out = placed(where, form, images, reference, tmp_path, request)
    pipeline.run(tiny(source, out, **SMALL), last="embed", verbose=False)
    assert_same_features(Store(out), reference, form)
    assert list(violations(Store(out))) == []


@pytest.mark.parametrize(("where", "form"), some(WHOLE))
def test_labels_of_a_form(form, where, images, reference, tmp_path, request):
    source, out = placed(where, form, images, reference, tmp_path, request)
    pipeline.run(tiny(source, out, **SMALL), verbose=False)
    store = Store(out)
    assert_same_features(store, reference, form)
    for artifact in ("consensus", "predictions"):
        assert [row["label"] for row in rows(store, artifact)] == [row["label"] for row in rows(reference, artifact)]
        assert form == "features npy" or by_key(store, artifact, "label") == by_key(reference, artifact, "label")
    assert list(violations(store)) == []


def test_a_run_predicts_sources_of_other_forms(images, reference, tmp_path):
    """The form of a new source need not be that of the run; what the classifier reads must be."""
    forms.write("webdataset", images[:40], tmp_path / "tars")
    summary = pipeline.predict_source(reference.root, str(tmp_path / "tars"), str(tmp_path / "out"), verbose=False)
    assert summary["labelled"] == 40
    labels = by_key(Store(str(tmp_path / "out")), "predictions", "label")
    assert labels == {key: by_key(reference, "predictions", "label")[key] for key, _ in images[:40]}
    assert rows(Store(str(tmp_path / "out")), "predictions")[0]["uri"].startswith("00000.tar/0 #%é/")
    assert list(violations(Store(str(tmp_path / "out")))) == []
    np.save(tmp_path / "x.npy", np.ones((3, 5), np.float32))
    with pytest.raises(RunError, match=r"holds features, but the classifier of .* reads images"):
        pipeline.predict_source(reference.root, str(tmp_path / "x.npy"), str(tmp_path / "no"), verbose=False)


def test_a_run_on_features_predicts_features(images, reference, tmp_path):
    source = tmp_path / written("features npy", images, reference, tmp_path / "source")
    settings = tiny(tmp_path / "source" / source.name, tmp_path / "run", **SMALL)
    pipeline.run(settings, verbose=False)
    new = FeatureRows.of(reference).features().astype(np.float32)[:30]
    new[7, 0] = np.inf
    np.save(tmp_path / "new.npy", new)
    summary = pipeline.predict_source(
        settings.out, str(tmp_path / "new.npy"), str(tmp_path / "out"), limits=settings.resources, verbose=False
    )
    assert (summary["labelled"], summary["rejected_by_reason"]) == (29, {"nonfinite_feature": 1})
    expected = by_key(Store(settings.out), "predictions", "label")
    labels = by_key(Store(str(tmp_path / "out")), "predictions", "label")
    assert labels == {str(row): expected[str(row)] for row in range(30) if row != 7}
    forms.write("files", images[:3], tmp_path / "files")
    with pytest.raises(RunError, match=r"holds images, but the classifier of .* reads features"):
        pipeline.predict_source(settings.out, str(tmp_path / "files"), str(tmp_path / "no"), verbose=False)
    np.save(tmp_path / "narrow.npy", new[:, :9])
    with pytest.raises(RunError, match=r"has features of 9 numbers, the classifier of .* reads 324"):
        pipeline.predict_source(settings.out, str(tmp_path / "narrow.npy"), str(tmp_path / "no"), verbose=False)
