"""Any bytes that a disk or an archive can hold as a name, from the source to predictions, exports and the page."""

import io
import json
import tarfile
from pathlib import Path

import datasets
import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from icce_ray.export.formats import FORMATS, export_predictions
from icce_ray.export.images import Sample
from icce_ray.export.tables import FORMS as LABELLED_TABLES
from icce_ray.io.filenames import to_bytes, to_text
from icce_ray.io.user_tables import read_user_table
from icce_ray.progress import Progress
from icce_ray.report.page import write_report
from icce_ray.report.pool import LONGEST_NAME
from icce_ray.store.artifacts import REPORT
from jobs.bench.made_run import make_run
from tests.labelled_runs import labelled, run_of
from tests.names import HOSTILE, is_hidden, paths, written
from tests.pictures import encode, scene
from tests.unit.report.test_page import Page

PNG = encode(scene(8, 8), "PNG")
EVERY = [b"/".join([name, name + b".png"]) for name in HOSTILE]


def picture(index):
    """Its last bytes tell which one it is."""
    return PNG + index.to_bytes(2, "big")


def in_folder(folder, names):
    return written(folder, names, picture)


def in_tar(folder, names):
    with tarfile.open(folder / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for index, name in enumerate(names):
            member = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
            member.size = len(picture(index))
            tar.addfile(member, io.BytesIO(picture(index)))
    return names


def in_parquet(folder, names):
    """Strings of any bytes, as many writers leave them."""
    raw = pa.array(names, pa.binary())
    keys = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    images = [picture(index) for index in range(len(names))]
    pq.write_table(pa.table({"key": keys, "image": images}), folder / "a.parquet")
    return names


def of_table(out):
    return [(key, None) for key in read_user_table("table", str(out), ["key"])["key"].to_pylist()]


def of_imagefolder(out):
    table = read_user_table("table", f"{out}/metadata.csv", ["file_name", "key"]).to_pylist()
    return [(row["key"], (out / row["file_name"]).read_bytes()) for row in table]


def of_fiftyone(out):
    labels = json.loads((out / "labels.json").read_text())["labels"]
    return [(one["attributes"]["key"], (out / "data" / f"{stem}.png").read_bytes()) for stem, one in labels.items()]


def of_webdataset(out):
    with tarfile.open(out / "shard-000000.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    stems = [name.removesuffix(".png") for name in members if name.endswith(".png")]
    return [(json.loads(members[f"{stem}.json"])["key"], members[f"{stem}.png"]) for stem in stems]


def of_labelled_table(out):
    """The run's keys, or the user's own column."""
    is_folder = (out / "state.json").exists()
    table = datasets.load_from_disk(str(out)).data.table if is_folder else lance.dataset(out).to_table()
    return [(key, None) for key in table["key"].to_pylist()]


READERS = dict.fromkeys(("datasets", "lance"), of_labelled_table)
READERS |= {"imagefolder": of_imagefolder, "fiftyone": of_fiftyone, "webdataset": of_webdataset}


@pytest.mark.parametrize("source", [in_folder, in_tar, in_parquet])
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(names=st.lists(paths, min_size=1, max_size=8, unique=True))
@example(names=EVERY)
def test_every_name_is_there_once_and_can_be_had_back(tmp_path_factory, source, names):
    folder = tmp_path_factory.mktemp("names")
    (folder / "source").mkdir()
    found = set(source(folder / "source", names))
    expected = {
        name: picture(index)
        for index, name in enumerate(names)
        if name in found and (source is in_parquet or not is_hidden(name))
    }
    assume(expected)
    store = labelled(run_of(folder / "run", str(folder / "source")), [0] * len(expected), classes=1)
    for form in FORMATS if names == EVERY else [form for form in FORMATS if form not in LABELLED_TABLES]:
        out = Path(f"{folder}/out.{form}")
        done = export_predictions(store, form, str(out), Progress())
        assert (done.images, done.unreadable.total()) == (len(expected), 0)
        rows = READERS.get(form, of_table)(out)
        assert len(rows) == len(expected)
        assert {to_bytes(key): data or expected[to_bytes(key)] for key, data in rows} == expected


@settings(max_examples=2, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(names=st.lists(paths, min_size=20, max_size=20, unique=True))
@example(names=EVERY[: len(EVERY) // 2])
@example(names=EVERY[len(EVERY) // 2 :])
def test_the_page_shows_every_name_as_text(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("names")
    (folder / "source").mkdir()
    found = [name for name in in_folder(folder / "source", names) if not is_hidden(name)]
    store = make_run(str(folder / "run"), str(folder / "source"), clusters=2, heads=2, epochs=3)
    write_report(store, Progress())
    text = store.storage.read_bytes(REPORT).decode()
    page = Page(text)
    assert text.count("<script>") == 1  # the page's own; those of data have a type
    assert page.tags.count("script") == 1 + text.count("<script type=")
    assert "b" not in page.tags
    images = page.data("data-images")
    tiles = [images[str(image)] for one in page.data("data-classes") for ids in one["tiles"] for image in ids]
    assert all(tile["picture"] for tile in tiles)
    half = LONGEST_NAME // 2
    texts = [to_text(name) for name in found]
    cut = {text if len(text) <= LONGEST_NAME else f"{text[:half]}…{text[-half:]}" for text in texts}
    assert {tile["uri"] for tile in tiles} == cut


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (r"caf\xe9s.jpg", "7-caf_s.jpg"),  # one byte of Latin-1, no folder "caf"
        (r"C:\photos\b.jpg", "7-b.jpg"),
        (r"a/\x5cxe9.jpg", "7-xe9.jpg"),  # a backslash of the name itself
    ],
)
def test_the_backslash_of_a_byte_in_a_key_is_no_separator(key, name):
    assert Sample("7", key, key, 0, 1.0, b"", ".jpg").file_name == name
