"""Charts of the page, as Plotly figures in JSON; colours are the page's own, so that it may be light or dark."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

#: Colours that stand out on light and dark and for the colour-blind (Okabe and Ito 2008).
BLUE, ORANGE, GREEN = "#3b8fd4", "#e69f00", "#009e73"
_FAINT = 0.3


@dataclass(frozen=True)
class Chart:
    """One figure with the words for those who do not see it."""

    name: str
    title: str
    caption: str
    figure: dict[str, Any]


def chart(name: str, title: str, caption: str, figure: go.Figure, *, height: int = 340) -> Chart:
    """A chart of the page. Fonts, colours and widths are set by the page."""
    figure.update_layout(
        template=None,
        height=height,
        margin={"l": 60, "r": 16, "t": 12, "b": 50},
        legend={"orientation": "h", "y": 1.08, "yanchor": "bottom"},
    )
    return Chart(name, title, caption, json.loads(figure.to_json() or ""))


def losses(epochs: NDArray[np.integer], temi: NDArray[np.floating], cross: NDArray[np.floating], best: int) -> Chart:
    """Both losses of all heads [epochs, H] over the epochs; the head of the lowest loss stands out."""
    figure = go.Figure()
    for values, name, axis in ((temi, "TEMI", "y"), (cross, "cross-entropy", "y2")):
        for head in [*(h for h in range(values.shape[1]) if h != best), best]:
            figure.add_scatter(
                x=epochs,
                y=values[:, head],
                yaxis=axis,
                mode="lines",
                name=f"head {head}{', the best' if head == best else ''}",
                line={"color": ORANGE if head == best else BLUE, "width": 2.5 if head == best else 1},
                opacity=1.0 if head == best else _FAINT,
                hovertemplate=f"head {head}, epoch %{{x}}: {name} %{{y:.4f}}<extra></extra>",
                showlegend=False,
            )
    figure.update_layout(
        xaxis={"title": {"text": "epoch"}, "anchor": "y2"},
        yaxis={"title": {"text": "TEMI loss"}, "domain": [0.55, 1.0]},
        yaxis2={"title": {"text": "cross-entropy"}, "domain": [0.0, 0.45]},
    )
    n_epochs, heads = temi.shape
    caption = (
        f"{heads} heads over {n_epochs} epochs. TEMI ended between {temi[-1].min():.3f} and {temi[-1].max():.3f}; "
        f"head {best} has the lowest loss and stands out."
    )
    return chart("losses", "Losses of all heads", caption, figure, height=460)


def counts(thresholds: NDArray[np.floating], means: NDArray[np.floating], told: str) -> Chart:
    """Mean number of neighbours an image over thresholds."""
    figure = go.Figure(go.Scatter(x=thresholds, y=means, mode="lines", line={"color": BLUE, "width": 2.5}))
    figure.update_traces(hovertemplate="similarity %{x:.2f} and more: %{y:.1f} neighbours<extra></extra>")
    figure.update_layout(
        xaxis={"title": {"text": "threshold (cosine similarity)"}},
        yaxis={"title": {"text": "neighbours an image"}, "rangemode": "tozero"},
    )
    return chart("counts", "Neighbours against the threshold", told, figure)


def lengths(values: NDArray[np.integer], told: str) -> Chart:
    """How many neighbours images have."""
    figure = go.Figure(go.Histogram(x=values, nbinsx=60, marker={"color": BLUE}))
    figure.update_traces(hovertemplate="%{x} neighbours: %{y} images<extra></extra>")
    figure.update_layout(xaxis={"title": {"text": "neighbours of an image"}}, yaxis={"title": {"text": "images"}})
    return chart("lengths", "How many neighbours images have", told, figure)


def agreement(pairs: NDArray[np.floating], compared: int) -> Chart:
    """NMI of each two heads [H, H]."""
    figure = go.Figure(go.Heatmap(z=pairs, zmin=0.0, zmax=1.0, colorscale="Viridis", colorbar={"thickness": 12}))
    figure.update_traces(hovertemplate="heads %{x} and %{y}: NMI %{z:.3f}<extra></extra>")
    axis = {"title": {"text": "head"}, "constrain": "domain"}
    figure.update_layout(xaxis=axis, yaxis=axis | {"scaleanchor": "x", "autorange": "reversed"})
    others = pairs[~np.eye(len(pairs), dtype=bool)]
    span = f" from {others.min():.2f} to {others.max():.2f}, {others.mean():.2f} on average" if others.size else ""
    caption = f"Normalised mutual information of the labels of each two heads on {compared:,} images{span}."
    return chart("agreement", "Head by head", caption, figure, height=420)


def grid(rows: dict[str, list[Any]], chosen: tuple[str, float]) -> Chart:
    """Accuracy on held-out images of every classifier of the grid; `rows` are the columns of its table."""
    figure = go.Figure()
    for kind, colour in zip(dict.fromkeys(rows["input"]), (BLUE, GREEN, ORANGE) * len(rows["input"]), strict=False):
        at = [index for index, one in enumerate(rows["input"]) if one == kind]
        figure.add_scatter(
            x=[rows["learning_rate"][index] for index in at],
            y=[rows["accuracy"][index] for index in at],
            mode="lines+markers",
            name=kind,
            line={"color": colour},
            hovertemplate=f"{kind}, learning rate %{{x}}: %{{y:.4f}}<extra></extra>",
        )
    figure.update_layout(
        xaxis={"title": {"text": "learning rate"}, "type": "log"},
        yaxis={"title": {"text": "accuracy, held-out images"}},
        showlegend=True,
    )
    caption = (
        f"{len(rows['accuracy'])} linear classifiers, judged by the consensus labels of images kept aside. "
        f"Chosen: {chosen[0]} with learning rate {chosen[1]:g}."
    )
    return chart("grid", "The classifier's grid", caption, figure)


def sizes(values: NDArray[np.integer]) -> Chart:
    """Images of each class, largest first."""
    ordered = np.sort(values)[::-1]
    figure = go.Figure(
        go.Bar(x=np.arange(1, len(ordered) + 1), y=ordered, marker={"color": BLUE, "line": {"width": 0}})
    )
    figure.update_traces(hovertemplate="%{y:,} images<extra></extra>")
    figure.update_layout(xaxis={"title": {"text": "classes, largest first"}}, yaxis={"title": {"text": "images"}})
    caption = (
        f"{len(ordered):,} classes of {ordered.min():,} to {ordered.max():,} images, median {np.median(ordered):,.0f}."
    )
    return chart("sizes", "Sizes of the classes", caption, figure)


def sweep(name: str, params: list[str], rows: dict[str, list[Any]], shown: list[tuple[str, str]]) -> Chart:
    """Figures of every trial over the setting that was swept; of several settings the objective over each trial.

    `shown` are pairs of a column of `rows` and its name for people.
    """
    figure = go.Figure()
    one = len(params) == 1
    values = rows[params[0]]
    order = sorted(range(len(values)), key=values.__getitem__) if one else range(len(values))
    told = [", ".join(f"{param} = {rows[param][index]}" for param in params) for index in order]
    for (column, label), colour in zip(shown, (ORANGE, BLUE, GREEN, "#cc79a7", "#999999") * len(shown), strict=False):
        figure.add_scatter(
            x=[values[index] for index in order] if one else [rows["trial"][index] for index in order],
            y=[rows[column][index] for index in order],
            text=told,
            mode="lines+markers" if one else "markers",
            name=label,
            line={"color": colour},
            hovertemplate=f"%{{text}}: {label} %{{y:.4f}}<extra></extra>",
        )
    figure.update_layout(xaxis={"title": {"text": params[0] if one else "trial"}}, showlegend=True)
    caption = f"{len(values)} trials of {', '.join(params)}."
    return chart(f"sweep-{name}", f"Sweep {name}", caption, figure)
