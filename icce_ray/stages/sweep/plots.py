"""The plot of a sweep as one self-contained HTML page, by Plotly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.io import to_html
from plotly.subplots import make_subplots

from icce_ray.settings.sweep import short

#: Values of the second of two settings that get a line of their own; more are points.
MOST_LINES = 8
#: A setting whose values span this factor is shown on a logarithmic axis.
LOG_FACTOR = 50.0
#: Columns that are shown over a single setting, by whether there are labels, with their names in the legend.
SERIES = {
    False: {"modularity": "modularity (the objective)", "anmi": "ANMI"},
    True: {
        "acc": "consensus",
        "best_head_acc": "best head (lowest loss)",
        "mean_head_acc": "all heads, mean and standard deviation",
        "neighbor_accuracy": "neighbours of the anchor's class",
        "modularity": "modularity (label-free objective)",
    },
}
DEVIATIONS = {"mean_head_acc": "std_head_acc"}
_PANEL_HEIGHT = 420

Table = Mapping[str, Sequence[Any]]


def sweep_plot(table: Table, params: Sequence[str], *, title: str, labelled: bool) -> bytes:
    """HTML of a sweep: every series over one setting, or the objective over each of several.

    `table` has a column for each setting (numbers or text) and for each series, and `mean_neighbors`, with None where a
    trial has no figure. The same table gives the same bytes. The page needs no network.
    """
    neighbors = list(params) == ["neighbors.threshold"]
    panels = len(params) + neighbors
    figure = make_subplots(rows=panels, cols=1)
    for row, param in enumerate(params, start=1):
        if len(params) == 1:
            for column, name in SERIES[labelled].items():
                _add_line(figure, row, table, param, column, name)
        else:
            _add_objective(figure, row, table, params, "acc" if labelled else "modularity")
        _set_axis(figure, row, table, param)
    if neighbors:
        _add_line(figure, panels, table, params[0], "mean_neighbors", "neighbors per image")
        _set_axis(figure, panels, table, params[0])
        figure.update_yaxes(title_text="mean number of neighbors", row=panels, col=1)
    figure.update_layout(title=title, template="plotly_white", height=_PANEL_HEIGHT * panels)
    file = {"format": "svg", "filename": "icce-sweep"}  # what the camera of the page saves: vectors, not pixels
    config = {"displaylogo": False, "toImageButtonOptions": file}
    return to_html(figure, include_plotlyjs=True, div_id="plot", config=config).encode()


def _add_objective(figure: go.Figure, row: int, table: Table, params: Sequence[str], objective: str) -> None:
    """The objective over setting number `row`: a line for each value of the only other one, else points."""
    param, other = params[row - 1], params[0] if row > 1 else params[1]
    values = list(dict.fromkeys(table[other]))
    if len(params) == 2 and len(values) <= MOST_LINES:
        for value in values:
            rows = [place for place, theirs in enumerate(table[other]) if theirs == value]
            part = {name: [column[place] for place in rows] for name, column in table.items()}
            _add_line(figure, row, part, param, objective, f"{other} = {short(value)}")
    else:
        _add_line(figure, row, table, param, objective, objective, mode="markers")
    figure.update_yaxes(title_text=objective, row=row, col=1)


def _add_line(
    figure: go.Figure, row: int, table: Table, param: str, column: str, name: str, *, mode: str = "lines+markers"
) -> None:
    """One column over one setting, with its standard deviation as error bars; trials without a figure are left out."""
    values = table[param]
    rows = [place for place, value in enumerate(table[column]) if value is not None and math.isfinite(value)]
    if _numeric(values):
        rows.sort(key=lambda place: values[place])
    error = None
    if column in DEVIATIONS:
        error = {"array": [table[DEVIATIONS[column]][place] or 0.0 for place in rows], "thickness": 1}
    x, y = ([cells[place] for place in rows] for cells in (values, table[column]))
    figure.add_scatter(x=x, y=y, error_y=error, mode=mode, name=name, row=row, col=1)


def _set_axis(figure: go.Figure, row: int, table: Table, param: str) -> None:
    """Numbers on a linear or logarithmic axis; text at equal distances, in the order of the table."""
    values = table[param]
    if not _numeric(values):
        names = list(dict.fromkeys(values))
        kind: dict[str, Any] = {"type": "category", "categoryorder": "array", "categoryarray": names}
    else:
        kind = {"type": "log" if 0 < LOG_FACTOR * min(values) < max(values) else "linear"}
    figure.update_xaxes(title_text=param, row=row, col=1, **kind)


def _numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(value, (int, float)) for value in values)
