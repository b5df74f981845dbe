"""Which form a source has, recognised by its files, and the same images in all of them, on disk and on S3."""

import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icce_ray.io.sources import LOOK_AT, SourceError, SourceSpec, find_source, open_source
from icce_ray.io.sources.parquet import parquet_format
from tests.failures import fails
from tests.forms import FORMS, write, write_tar
from tests.sources import bytes_of, write_parquet

FORMAT = {"one tar": "webdataset", "img2dataset": "webdataset", "one parquet": "parquet", "hugging face": "parquet"}
FORMAT |= {"uri table": "uris"}


def found(location, **options):
    return find_source(SourceSpec(str(location), **options))


@pytest.fixture(scope="module")
def images():
    draw = random.Random(0)
    return sorted(
        (f"{draw.choice('abc')}/ü {n:03d}.jpg", draw.randbytes(draw.choice([1, 600, 9000]))) for n in range(40)
    )


@pytest.fixture(params=["disk", "radosgw"])
def put(request, tmp_path):
    """Where a folder lies: as it is, or copied to a bucket."""

    def location(folder, below):
        if request.param == "disk":
            return str(folder / below) if below else str(folder)
        server = request.getfixturevalue(request.param)
        bucket = server.bucket()
        for path in folder.rglob("*"):
            if path.is_file():
                server.client.put_object(Bucket=bucket, Key=f"set/{path.relative_to(folder)}", Body=path.read_bytes())
        return server.uri(f"{bucket}/set/{below}" if below else f"{bucket}/set")

    return location


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_images(images, tmp_path, put, form):
    source = found(put(tmp_path / "source", write(form, images, tmp_path / "source")))
    assert source.spec.format == FORMAT.get(form, form)
    rows = pa.concat_tables(source.listing())
    again = open_source(source.spec)
    spans = again.spans(rows)
    assert [row for begin, end in spans for row in range(begin, end)] == list(range(len(images)))
    read = [one for begin, end in spans for one in bytes_of(again, rows.slice(begin, end - begin))]
    assert list(zip(rows["key"].to_pylist(), read, strict=True)) == images
    assert len(set(rows["uri"].to_pylist())) == len(images)
    paths = [path.encode() for path, _ in again.files()]
    assert paths == sorted(paths)
    assert again.digest() == source.digest()


def test_features(tmp_path, put):
    array = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
    for name, save in [
        ("npy", lambda folder: np.save(folder / "a.npy", array)),
        ("table", lambda folder: pq.write_table(pa.table({"embedding": list(array)}), folder / "a.parquet")),
    ]:
        (tmp_path / name).mkdir()
        save(tmp_path / name)
        for below in ["", next((tmp_path / name).iterdir()).name]:
            source = found(put(tmp_path / name, below))
            rows = pa.concat_tables(source.listing())
            assert (source.spec.format, source.dim) == ("features", 4)
            np.testing.assert_array_equal(open_source(source.spec).features(rows), array)


def test_what_lies_beside_does_not_matter(tmp_path):
    write_tar(tmp_path / "0.tar", [("1.jpg", b"1")])
    for name in ("0.txt", "README.lst", ".hidden.jpg", "x.csv"):
        (tmp_path / name).write_text("x")
    pq.write_table(pa.table({"url": ["http://a"], "jpg": [b"2"]}), tmp_path / "0.parquet")
    assert found(tmp_path).spec.format == "webdataset"
    (tmp_path / "0.tar").unlink()
    assert found(tmp_path).spec.format == "parquet"
    assert found(tmp_path, column="url").spec.format == "uris"


def test_what_cannot_be_told_is_asked(tmp_path):
    write_tar(tmp_path / "0.tar", [("1.jpg", b"1")])
    (tmp_path / "a.jpg").write_bytes(b"2")
    with fails(SourceError, "image files (1", "tar files (1)", "--format files or --format webdataset"):
        found(tmp_path)
    assert [found(tmp_path, format=name).spec.format for name in ("files", "webdataset")] == ["files", "webdataset"]
    with fails(SourceError, "use one of auto, files"):
        found(tmp_path, format="zip")


def test_compressed_tars_and_other_files(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(b"x")
    with fails(SourceError, "1 compressed tar files"):
        found(tmp_path)
    with fails(SourceError, "or a .tar"):
        found(tmp_path / "a.tar.gz")
    with fails(SourceError, "does not exist"):
        found(tmp_path / "gone")
    pq.write_table(pa.table({"label": [1]}), tmp_path / "a.parquet")
    with fails(SourceError, "label (int64)"):
        found(tmp_path / "a.parquet")


def test_images_far_behind_in_a_folder_are_found(tmp_path):
    for number in range(LOOK_AT + 50):
        (tmp_path / f"{number:05d}.json").touch()
    write_tar(tmp_path / "x.tar", [("1.jpg", b"1")])
    assert found(tmp_path).spec.format == "webdataset"


def test_what_a_parquet_file_holds(tmp_path):
    def kind(column=None, **columns):
        path = write_parquet(tmp_path / "a.parquet", columns)
        return parquet_format(SourceSpec(str(path), column=column), ""), parquet_format(
            SourceSpec(str(tmp_path), column=column), "a.parquet"
        )

    url, jpg, vector = pa.array(["http://a"]), pa.array([b"1"]), pa.array([[1.0]])
    fixed = pa.array([[1.0]], pa.list_(pa.float16(), 1))
    assert kind(url=url, jpg=jpg, vector=vector) == ("parquet", "parquet")
    assert kind(url=url, vector=vector) == kind(url=url, vector=fixed) == ("features", "features")
    assert kind(url=url, label=pa.array([1])) == ("uris", "uris")
    assert kind("url", url=url, jpg=jpg, vector=vector) == ("uris", "uris")
    assert kind("vector", url=url, jpg=jpg, vector=vector) == ("features", "features")
    with fails(SourceError, "label (int64), boxes (list"):
        kind(label=pa.array([1]), boxes=pa.array([[1]]))
    with fails(SourceError, "label (int64)"):
        kind("label", url=url, label=pa.array([1]))
    with fails(SourceError, "has column 'nope' 0 times"):
        kind("nope", url=url)
