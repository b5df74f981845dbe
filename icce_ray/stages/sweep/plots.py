"""The plot of a sweep as one self-contained HTML page, by Plotly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.io import to_html
from plotly.subplots import make_subplots

#: Values of the second of two settings that get a line of their own; more are points.
MOST_LINES = 8
#: A setting whose values span this factor is shown on a logarithmic axis.
LOG_FACTOR = 50.0
_PANEL_HEIGHT = 420

Table = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Series:
    """One column of a table as a line: its name in the legend, and the column of its standard deviation."""

    column: str
    label: str
    deviation: str | None = None


def sweep_plot(table: Table, params: Sequence[str], *, title: str, objective: str, series: Sequence[Series]) -> bytes:
    """HTML of a sweep: every series over one setting, or `objective`, a column too, over each of several.

    `table` has a column for each setting (numbers or text) and for each series, and `mean_neighbors`, with None where a
    trial has no figure. The same table gives the same bytes. The page needs no network.
    """
    neighbors = list(params) == ["neighbors.threshold"]
    panels = len(params) + neighbors
    figure = make_subplots(rows=panels, cols=1)
    for row, param in enumerate(params, start=1):
        if len(params) == 1:
            for one in series:
                _add_line(figure, row, table, param, one)
        else:
            _add_objective(figure, row, table, params, param, objective)
        _set_axis(figure, row, table, param)
    if neighbors:
        _add_line(figure, panels, table, params[0], Series("mean_neighbors", "neighbors per image"))
        _set_axis(figure, panels, table, params[0])
        figure.update_yaxes(title_text="mean number of neighbors", row=panels, col=1)
    figure.update_layout(title=title, template="plotly_white", height=_PANEL_HEIGHT * panels)
    return to_html(figure, include_plotlyjs=True, div_id="plot", config={"displaylogo": False}).encode()


def _add_objective(
    figure: go.Figure, row: int, table: Table, params: Sequence[str], param: str, objective: str
) -> None:
    """The objective over one setting: a line for each value of the only other one, else points."""
    others = [other for other in params if other != param]
    values = list(dict.fromkeys(table[others[0]]))
    if len(others) == 1 and len(values) <= MOST_LINES:
        for value in values:
            rows = [place for place, other in enumerate(table[others[0]]) if other == value]
            part = {name: [column[place] for place in rows] for name, column in table.items()}
            _add_line(figure, row, part, param, Series(objective, f"{others[0]} = {_short(value)}"))
    else:
        _add_line(figure, row, table, param, Series(objective, objective), mode="markers")
    figure.update_yaxes(title_text=objective, row=row, col=1)


def _add_line(
    figure: go.Figure, row: int, table: Table, param: str, series: Series, *, mode: str = "lines+markers"
) -> None:
    """One column over one setting, with its standard deviation as error bars; trials without a figure are left out."""
    values = table[param]
    rows = [place for place, value in enumerate(table[series.column]) if value is not None and math.isfinite(value)]
    if _numeric(values):
        rows.sort(key=lambda place: values[place])
    error = None
    if series.deviation is not None:
        error = {"array": [table[series.deviation][place] or 0.0 for place in rows], "thickness": 1}
    y = [table[series.column][place] for place in rows]
    x = [values[place] if _numeric(values) else _short(values[place]) for place in rows]
    figure.add_scatter(x=x, y=y, error_y=error, mode=mode, name=series.label, row=row, col=1)


def _set_axis(figure: go.Figure, row: int, table: Table, param: str) -> None:
    """Numbers on a linear or logarithmic axis; text at equal distances, in the order of the table."""
    values = table[param]
    if not _numeric(values):
        names = [_short(value) for value in dict.fromkeys(values)]
        kind: dict[str, Any] = {"type": "category", "categoryorder": "array", "categoryarray": names}
    else:
        kind = {"type": "log" if 0 < LOG_FACTOR * min(values) < max(values) else "linear"}
    figure.update_xaxes(title_text=param, row=row, col=1, **kind)


def _numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(value, (int, float)) for value in values)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
