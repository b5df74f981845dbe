"""Plots of figures, by matplotlib without its global state: pictures as bytes."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH, HEIGHT = 7.0, 4.0  # inches a panel
#: Values of the second of two settings that get a line of their own; more are points.
MOST_LINES = 8
#: A setting whose values span this factor is shown on a logarithmic axis.
_LOG_FACTOR = 50.0


@dataclass(frozen=True)
class Series:
    """One column of a table as a line: its name in the legend, and the column of its standard deviation."""

    column: str
    label: str
    spread: str | None = None


def sweep_plot(
    table: Mapping[str, Sequence[Any]], params: Sequence[str], *, title: str, objective: str, series: Sequence[Series]
) -> tuple[bytes, bytes]:
    """PNG and SVG of a sweep: every series over one setting, `objective`, a column too, over each of several.

    `table` has a column for each setting (numbers or text) and for each series, and `mean_neighbors`, with None where a
    trial has no figure.
    """
    count = len(params)
    panels = 2 if params == ["neighbors.threshold"] else count
    with mpl.rc_context({"svg.hashsalt": "icce", "font.size": 9}):
        figure = Figure(figsize=(WIDTH, HEIGHT * panels), layout="constrained")
        axes = figure.subplots(panels, squeeze=False)[:, 0]
        axes[0].set_title(title)
        if count == 1:
            _lines(axes[0], table, params[0], series)
            figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=8)
            if panels == 2:
                _line(axes[1], table, params[0], Series("mean_neighbors", "neighbours an image"))
                axes[1].set_ylabel("mean number of neighbours")
        else:
            for axis, param in zip(axes, params, strict=True):
                others = [other for other in params if other != param]
                _grouped(axis, table, param, others[0] if len(others) == 1 else None, objective)
        return _bytes(figure, "png"), _bytes(figure, "svg")


def _lines(axis: Axes, table: Mapping[str, Sequence[Any]], param: str, series: Sequence[Series]) -> None:
    for one in series:
        _line(axis, table, param, one)
    axis.set_ylim(top=1.0)


def _grouped(axis: Axes, table: Mapping[str, Sequence[Any]], param: str, other: str | None, objective: str) -> None:
    """The objective over one setting, a line for each value of the only other one, else points."""
    values = list(dict.fromkeys(table[other])) if other else []
    if other and len(values) <= MOST_LINES:
        for value in values:
            rows = [row for row, found in enumerate(table[other]) if found == value]
            part = {name: [column[row] for row in rows] for name, column in table.items()}
            _line(axis, part, param, Series(objective, f"{other} = {_short(value)}"), among=table[param])
        axis.legend(loc="best", fontsize=8)
    else:
        _line(axis, table, param, Series(objective, objective), joined=False)
    axis.set_ylabel(objective)


def _line(
    axis: Axes,
    table: Mapping[str, Sequence[Any]],
    param: str,
    series: Series,
    *,
    among: Sequence[Any] | None = None,
    joined: bool = True,
) -> None:
    """One column over one setting; text stands at equal distances, in its order in `among`."""
    values = table[param]
    among = among or values
    places = _places(among)
    rows = [row for row, value in enumerate(table[series.column]) if value is not None and math.isfinite(value)]
    if places is None:
        rows.sort(key=lambda row: values[row])
        x = [values[row] for row in rows]
        if min(among) > 0 and max(among) > _LOG_FACTOR * min(among):
            axis.set_xscale("log")
    else:
        rows.sort(key=lambda row: places[values[row]])
        x = [places[values[row]] for row in rows]
        axis.set_xticks(range(len(places)), [_short(value) for value in places])
    y = [table[series.column][row] for row in rows]
    axis.plot(x, y, marker="o", markersize=4, linestyle="-" if joined else "", label=series.label)
    if series.spread is not None:
        spread = [table[series.spread][row] or 0.0 for row in rows]
        low, high = ([a + sign * b for a, b in zip(y, spread, strict=True)] for sign in (-1, 1))
        axis.fill_between(x, low, high, alpha=0.2, color=axis.lines[-1].get_color())
    axis.set_xlabel(param)
    axis.grid(visible=True, alpha=0.3)


def _places(values: Sequence[Any]) -> dict[Any, int] | None:
    """Positions of text on an axis; None for numbers."""
    if all(isinstance(value, (int, float)) for value in values):
        return None
    return {value: place for place, value in enumerate(dict.fromkeys(values))}


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _bytes(figure: Figure, kind: str) -> bytes:
    """The picture in a format, the same for the same figures: no date, no random names."""
    sink = io.BytesIO()
    figure.savefig(sink, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else {"Software": None})
    return sink.getvalue()
