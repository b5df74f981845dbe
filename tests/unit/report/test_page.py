"""The page as a file: what is in it for every kind of run, and that no name becomes markup."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest

from icce_ray import commands
from icce_ray.progress import Progress
from icce_ray.report.page import write_report
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import REPORT, TRUE_EXAMPLES
from icce_ray.store.shards import shard_path
from jobs.bench.made_run import make_run
from tests.failures import fails
from tests.unit.report.conftest import HOSTILE, source_of


class Page(HTMLParser):
    """Elements, attributes, texts by id of their element, and the visible text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.seen = [], [], {}, []
        self._open = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "link", "img", "input", "br"):
            self._open.append((tag, dict(attrs).get("id")))

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        for tag, name in self._open[-1:]:
            self.texts[name] = self.texts.get(name, "") + data
            if tag not in ("script", "style"):
                self.seen.append(data)

    def data(self, name):
        return json.loads(self.texts[name])


@pytest.fixture
def run(tmp_path, made):
    """A copy that a test may change."""
    return Store(str(shutil.copytree(made.root, tmp_path / "run")))


def page_of(store, **options):
    write_report(store, Progress(), **options)
    return Page(store.storage.read_bytes(REPORT).decode())


def seen(page):
    return re.sub(r"\s+", " ", " ".join(page.seen))


def test_a_whole_run(run):
    page = page_of(run)
    text = seen(page)
    for expected in ("590", "of 600 inputs", "ANMI", "0.800", "truncated : 4", "made up, 3", "threshold", "hog"):
        assert expected in text, expected
    assert "2 <b>heads</b> stopped" in text  # as text
    assert "b" not in page.tags
    assert {one for name, one in page.attributes if name == "data-chart"} == {
        *("sizes", "losses", "counts", "lengths", "agreement", "grid"),
    }
    assert set(page.data("data-charts")) == {"sizes", "losses", "counts", "lengths", "agreement", "grid"}
    classes, images = page.data("data-classes"), page.data("data-images")
    assert [one["label"] for one in classes] == list(range(7))
    assert sum(one["size"] for one in classes) == 590
    for one in classes:
        assert [len(ids) for ids in one["tiles"]] == [20, 20, 20]
        assert all(images[str(image_id)]["picture"] for ids in one["tiles"] for image_id in ids)
        # Heads of the made-up run take every fifth image for one of the next class.
        assert {other for other, _ in one["near"][:2]} == {(one["label"] + 1) % 7, (one["label"] - 1) % 7}


def test_nothing_is_asked_of_any_network(run):
    write_report(run, Progress())
    text = run.storage.read_bytes(REPORT).decode()
    page = Page(text)
    assert {value for name, value in page.attributes if name in ("src", "href")} <= {
        value for _, value in page.attributes if value and (value.startswith("#") or value == "data:,")
    }
    assert "url(" not in text
    assert "@import" not in text
    assert len(text) < 4_000_000


def test_the_same_run_gives_the_same_bytes_and_is_not_written_twice(run):
    write_report(run, Progress())
    before = run.storage.read_bytes(REPORT)
    run.storage.delete(REPORT)
    write_report(run, Progress())
    assert run.storage.read_bytes(REPORT) == before


def test_no_name_becomes_markup(tmp_path):
    source = source_of(tmp_path / '<b>bold & "quoted" {{ 7*7 }}', 30, HOSTILE)
    page = page_of(make_run(str(tmp_path / "run"), source, clusters=2, heads=2, epochs=3))
    assert "b" not in page.tags
    # Beside data, the charts' library and the page's own.
    assert page.tags.count("script") == page.attributes.count(("type", "application/json")) + 2
    assert source in seen(page)
    # All 30 images are shown, and hostile names come back letter by letter.
    assert {one["key"] for one in page.data("data-images").values()} == {
        *HOSTILE,
        *(f"{row:05d}.jpg" for row in range(len(HOSTILE), 30)),
    }


def test_names_of_classes(run, tmp_path):
    (tmp_path / "names.csv").write_text('label,name\n3,"cats & <dogs>"\n')
    page = page_of(run, names=str(tmp_path / "names.csv"))
    assert [one["name"] for one in page.data("data-classes")] == ["", "", "", "cats & <dogs>", "", "", ""]
    (tmp_path / "names.csv").write_text("label,name\n7,cats\n")
    with fails(RunError, "'7'", "0 to 6"):
        page_of(run, names=str(tmp_path / "names.csv"))


def test_scores_and_confusions_where_there_are_labels(run):
    classes = [{"class": f"<i>{label}", "share": 0.5} for label in range(7)]
    confused = [{"label": 2, "taken_for": "<i>2", "true": "<i>5", "images": 1234}]
    score = {"acc": 0.9713, "nmi": 0.5, "ari": 0.25, "images": 590}
    run.record("evaluation", {"classifier_seen": score, "classes": classes, "confused": confused})
    page = page_of(run)
    text = seen(page)
    assert "97.13" in text
    assert "Most confused" in text
    assert "1,234" in text
    assert "<i>5" in text
    assert "i" not in page.tags
    assert page.data("data-classes")[3]["truth"] == {"class": "<i>3", "share": 0.5}


def test_the_images_of_a_class_by_their_true_classes(run):
    rows = run.storage.read_table("predictions/part-000000.parquet").to_pylist()
    first, second, other = (
        *[row["image_id"] for row in rows if row["label"] == 2][:2],
        next(row["image_id"] for row in rows if row["label"] == 3),
    )
    table = {"image_id": [first, other, second], "label": [2, 2, 2], "true": ["<i>cat", "<i>cat", "dog"]}
    run.storage.write_table(TRUE_EXAMPLES, pa.table(table))
    page = page_of(run)
    # `other` was of class 2 when the evaluation was made.
    assert page.data("data-classes")[2]["true"] == [["<i>cat", [first]], ["dog", [second]]]
    assert page.data("data-images")[str(second)]["picture"]


def test_a_run_of_an_earlier_version_says_what_its_predictions_lack(run):
    assert "--redo predict" not in seen(page_of(run))
    marker, path = run.marker("predict"), "predictions/part-000000.parquet"
    table = run.storage.read_table(path).drop_columns(["runner_up", "runner_up_confidence"])
    files = [run.storage.write_table(path, table)]
    run.commit("predict", files, fingerprint=marker.fingerprint, summary=marker.summary, seconds=1.0)
    page = page_of(run)
    assert "--redo predict" in seen(page)
    assert all(one["border"] is None and len(one["tiles"][0]) == 20 for one in page.data("data-classes"))
    assert all("second" not in one for one in page.data("data-images").values())


def test_a_run_that_was_not_inspected_says_how_to_get_its_tree(run):
    run.storage.delete_tree("inspection")
    page = page_of(run)
    assert page.data("data-tree").keys() == {"missing"}
    assert "icce run` command again" in page.data("data-tree")["missing"]
    assert {one["agreement"] for one in page.data("data-classes")} == {None}


def test_a_run_that_has_only_features(run):
    for stage in ("inspection", "predictions", "classifier", "consensus", "head_labels", "heads", "neighbors"):
        run.storage.delete_tree(stage)
    page = page_of(run)
    assert "data-classes" not in page.texts
    assert "not complete" in seen(page)
    assert page.data("data-charts") == {}


def test_shards_without_rows_change_nothing(run, made):
    """As where every image of a shard was rejected."""
    artifacts = {"neighbors": "neighbors", "heads": "head_labels", "consensus": "consensus", "predict": "predictions"}
    for stage, artifact in artifacts.items():
        marker = run.marker(stage)
        none = run.storage.read_table(shard_path(artifact, 0)).slice(0, 0).combine_chunks()
        files = [*marker.files, run.storage.write_table(shard_path(artifact, 1), none)]
        run.commit(stage, files, fingerprint=marker.fingerprint, summary=marker.summary, seconds=marker.seconds)
    page, before = page_of(run), page_of(made)
    assert page.data("data-classes") == before.data("data-classes")
    assert page.data("data-images") == before.data("data-images")
    assert page.data("data-charts") == before.data("data-charts")
    made.storage.delete(REPORT)


def test_a_source_that_is_gone_is_said(tmp_path, made):
    source = shutil.copytree(f"{made.root}/../images", tmp_path / "images")
    store = make_run(str(tmp_path / "run"), str(source), clusters=3, heads=2, epochs=3)
    shutil.rmtree(source)
    page = page_of(store)
    assert "No pictures: " in seen(page)
    assert str(source) in seen(page)
    shown = page.data("data-images")
    assert {image_id for one in page.data("data-classes") for ids in one["tiles"] for image_id in ids} == set(
        map(int, shown)
    )
    assert all(one["key"] and "picture" not in one for one in shown.values())


def test_features_are_shown_by_name(tmp_path):
    np.save(tmp_path / "features.npy", np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32))
    store = make_run(str(tmp_path / "run"), str(tmp_path / "features.npy"), clusters=3, heads=2, epochs=3)
    page = page_of(store)
    assert "holds features" in seen(page)
    shown = page.data("data-images").values()
    assert shown
    assert all(one["uri"].startswith("features.npy/") and "picture" not in one for one in shown)


def test_what_is_no_run(tmp_path):
    with fails(RunError, str(tmp_path), "run.yaml"):
        write_report(Store(str(tmp_path)), Progress())
    Store(str(tmp_path)).claim_prediction({"run": "x", "classifier": "y", "source": "z"})
    with fails(RunError, str(tmp_path), "`icce predict`", "give the run"):
        write_report(Store(str(tmp_path)), Progress())
    with fails(RunError, str(tmp_path), "`icce predict`", "give the run"):
        commands.report(str(tmp_path), verbose=False)
    assert [path.name for path in tmp_path.iterdir()] == ["prediction.yaml"]
