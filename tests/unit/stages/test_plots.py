"""Plots of sweeps: of one setting, of several, of text, with trials that have no figures."""

import json
import re

import pytest

from icce_ray.stages.sweep.plots import SERIES, sweep_plot


def plot(params, title="a sweep", **columns):
    """Traces by name, and the layout, as the page gives them to Plotly."""
    rows = len(next(iter(columns.values())))
    figures = dict.fromkeys(SERIES[True], [0.4] * rows) | {"std_head_acc": [0.1] * rows}
    figures["acc"] = [0.5 + 0.01 * i for i in range(rows)]
    table = {"mean_neighbors": [20.0 + i for i in range(rows)]} | figures | columns
    page, again = (sweep_plot(table, params, title=title, labelled=True) for _ in range(2))
    assert page == again
    text = page.decode()
    assert not re.search(r"<(script|link)[^>]+(src|href)=", text), "the page needs no network"
    start = text.index('"plot",', text.rindex("Plotly.newPlot(")) + len('"plot",')
    read = json.JSONDecoder().raw_decode
    traces, end = read(text, start + len(text[start:]) - len(text[start:].lstrip()))
    layout, _ = read(text, text.index("{", end))
    return traces, layout


def test_one_setting_has_every_series_and_the_threshold_a_panel_of_neighbors():
    traces, layout = plot(["neighbors.threshold"], **{"neighbors.threshold": [0.3, 0.2, 0.1], "acc": [0.5, None, 0.7]})
    assert [trace["name"] for trace in traces] == [*SERIES[True].values(), "neighbors per image"]
    assert (traces[0]["x"], traces[0]["y"]) == ([0.1, 0.3], [0.7, 0.5])
    assert traces[2]["error_y"]["array"] == [0.1, 0.1, 0.1]
    assert traces[-1]["yaxis"] == "y2"
    assert (layout["title"]["text"], layout["xaxis"]["title"]["text"]) == ("a sweep", "neighbors.threshold")
    assert layout["yaxis2"]["title"]["text"] == "mean number of neighbors"
    _, other = plot(["clusters"], clusters=[5, 10, 20])
    assert layout["height"] == 2 * other["height"]


@pytest.mark.parametrize(
    ("values", "axis"),
    [
        (["softmax", "sinkhorn"] * 2, {"type": "category", "categoryarray": ["softmax", "sinkhorn"]}),
        ([1e-5, 1e-4, 1e-3, 1e-2], {"type": "log"}),
    ],
    ids=["text", "logarithmic"],
)
def test_two_settings_have_a_panel_each_and_lines_by_the_other(values, axis):
    columns = {"heads.one": values, "heads.ce_weight": [0.0, 0.0, 1.0, 1.0]}
    traces, layout = plot(["heads.one", "heads.ce_weight"], **columns)
    assert layout["xaxis"].items() >= axis.items()
    assert layout["xaxis2"]["type"] == "linear"
    assert [trace["name"] for trace in traces if trace["xaxis"] == "x"] == [
        "heads.ce_weight = 0",
        "heads.ce_weight = 1",
    ]


def test_many_settings_are_points():
    traces, layout = plot(["a", "b", "c"], a=[1, 2], b=[3.0, 4.0], c=["x", "y"])
    assert [(trace["mode"], trace["name"]) for trace in traces] == [("markers", "acc")] * 3
    assert layout["yaxis3"]["title"]["text"] == "acc"


def test_text_of_a_user_cannot_end_the_script():
    traces, layout = plot(["a", "b"], title="</script><b>", a=["</script>", "y"], b=[1.0, 2.0])
    assert layout["title"]["text"] == "</script><b>"
    assert traces[0]["x"] == ["</script>"]
