"""`icce demo` as a person calls it: the figures it must reach, and the same figures in what it prints."""

import json
import re

from tests.e2e.conftest import demo

STAGES = ("embed", "neighbors", "heads", "consensus", "classifier", "predict")
ROWS = {
    "k-means on the same features": "kmeans",
    "mean of 16 heads": "mean_head",
    "best head": "best_head",
    "consensus": "consensus",
    "classifier, seen images": "classifier_seen",
    "classifier, unseen images": "classifier_unseen",
}


def cells(out, name):
    """The cells of the table rows whose first cell begins so."""
    lines = [re.split(r"[│┃]", line)[1:-1] for line in out.splitlines() if "│" in line]
    return [[cell.strip() for cell in row[1:]] for row in lines if row[0].strip().startswith(name)]


def test_the_figures_are_good(first_demo):
    _, _, metrics = first_demo
    scores = {name: entry["acc"] for name, entry in metrics["evaluation"].items() if isinstance(entry, dict)}
    assert scores["consensus"] >= 0.94
    assert scores["consensus"] >= scores["kmeans"] + 0.05
    assert scores["consensus"] > scores["highest_head"] >= scores["best_head"]
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


def test_a_second_call_does_nothing_in_the_finished_stages(first_demo):
    folder, _, metrics = first_demo
    told = ("metrics.json", "metrics.jsonl")  # of every start
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name not in told]
    before = {path: path.stat().st_mtime_ns for path in paths}
    assert len(before) > 1797
    before.pop(folder / "labels.csv")
    out, err = demo(folder)
    assert len(re.findall("nothing to do", err)) == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before
    again = json.loads((folder / "run-seed0/metrics.json").read_text())
    assert {stage: again[stage] for stage in STAGES} == {stage: metrics[stage] for stage in STAGES}
    assert again["evaluation"] == metrics["evaluation"]
    assert cells(out, "consensus")
