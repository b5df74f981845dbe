"""The same 500 images in every form of a source, on a local disk and on S3: the same features and labels by key."""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icce_ray import commands, pipeline
from icce_ray.backbones import describe_backbone, load_backbone
from icce_ray.io.decode import decode
from icce_ray.store import RunError, Store
from icce_ray.store.verify import violations
from tests import forms
from tests.barriers import barrier
from tests.failures import fails

from .conftest import tiny, write_digits
from .drivers import Driver, rows, run_command, shared_cluster

IMAGES = 500
SMALL = {"embed": {"rows_per_shard": 128}, "resources": {"embed_actors": 1}}
PRECOMPUTED = ("features npy", "features parquet")
ALL = [*forms.FORMS, *PRECOMPUTED]
OK, SLOW = "features/status=ok", (pytest.mark.slow(30), pytest.mark.faults)
#: What is embedded in every test run; all forms, killed and some run to their end, are slow.
EMBEDDED = [("local", "features parquet"), ("s3", "webdataset")]
WHOLE = ("hugging face", "features npy")
KILLS = ("manifest/part-*", f"{OK}/part-*")
CASES = [
    *(pytest.param(*place, (), id="-".join(place)) for place in EMBEDDED),
    *(
        pytest.param(*place, KILLS, id="-".join((*place, "killed")), marks=SLOW)
        for place in itertools.product(("local", "s3"), ALL)
    ),
]


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """(key, bytes) of 500 digits in folders, with names that need care in a URI."""
    folder = tmp_path_factory.mktemp("digits500") / "images"
    write_digits(folder, IMAGES)
    return sorted((f"{int(path.stem) // 100} #%é/{path.name}", path.read_bytes()) for path in folder.iterdir())


@pytest.fixture(scope="session")
def features(images):
    """float16 [500, 324] by the backbone alone."""
    backbone = load_backbone(describe_backbone("hog", "hog"))
    options = {"size": backbone.info.image_size, "resize": "squash", "max_pixels": 10**6}
    return backbone.embed(np.stack([decode(data, **options) for _, data in images])).main.astype(np.float16)


@pytest.fixture(scope="session")
def reference(images, tmp_path_factory):
    """The whole run on a folder."""
    folder = tmp_path_factory.mktemp("reference")
    forms.write("files", images, folder / "source")
    settings = tiny(folder / "source", folder / "run", **SMALL)
    pipeline.run(settings, verbose=False)
    return Store(settings.out)


def written(form, images, features, folder):
    """Path of the source below `folder`."""
    if form not in PRECOMPUTED:
        return forms.write(form, images, folder)
    folder.mkdir(parents=True)
    if form == "features npy":
        np.save(folder / "features.npy", features.astype(np.float32))
        return "features.npy"
    embedding = pa.FixedSizeListArray.from_arrays(features.astype(np.float32).ravel(), features.shape[1])
    table = pa.table({"key": [key for key, _ in images], "embedding": embedding})
    pq.write_table(table.slice(0, 200), folder / "0.parquet")
    pq.write_table(table.slice(200), folder / "1.parquet")
    return ""


def placed(where, path, tmp_path, request):
    """Source and run on one of the stores."""
    if where == "local":
        return str(tmp_path / "source" / path), str(tmp_path / "run")
    server = request.getfixturevalue("bucket_server")
    bucket = server.filled(tmp_path / "source")
    return server.uri(f"{bucket}/in/{path}"), server.uri(f"{bucket}/run")


def by_key(store, artifact, column):
    return {row["key"]: row[column] for row in rows(store, artifact)}


@pytest.mark.parametrize(("where", "form", "kills"), CASES)
def test_every_form_gives_the_same(where, form, kills, images, features, tmp_path, request, ends):
    """The features, and of some the labels of the folder, also of a run killed while listing and while embedding."""
    path = written(form, images, features, tmp_path / "source")
    settings = tiny(*placed(where, path, tmp_path, request), **SMALL)
    store, whole = Store(settings.out), kills and form in WHOLE
    for glob in kills:
        with barrier(store, glob, passes=1) as held:
            Driver(run_command(settings, tmp_path), tmp_path, ends, shared_cluster()).kill_at(held)
    pipeline.run(settings, last="predict" if whole else "embed", verbose=False)
    found = rows(store, OK)
    assert [row["image_id"] for row in found] == list(range(IMAGES))
    keys = [str(row) for row in range(IMAGES)] if form == "features npy" else [key for key, _ in images]
    assert [row["key"] for row in found] == keys
    np.testing.assert_array_equal([row["features"] for row in found], features)
    for artifact in ("consensus", "predictions") if whole else ():
        labels = [row["label"] for row in rows(request.getfixturevalue("reference"), artifact)]
        assert by_key(store, artifact, "label") == dict(zip(keys, labels, strict=True))
    assert list(violations(store)) == []


@pytest.mark.slow(10)
def test_a_run_predicts_sources_of_other_forms(images, reference, tmp_path):
    """The form of a new source need not be that of the run; what the classifier reads must be."""
    forms.write("webdataset", images[:40], tmp_path / "tars")
    summary = commands.predict(reference.root, str(tmp_path / "tars"), str(tmp_path / "out"), verbose=False)
    assert summary["labelled"] == 40
    labels = by_key(Store(str(tmp_path / "out")), "predictions", "label")
    assert labels == {key: by_key(reference, "predictions", "label")[key] for key, _ in images[:40]}
    assert rows(Store(str(tmp_path / "out")), "predictions")[0]["uri"].startswith("00000.tar/0 #%é/")
    assert list(violations(Store(str(tmp_path / "out")))) == []
    np.save(tmp_path / "x.npy", np.ones((3, 5), np.float32))
    with fails(RunError, "x.npy", "features", "images"):
        commands.predict(reference.root, str(tmp_path / "x.npy"), str(tmp_path / "no"), verbose=False)


@pytest.mark.slow(20)
def test_a_run_on_features_predicts_features(images, features, tmp_path):
    source = tmp_path / written("features npy", images, features, tmp_path / "source")
    settings = tiny(tmp_path / "source" / source.name, tmp_path / "run", **SMALL)
    pipeline.run(settings, verbose=False)
    new = features.astype(np.float32)[:30]
    new[7, 0] = np.inf
    np.save(tmp_path / "new.npy", new)
    summary = commands.predict(
        settings.out, str(tmp_path / "new.npy"), str(tmp_path / "out"), limits=settings.resources, verbose=False
    )
    assert (summary["labelled"], summary["rejected_by_reason"]) == (29, {"nonfinite_feature": 1})
    expected = by_key(Store(settings.out), "predictions", "label")
    labels = by_key(Store(str(tmp_path / "out")), "predictions", "label")
    assert labels == {str(row): expected[str(row)] for row in range(30) if row != 7}
    forms.write("files", images[:3], tmp_path / "files")
    with fails(RunError, tmp_path / "files", "images", "features"):
        commands.predict(settings.out, str(tmp_path / "files"), str(tmp_path / "no"), verbose=False)
    np.save(tmp_path / "narrow.npy", new[:, :9])
    with fails(RunError, "narrow.npy", "9 numbers", "324"):
        commands.predict(settings.out, str(tmp_path / "narrow.npy"), str(tmp_path / "no"), verbose=False)
