"""`icce demo` as a user calls it: the figures it must reach, the same in what it prints, and its page in a browser."""

import json
import re
import subprocess
import sys

import pytest

from icce_ray.export.predictors import export_predictor
from icce_ray.progress import Progress
from icce_ray.store import Store
from icce_ray.store.artifacts import PREDICTIONS
from tests.browser import chromium, opened, show
from tests.exported_runs import WITHOUT_US

STAGES = ("embed", "neighbors", "heads", "consensus", "classifier", "predict", "inspect")
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
    before = {path: path.stat().st_mtime_ns for path in paths if path.parent.name != "evaluation"}  # done each time
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


def test_its_page_shows_every_class_and_chart(first_demo):
    folder, _, metrics = first_demo
    with chromium() as browser, opened(browser, folder / "run-seed0/report/index.html") as tab:
        assert tab.locator("#cards .card").count() == 10
        tab.wait_for_function("[...document.querySelectorAll('.cover img')].some((one) => one.naturalWidth > 0)")
        acc = metrics["evaluation"]["classifier_seen"]["acc"]
        assert f"{100 * acc:.2f}%" in tab.inner_text("#sentence")
        show(tab, "figures")
        for place in tab.locator("[data-chart]").all():
            place.scroll_into_view_if_needed()
        tab.wait_for_function("[...document.querySelectorAll('[data-chart]')].every((one) => one.dataset.drawn)")
