"""Plots of sweeps: of one setting, of several, of text, with trials that have no figures."""

import io

import pytest
from PIL import Image

from icce_ray.adapters.plots import Series, sweep_plot

SERIES = [Series("acc", "consensus"), Series("mean", "all heads", spread="std")]


def plot(params, **columns):
    rows = len(next(iter(columns.values())))
    figures = {"acc": [0.5 + 0.01 * i for i in range(rows)], "mean": [0.4] * rows, "std": [0.1] * rows}
    table = {"mean_neighbors": [20.0 + i for i in range(rows)]} | figures | columns
    png, svg = sweep_plot(table, params, title="a sweep", objective="acc", series=SERIES)
    assert plot_is_repeatable(table, params, svg)
    return Image.open(io.BytesIO(png)), svg.decode()


def plot_is_repeatable(table, params, svg):
    return sweep_plot(table, params, title="a sweep", objective="acc", series=SERIES)[1] == svg


def test_one_setting_has_every_series_and_the_threshold_a_panel_of_neighbours():
    image, svg = plot(["neighbors.threshold"], **{"neighbors.threshold": [0.1, 0.2, 0.3], "acc": [0.5, None, 0.7]})
    other, _ = plot(["clusters"], clusters=[5, 10, 20])
    assert image.height == 2 * other.height
    for text in ("a sweep", "neighbors.threshold", "consensus", "all heads", "mean number of neighbours"):
        assert f"<!-- {text} -->" in svg


@pytest.mark.parametrize(
    ("values", "shown"),
    [(["softmax", "sinkhorn"] * 2, "sinkhorn"), ([1e-5, 1e-4, 1e-3, 1e-2], r"$\mathdefault{10^{-4}}$")],
    ids=["text", "logarithmic"],
)
def test_two_settings_have_a_panel_each_and_lines_by_the_other(values, shown):
    _, svg = plot(["heads.one", "heads.ce_weight"], **{"heads.one": values, "heads.ce_weight": [0.0, 0.0, 1.0, 1.0]})
    assert f"<!-- {shown} -->" in svg
    assert "<!-- heads.ce_weight = 1 -->" in svg


def test_many_settings_are_points():
    image, svg = plot(["a", "b", "c"], a=[1, 2], b=[3.0, 4.0], c=["x", "y"])
    assert image.height > 2 * image.width / 2
    assert "<!-- acc -->" in svg
