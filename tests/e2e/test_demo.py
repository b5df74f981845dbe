"""`icce demo` as a user calls it: the figures it must reach, the same in what it prints, and its page in a browser.

Also in the browser: the page of a run with hostile names, and any that ICCE_REPORTS names.

ICCE_REPORTS: paths of `report/index.html`, with the system's separator between them, for runs that take too long here.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from icce_ray.export.predictors import export_predictor
from icce_ray.progress import Progress
from icce_ray.report.page import write_report
from icce_ray.store import Store
from icce_ray.store.artifacts import PREDICTIONS
from jobs.bench.made_run import make_run
from tests.exported_runs import WITHOUT_US
from tests.unit.report.conftest import HOSTILE, source_of

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FURTHER = [path for path in os.environ.get("ICCE_REPORTS", "").split(os.pathsep) if path]
#: The levels of axe-core's rules that an accessible page must meet.
GRAVE = ("critical", "serious")
STAGES = ("embed", "neighbors", "heads", "consensus", "classifier", "predict")
ROWS = {
    "k-means on the same features": "kmeans",
    "mean of 16 heads": "mean_head",
    "best head": "best_head",
    "consensus": "consensus",
    "classifier, seen images": "classifier_seen",
    "classifier, unseen images": "classifier_unseen",
}
#: Prints {file name: (label, probability)} of the digits in a folder.
UNSEEN = f"""{WITHOUT_US}
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

paths = sorted(Path(sys.argv[1]).iterdir())
pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
session = onnxruntime.InferenceSession("predictor.onnx", providers=["CPUExecutionProvider"])
(found,) = session.run(None, {{"pixels": pixels}})
print(json.dumps({{path.name: (int(row.argmax()), float(row.max())) for path, row in zip(paths, found)}}))
"""


def cells(out, name):
    """The cells of the table rows whose first cell begins so."""
    lines = [re.split(r"[│┃]", line)[1:-1] for line in out.splitlines() if "│" in line]
    return [[cell.strip() for cell in row[1:]] for row in lines if row[0].strip().startswith(name)]


def test_the_figures_are_good(first_demo):
    _, _, metrics = first_demo
    scores = {name: entry["acc"] for name, entry in metrics["evaluation"].items() if isinstance(entry, dict)}
    assert scores["consensus"] >= 0.95
    assert scores["consensus"] >= scores["kmeans"] + 0.05
    assert scores["highest_head"] >= scores["best_head"]
    assert scores["consensus"] > scores["mean_head"]
    assert abs(scores["classifier_unseen"] - scores["consensus"]) <= 0.02
    assert metrics["evaluation"]["images"] == 1438
    assert metrics["evaluation"]["classifier_unseen"]["images"] == 359
    consensus = metrics["consensus"]
    assert set(consensus["scores"]) == {"cspa", "hgpa", "mcla", "hbgf"}
    assert consensus["anmi"] >= max(consensus["scores"].values()) > 0.7
    assert all(metrics[stage]["seconds"] > 0 for stage in STAGES)
    assert sum(metrics[stage]["seconds"] for stage in STAGES) < metrics["demo"]["seconds"]


def test_the_printed_tables_have_the_same_figures(first_demo):
    folder, out, metrics = first_demo
    for text, name in ROWS.items():
        scores = metrics["evaluation"][name]
        expected = [*(f"{100 * scores[key]:.2f}" for key in ("acc", "nmi", "ari")), f"{scores['images']:,}"]
        assert expected in cells(out, text), (text, expected)
    for method, score in metrics["consensus"]["scores"].items():
        assert [f"{score:.4f}"] in cells(out, method)
    for stage in STAGES:
        (row,) = [row for row in cells(out, stage) if row[0] == "complete"]
        assert f"{metrics[stage]['seconds']:.1f}" in row
    assert f"{folder}/run-seed0/metrics.json" in out


@pytest.mark.slow(20)
def test_its_classifier_labels_unseen_digits_without_us(first_demo, tmp_path):
    """As `icce predict` has done: every label, and every probability to 0.001."""
    folder, _, _ = first_demo
    export_predictor(Store(str(folder / "run-seed0")), "onnx", str(tmp_path / "onnx"), Progress())
    result = subprocess.run(
        [sys.executable, "-c", UNSEEN, folder / "unseen"], cwd=tmp_path / "onnx", capture_output=True, check=True
    )
    found, store = json.loads(result.stdout), Store(str(folder / "unseen-seed0"))
    tables = [store.storage.read_table(info.path) for info in PREDICTIONS.files(store.require("predict").files)]
    rows = [row for table in tables for row in table.to_pylist()]
    assert len(rows) == len(found) == 359
    assert {row["key"]: row["label"] for row in rows} == {key: label for key, (label, _) in found.items()}
    assert max(abs(found[row["key"]][1] - row["confidence"]) for row in rows) < 1e-3


def test_a_second_call_does_nothing_in_the_finished_stages(first_demo, icce):
    folder, _, metrics = first_demo
    logs = ("metrics.json", "metrics.jsonl")  # of every start
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name not in logs]
    before = {path: path.stat().st_mtime_ns for path in paths}
    assert len(before) > 1797
    before.pop(folder / "labels.csv")
    status, out, err = icce("demo", "--out", folder)
    assert status == 0
    assert len(re.findall("nothing to do", err)) == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before
    again = json.loads((folder / "run-seed0/metrics.json").read_text())
    assert {stage: again[stage] for stage in STAGES} == {stage: metrics[stage] for stage in STAGES}
    assert again["evaluation"] == metrics["evaluation"]
    assert cells(out, "consensus")


# -- in a browser -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium without any network."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: `apt-get install chromium`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The page of a made-up run with hostile names, 40 classes, rejects and an alarm."""
    folder = tmp_path_factory.mktemp("hostile")
    source = source_of(folder / "<i>images & 'quotes'", 2000, HOSTILE)
    store = make_run(str(folder / "run"), source, clusters=40, heads=6, rejects=7, alarms=["<b>2 heads</b> stopped"])
    (folder / "names.csv").write_text('label,name\n3,"<i>cats</i> & dogs"\n')
    return write_report(store, Progress(), names=str(folder / "names.csv"))


OTHERS = [pytest.param(one, marks=pytest.mark.slow(3)) for one in ("hostile", *FURTHER)]
of_every_page = pytest.mark.parametrize("report", ["demo", *OTHERS], indirect=True)
of_others = pytest.mark.parametrize("report", OTHERS, indirect=True)


@pytest.fixture
def report(request):
    """A page as a path."""
    if request.param == "demo":
        return str(request.getfixturevalue("first_demo")[0] / "run-seed0/report/index.html")
    return request.getfixturevalue("hostile") if request.param == "hostile" else request.param


@contextmanager
def opened(browser, report, *, width=1200, **options):
    """The page in a tab of its own, all of it seen once; at the end, nothing went wrong and nothing was asked for."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    messages, asked = [], []
    tab = context.new_page()
    tab.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(Path(report).as_uri())
    for place in tab.locator("[data-chart]").all():
        place.scroll_into_view_if_needed()
    tab.wait_for_function("[...document.querySelectorAll('[data-chart]')].every((one) => one.dataset.drawn)")
    tab.locator("#cards .card").first.scroll_into_view_if_needed()
    tab.wait_for_function("[...document.querySelectorAll('.tiles img')].some((one) => one.naturalWidth > 0)")
    yield tab
    assert messages == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert [url for url in asked if url.startswith("file:")] == [Path(report).as_uri()]
    context.close()


def labels(tab):
    return [
        int(name.removeprefix("class-")) for name in tab.locator("#cards .card").evaluate_all("a => a.map(b => b.id)")
    ]


@of_every_page
def test_the_gallery_finds_and_sorts(browser, report):
    with opened(browser, report) as tab:
        every = labels(tab)
        assert every == list(range(len(every)))
        data = tab.evaluate("JSON.parse(document.getElementById('data-classes').textContent)")
        size = {one["label"]: one["size"] for one in data}
        for order, key in {
            "large": lambda label: (-size[label], label),
            "small": lambda label: (size[label], label),
            "doubt": lambda label: (data[label]["agreement"], label),
        }.items():
            tab.select_option("#sort", order)
            assert labels(tab) == sorted(every, key=key)
        tab.fill("#find", "3")
        assert labels(tab) == [3]
        assert tab.inner_text("#found") == f"1 of {len(every)} classes"
        name = data[5]["tiles"][0][0].get("key", data[5]["tiles"][0][0]["uri"])
        tab.fill("#find", name.upper())
        assert 5 in labels(tab)
        assert len(labels(tab)) < len(every)
        tab.fill("#find", "no such image")
        assert labels(tab) == []
        # A link to a class that is hidden brings it back.
        tab.evaluate("location.hash = '#class-5'")
        tab.wait_for_function("document.querySelectorAll('#cards .card').length > 1")
        assert sorted(labels(tab)) == every


@of_every_page
def test_a_picture_opens_large(browser, report):
    with opened(browser, report) as tab:
        tile = tab.locator(".tiles button").first
        name = tile.get_attribute("title")
        tile.click()
        assert tab.locator("#large").evaluate("one => one.open")
        assert tab.inner_text("#large-name") in name or name.rpartition(",")[0] in tab.inner_text("#large-name")
        assert tab.locator("#large-picture").evaluate("one => one.naturalWidth") > 0
        tab.keyboard.press("Escape")
        assert not tab.locator("#large").evaluate("one => one.open")


@of_others
def test_dark_as_the_system_or_the_button_says(browser, report):
    ground = "getComputedStyle(document.body).backgroundColor"
    ink = "document.querySelector('[data-chart] text').style.fill"
    with opened(browser, report, color_scheme="dark") as tab:
        dark = tab.evaluate(f"[{ground}, {ink}]")
        tab.click("#theme")
        tab.wait_for_function(f"{ink} != '{dark[1]}'")
        light = tab.evaluate(f"[{ground}, {ink}]")
    with opened(browser, report, color_scheme="light") as tab:
        assert tab.evaluate(f"[{ground}, {ink}]") == light
    assert sum(map(int, dark[0][4:-1].split(","))) < 150
    assert sum(map(int, light[0][4:-1].split(","))) > 700


@of_others
def test_a_phone_needs_no_sideways_scrolling(browser, report):
    with opened(browser, report, width=375) as tab:
        for step in range(40):
            tab.evaluate(f"scrollTo(0, {step} * 900)")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 375
        right = "[...document.querySelectorAll('main > section')].map((one) => one.getBoundingClientRect().right)"
        assert max(tab.evaluate(right)) <= 375


@of_others
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_grave_fault(browser, report, scheme):
    from axe_playwright_python.sync_playwright import Axe

    with opened(browser, report, color_scheme=scheme) as tab:
        found = Axe().run(tab).response["violations"]
        assert [
            (one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found if one["impact"] in GRAVE
        ] == []


def test_names_are_shown_as_text(browser, hostile):
    with opened(browser, hostile) as tab:
        assert "owned" not in tab.title()
        assert tab.locator("#cards b, #cards i, #cards script, main i, main b").count() == 0
        assert tab.locator(".alarms").inner_text().endswith("<b>2 heads</b> stopped")
        assert tab.locator("#class-3 h3").text_content() == "Class 3: <i>cats</i> & dogs"
        assert tab.locator("h1").text_content().endswith("<i>images & 'quotes'")
        shown = 0
        for name in HOSTILE:
            tab.fill("#find", name)
            for card in tab.locator("#cards .card").all():
                card.scroll_into_view_if_needed()
                tile = card.locator("img").and_(tab.get_by_alt_text(name, exact=True))
                tile.first.wait_for()
                assert tile.first.get_attribute("alt") == name
                shown += 1
        assert shown >= 3  # the others were not picked
        assert "owned" not in tab.title()
