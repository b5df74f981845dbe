"""What is new in a source, against the names and versions that were listed before."""

import numpy as np
import pyarrow as pa
import pytest

from icce_ray.io.sources import SourceSpec, find_source
from icce_ray.progress import Progress
from icce_ray.stages import listing
from icce_ray.stages.growth import CHANGED, KNOWN, NEW, Listed, compared, run
from icce_ray.store import Store
from icce_ray.store.updates import place_of


def filled(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in files.items():
        (folder / f"{name}.png").write_bytes(b"x" * size)
    return find_source(SourceSpec(str(folder)))


def listed(store, files, summary):
    store.commit("list", files, fingerprint="", summary=summary, seconds=0)
    return files, summary


def new_in(source, known, store):
    files, summary = listed(store, *run(source, known, store, Progress(), 3))
    names = [name for info in files for name in store.storage.read_table(info.path)["uri"].to_pylist()]
    return names, summary


@pytest.fixture
def photos(tmp_path):
    """A folder of seven images that a run has listed."""
    source, store = filled(tmp_path / "photos", **dict.fromkeys("abcdefg", 10)), Store(str(tmp_path / "run"))
    listed(store, *listing.run(source, store, Progress(), 3))
    return tmp_path / "photos", [Listed.of(store, source.spec.location)]


def test_nothing_is_new_in_what_was_listed(photos, tmp_path):
    folder, known = photos
    names, summary = new_in(filled(folder), known, Store(str(tmp_path / "update")))
    assert names == []
    assert (summary["listed"], summary["images"], summary["changed"]) == (7, 0, 0)


def test_new_names_and_new_versions_are_found_in_their_order(photos, tmp_path):
    folder, known = photos
    update = Store(str(tmp_path / "update"))
    names, summary = new_in(filled(folder, bb=10, c=11, h=10), known, update)
    assert names == ["bb.png", "c.png", "h.png"]
    assert (summary["listed"], summary["images"], summary["changed"], summary["bytes"]) == (9, 3, 1, 31)
    assert not [path for path, _ in update.storage.list() if "listing" in path]


def test_a_version_is_compared_with_the_last_one(photos, tmp_path):
    folder, known = photos
    update = Store(str(tmp_path / "update"))
    new_in(filled(folder, c=11), known, update)
    names, _ = new_in(filled(folder, c=10), [*known, Listed.of(update, str(folder))], Store(str(tmp_path / "next")))
    assert names == ["c.png"]


def test_images_are_known_across_folders_by_where_they_lie(photos, tmp_path, monkeypatch):
    folder, known = photos
    filled(folder / "2026", z=10)
    elsewhere = filled(tmp_path / "others", a=10)
    assert new_in(elsewhere, known, Store(str(tmp_path / "one")))[0] == ["a.png"]
    assert new_in(find_source(SourceSpec(str(tmp_path))), known, Store(str(tmp_path / "two")))[0] == [
        "others/a.png",
        "photos/2026/z.png",
    ]
    (folder / "list.txt").write_text(f"a.png\n{folder}/b.png\n2026/z.png\n")
    of_list = find_source(SourceSpec(str(folder / "list.txt")))
    assert new_in(of_list, known, Store(str(tmp_path / "three")))[0] == ["2026/z.png"]
    monkeypatch.chdir(tmp_path)
    assert place_of("photos") == place_of(f"{folder}/") == place_of(f"file://{folder}")


def test_every_partition_says_what_a_look_at_each_image_says():
    random = np.random.default_rng(0)

    def rows(generation, count, names):
        keys, sizes = random.choice(["", "k"], count).tolist(), random.integers(-1, 3, count).tolist()
        return [(f"n{random.integers(names)}", *one, generation) for one in zip(keys, sizes, strict=True)]

    known, new = [*rows(0, 30, 40), *rows(1, 30, 40)], rows(2, 80, 60)

    def state(name, key, size, _):
        last = max((generation for other, _, _, generation in known if other == name), default=None)
        versions = [one[1:3] for one in known if (one[0], one[3]) == (name, last)]
        same = (key, size) in versions if size >= 0 else key in [one for one, _ in versions]
        return NEW if last is None else KNOWN if same else CHANGED

    columns = [pa.array(column) for column in zip(*known, *new, strict=True)]
    number = pa.array([-1] * len(known) + list(range(len(new))), pa.int64())
    table = pa.table([*columns, number], ["name", "key", "size", "generation", "number"])
    answer = compared(table.take(random.permutation(len(table)))).sort_by("number")["state"].to_pylist()
    assert answer == [state(*one) for one in new]
    assert set(answer) == {NEW, KNOWN, CHANGED}
