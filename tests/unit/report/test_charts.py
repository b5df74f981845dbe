"""Charts hold the run's own figures: what they plot is counted again, the slow way."""

import base64

import numpy as np
import pyarrow as pa
import pytest
import yaml

from icce_ray.export.superclasses import hierarchy_of
from icce_ray.report import charts
from icce_ray.report.labels import labelled
from icce_ray.store.artifacts import NEIGHBORS, PREDICTIONS, SWEEPS


def values(axis):
    """Numbers of a trace, as Plotly takes them: a list, or bytes with their type."""
    if isinstance(axis, dict):
        return np.frombuffer(base64.b64decode(axis["bdata"]), axis["dtype"]).reshape(
            [int(part) for part in axis.get("shape", "-1").split(",")]
        )
    return np.array(axis)


def table_of(store, table):
    files = table.files(store.marker(table.stage).files)
    return pa.concat_tables([store.storage.read_table(info.path) for info in files])


def test_neighbours_against_the_threshold(made):
    curve, lengths = charts.neighbors(made)
    lists = [np.array(one) for one in table_of(made, NEIGHBORS)["similarities"].to_pylist()]
    (trace,) = curve.figure["data"]
    for threshold, mean in zip(values(trace["x"]), values(trace["y"]), strict=True):
        assert mean == pytest.approx(np.mean([(one >= threshold).sum() for one in lists]), abs=1e-9)
    assert values(trace["x"])[[0, -1]].tolist() == [0.3, 1.0]
    (bars,) = lengths.figure["data"]
    counts = np.bincount([len(one) for one in lists])
    assert dict(zip(values(bars["x"]).tolist(), values(bars["y"]).tolist(), strict=True)) == {
        length: counts[length] for length in range(np.flatnonzero(counts)[0], len(counts))
    }
    assert "Counted on 590 images." in curve.caption


def test_a_histogram_of_many_lengths_has_few_bars():
    lengths = np.random.default_rng(0).integers(5, 500, 3000)
    middles, counts, width = charts.binned(lengths)
    assert len(middles) <= charts.BINS
    for middle, count in zip(middles, counts, strict=True):
        assert count == (np.abs(lengths - middle) <= (width - 1) / 2).sum()
    assert counts.sum() == 3000


def test_losses_of_every_head(made, monkeypatch):
    (chart,) = charts.training(made)
    losses = made.storage.read_table("heads/losses.parquet").to_pandas()
    best = made.marker("heads").summary["best_head"]
    assert len(chart.figure["data"]) == 2 * 5
    drawn = {
        (trace["name"].partition(",")[0], trace.get("yaxis")): values(trace["y"]) for trace in chart.figure["data"]
    }
    for head in range(5):
        mine = losses[losses["head"] == head].sort_values("epoch")
        np.testing.assert_array_equal(drawn[f"head {head}", "y"], mine["temi"])
        np.testing.assert_array_equal(drawn[f"head {head}", "y2"], mine["cross_entropy"])
    marked = [trace["name"] for trace in chart.figure["data"] if "best" in trace["name"]]
    assert marked == [f"head {best}, the best"] * 2
    monkeypatch.setattr(charts, "EPOCHS", 4)  # long trainings are thinned and keep their ends
    (chart,) = charts.training(made)
    assert values(chart.figure["data"][0]["x"]).tolist() == [1, 7, 14, 20]


def test_sizes_heads_and_grid(made):
    (sizes,) = charts.sizes(labelled(made))
    counted = np.bincount(table_of(made, PREDICTIONS)["label"].to_numpy())
    assert values(sizes.figure["data"][0]["y"]).tolist() == sorted(counted.tolist(), reverse=True)
    classes = hierarchy_of(made)
    (heads,) = charts.agreement(classes)
    drawn = [trace["customdata"] for trace in heads.figure["data"] if trace["type"] == "bar"]
    np.testing.assert_allclose(drawn, classes["pairs"], atol=1e-4)
    (grid,) = charts.grid(made)
    rows = made.storage.read_table("classifier/grid.parquet").to_pydict()
    assert values(grid.figure["data"][0]["y"]).tolist() == rows["accuracy"]


def test_sweeps_that_have_ended(made):
    columns = {"trial": [0, 1, 2], "clusters": [9, 5, 7], "acc": [0.7, None, 0.9], "best_head_acc": [None] * 3}
    columns |= {"modularity": [0.1, 0.2, 0.3], "anmi": [0.5, 0.6, 0.7], "heads.ce_weight": [1.0, 0.0, 0.5]}
    try:
        for name, params in (("one", ["clusters"]), ("two", ["clusters", "heads.ce_weight"])):
            asked = yaml.safe_dump({"params": dict.fromkeys(params, "...")}).encode()
            made.storage.write_bytes(f"{SWEEPS}/{name}/sweep.yaml", asked)
            made.storage.write_table(f"{SWEEPS}/{name}/results.parquet", pa.table(columns))
        made.storage.write_bytes(f"{SWEEPS}/begun/sweep.yaml", asked)
        one, two = charts.sweeps(made)
    finally:
        made.storage.delete_tree(SWEEPS)
    assert [trace["name"] for trace in one.figure["data"]] == ["consensus ACC", "modularity", "ANMI"]
    assert values(one.figure["data"][0]["x"]).tolist() == [5, 7, 9]
    assert values(one.figure["data"][0]["y"]).tolist() == [None, 0.9, 0.7]
    assert two.figure["data"][0]["text"] == [
        "clusters = 9, heads.ce_weight = 1.0",
        "clusters = 5, heads.ce_weight = 0.0",
        "clusters = 7, heads.ce_weight = 0.5",
    ]
    assert values(two.figure["data"][0]["x"]).tolist() == [0, 1, 2]
