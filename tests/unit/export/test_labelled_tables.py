"""Labels beside the user's own columns, loaded by the libraries that read them."""

import datasets
import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icce_ray.export import tables
from icce_ray.export.formats import export_predictions
from icce_ray.io.sources import SourceError, SourceSpec, find_source
from icce_ray.progress import Progress
from icce_ray.store import RunError
from tests.failures import fails
from tests.forms import IMAGE, write, write_arrow
from tests.labelled_runs import labelled, run_of
from tests.pictures import encode, scene

IMAGES = [(f"{row}.png", encode(scene(8 + row, 8), "PNG")) for row in range(7)]
LABELS = [0, 1, 1, None, 2, 0, 1]
READ = {
    "datasets": lambda out: datasets.load_from_disk(str(out)).data.table,
    "lance": lambda out: lance.dataset(out).to_table(),
}
OURS = {
    "icce_label": LABELS,
    "icce_confidence": [None if label is None else pytest.approx(0.7 + 0.01 * row) for row, label in enumerate(LABELS)],
    "icce_name": [None if label is None else {0: "cat", 2: "dog"}.get(label) for label in LABELS],
}


def own_table():
    """A user's table: a label of its own, categories, nested values, features of `datasets` in its metadata."""
    columns = {
        "image": pa.array([{"bytes": data, "path": key} for key, data in IMAGES], IMAGE),
        "label": pa.array(range(7), pa.int64()),
        "kind": pa.array(["x", "y", "x", None, "y", "x", "y"]).dictionary_encode(),
        "boxes": pa.array([[[1, 2]], [], None, [[3]], [], [], []]),
    }
    return pa.table(columns)


def as_parquet(folder):
    pq.write_table(own_table(), folder / "a.parquet", row_group_size=3)
    return folder / "a.parquet"


def as_datasets(folder):
    rows = own_table().to_pydict()
    known = {"image": datasets.Image(), "label": datasets.Value("int64"), "kind": datasets.Value("string")}
    features = datasets.Features(known | {"boxes": datasets.List(datasets.List(datasets.Value("int64")))})
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(rows, features).save_to_disk(str(folder / "saved"), num_shards=3)
    return folder / "saved"


def as_lance(folder):
    lance.write_dataset(own_table(), folder / "a.lance", max_rows_per_file=3)
    return folder / "a.lance"


def export(tmp_path, source, form, labels=LABELS):
    store = labelled(run_of(tmp_path / "run", str(source)), labels, classes=3)
    (tmp_path / "names.csv").write_text("label,name\n0,cat\n2,dog\n")
    out, names = tmp_path / "out", str(tmp_path / "names.csv")
    return out, export_predictions(store, form, str(out), Progress(), names=names)


@pytest.mark.parametrize("form", tables.FORMS)
@pytest.mark.parametrize("source", [as_parquet, as_datasets, as_lance])
def test_every_row_keeps_its_columns_and_gets_its_label(tmp_path, source, form, monkeypatch):
    monkeypatch.setattr(tables, "FILE_BYTES", 500)
    out, done = export(tmp_path, source(tmp_path), form)
    found = READ[form](out)
    own = own_table().to_pydict()
    assert found.to_pydict() == own | OURS
    assert done.images == 6
    # What was written is a source again, of the same images.
    again = find_source(SourceSpec(str(out)))
    assert (again.spec.format, sum(map(len, again.listing()))) == (form, 7)


def test_what_datasets_makes_of_it(tmp_path):
    """Images are pictures and labels have names there; nothing is executed and nothing is asked of the network."""
    out, _ = export(tmp_path, as_datasets(tmp_path), "datasets")
    data = datasets.load_from_disk(str(out))
    assert data.features["icce_label"].names == ["cat", "class-001", "dog"]
    assert [picture.size for picture in data["image"]] == [(8, 8 + row) for row in range(7)]
    assert sorted(path.name for path in out.iterdir()) == [
        *("data-00000-of-00001.arrow", "dataset_info.json", "state.json")
    ]


@pytest.mark.parametrize("form", tables.FORMS)
def test_a_folder_of_images_gives_a_table_of_their_paths(tmp_path, form):
    write("files", IMAGES, tmp_path / "photos")
    out, done = export(tmp_path, tmp_path / "photos", form)
    found = READ[form](out)
    kept = [row for row, label in enumerate(LABELS) if label is not None]
    assert found.column_names == ["uri", "key", "label", "confidence", "name", "image"]
    assert found["key"].to_pylist() == [f"{row}.png" for row in kept]
    assert found["label"].to_pylist() == [LABELS[row] for row in kept]
    assert [image["path"] for image in found["image"].to_pylist()] == [
        str(tmp_path / f"photos/{row}.png") for row in kept
    ]
    assert done.images == 6
    if form == "datasets":
        assert datasets.load_from_disk(str(out))[5]["image"].size == (8, 14)


@pytest.mark.parametrize("form", tables.FORMS)
def test_a_table_that_changed_is_not_joined(tmp_path, form):
    path = as_parquet(tmp_path)
    store = labelled(run_of(tmp_path / "run", str(path)), LABELS, classes=3)
    pq.write_table(own_table().slice(0, 6), path)
    with fails(RunError, path, "changed", "join by key"):
        export_predictions(store, form, str(tmp_path / "out"), Progress())
    pq.write_table(own_table().append_column("icce_label", [[0] * 7]), path)
    again = labelled(run_of(tmp_path / "again", str(path)), LABELS, classes=3)
    with fails(RunError, "icce_label", "rename or drop"):
        export_predictions(again, form, str(tmp_path / "out"), Progress())
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.parquet", "again", "run"]


@pytest.mark.parametrize("form", tables.FORMS)
def test_damage_behind_the_first_rows_is_named_and_leaves_nothing(tmp_path, form):
    """Also where Lance asks for the rows, through an interface that would lose the error."""
    for number in range(2):
        write_arrow(tmp_path / f"data-{number}.arrow", own_table().drop_columns("kind").slice(3 * number, 3))
    files = ", ".join(f'{{"filename": "data-{number}.arrow"}}' for number in range(2))
    (tmp_path / "state.json").write_text(f'{{"_data_files": [{files}]}}')
    store = labelled(run_of(tmp_path / "run", str(tmp_path)), LABELS[:6], classes=3)
    data = (tmp_path / "data-1.arrow").read_bytes()
    (tmp_path / "data-1.arrow").write_bytes(bytes(len(data)))
    with fails(SourceError, "data-1.arrow", "cannot be read"):
        export_predictions(store, form, str(tmp_path / "out"), Progress())
    assert not (tmp_path / "out").exists()
