"""Charts that a run has data for, as Plotly figures in JSON; colours are the page's own, so it may be light or dark."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.colors import sample_colorscale

from icce_ray.documents import DocumentError, opened_yaml, shaped
from icce_ray.report.labels import Labelled
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import CLASSIFIER_GRID, HEAD_LOSSES, NEIGHBORS, SWEEP_FILE, SWEEP_TABLE, SWEEPS, Hierarchy
from icce_ray.store.shards import evenly
from icce_ray.store.views import spaces_of

#: Colours that stand out on light and dark and for the colour-blind (Okabe and Ito 2008).
BLUE, ORANGE, GREEN, PINK = "#3b8fd4", "#e69f00", "#009e73", "#cc79a7"
_FAINT = 0.3
#: Pairs of neighbours that the curve of thresholds counts at most, and points of it.
PAIRS, POINTS = 20_000_000, 101
#: Bars of a histogram, at most: what is plotted does not grow with the images.
BINS = 60
#: Points of a curve of losses, at most: pages of 50 heads stay small.
EPOCHS = 200
#: Columns of a sweep's results and their names on the page.
SCORES = {"acc": "consensus ACC", "best_head_acc": "best head ACC", "modularity": "modularity", "anmi": "ANMI"}


@dataclass(frozen=True)
class Chart:
    """One figure with the words for those who do not see it."""

    name: str
    title: str
    caption: str
    figure: dict[str, Any]


def charts(store: Store, source: Labelled | None, classes: Hierarchy | None) -> dict[str, list[Chart]]:
    """Charts by section of the page."""
    return {
        "sizes": list(sizes(source)),
        "training": list(training(store)),
        "neighbors": list(neighbors(store)),
        "heads": list(agreement(classes)),
        "classifier": list(grid(store)),
        "sweeps": list(sweeps(store)),
    }


def _chart(name: str, title: str, caption: str, traces: Any, *, height: int = 340, **layout: Any) -> Chart:
    """A chart of the page; `layout` as Plotly's `update_layout`. Fonts, colours and widths are set by the page."""
    margin, legend = {"l": 60, "r": 16, "t": 12, "b": 50}, {"orientation": "h", "y": 1.08, "yanchor": "bottom"}
    figure = go.Figure(traces)
    figure.update_layout(template=None, height=height, margin=margin, legend=legend, **layout)
    return Chart(name, title, caption, json.loads(figure.to_json() or ""))


def _line(x: Any, y: Any, hover: str, *, mode: str = "lines", **options: Any) -> go.Scatter:
    return go.Scatter(x=x, y=y, hovertemplate=f"{hover}<extra></extra>", mode=mode, **options)


def sizes(source: Labelled | None) -> Iterator[Chart]:
    """Images of each class, largest first."""
    if source is None:
        return
    ordered = np.sort(source.sizes)[::-1]
    span = f"{ordered.min():,} to {ordered.max():,} images, median {np.median(ordered):,.0f}"
    bars = go.Bar(x=np.arange(1, len(ordered) + 1), y=ordered, marker={"color": BLUE, "line": {"width": 0}})
    bars.hovertemplate = "%{y:,} images<extra></extra>"
    titles: dict[str, Any] = {"xaxis_title": "classes, largest first", "yaxis_title": "images"}
    yield _chart("sizes", "Sizes of the classes", f"{len(ordered):,} classes of {span}.", bars, **titles)


def training(store: Store) -> Iterator[Chart]:
    """Both losses of all heads over the epochs; the head of the lowest loss stands out."""
    marker = store.marker("heads")
    if marker is None:
        return
    heads, best = marker.summary["heads"], marker.summary["best_head"]
    table = store.storage.read_table(HEAD_LOSSES.path)
    epochs, temi, cross = (table[name].to_numpy().reshape(-1, heads) for name in ("epoch", "temi", "cross_entropy"))
    shown = np.unique(np.linspace(0, len(epochs) - 1, min(EPOCHS, len(epochs))).round().astype(int))
    traces = []
    for values, name, axis in ((temi, "TEMI", "y"), (cross, "cross-entropy", "y2")):
        for head in [*(h for h in range(heads) if h != best), best]:
            style: dict[str, Any] = {"line": {"color": BLUE, "width": 1}, "opacity": _FAINT, "name": f"head {head}"}
            if head == best:
                style = {"line": {"color": ORANGE, "width": 2.5}, "name": f"head {head}, the best"}
            hover = f"head {head}, epoch %{{x}}: {name} %{{y:.4f}}"
            x, y = epochs[shown, 0] + 1, values[shown, head]
            traces.append(_line(x, y, hover, yaxis=axis, showlegend=False, **style))
    caption = (
        f"{heads} heads over {len(epochs)} epochs. TEMI ended between {temi[-1].min():.3f} and {temi[-1].max():.3f}; "
        f"head {best} has the lowest loss and stands out."
    )
    axes: dict[str, Any] = {
        "xaxis": {"title": {"text": "epoch"}, "anchor": "y2"},
        "yaxis": {"title": {"text": "TEMI loss"}, "domain": [0.55, 1.0]},
        "yaxis2": {"title": {"text": "cross-entropy"}, "domain": [0.0, 0.45]},
    }
    yield _chart("losses", "Losses of all heads", caption, traces, height=460, **axes)


def neighbors(store: Store) -> Iterator[Chart]:
    """Mean number of neighbours per image against the threshold, and how many neighbours images have."""
    marker = store.marker("neighbors")
    if marker is None or "threshold" not in marker.summary:
        return
    space = spaces_of(store.require("embed").summary)[-1]  # of several that of all, whose figures the marker has
    summary, files = marker.summary, NEIGHBORS.of(space).files(marker.files)
    lowest = float(summary["threshold"])
    edges = np.append(np.linspace(lowest, 1.0, POINTS), np.inf)
    above, images, lengths = np.zeros(POINTS), 0, []
    pairs = summary["mean_neighbors"] * sum(info.rows or 0 for info in files)
    for info in evenly(files, PAIRS / max(pairs, 1.0)):
        column = store.storage.read_table(info.path, ["similarities"])["similarities"].combine_chunks()
        similarities = column.flatten().to_numpy()
        above += np.histogram(similarities[similarities >= lowest], edges)[0]
        images += len(column)
        lengths.append(np.diff(column.offsets.to_numpy()))
    if not images:
        return
    means = above[::-1].cumsum()[::-1] / images
    counted = f"Counted on {images:,} images" + ("." if images == summary["images"] else f" of {summary['images']:,}.")
    caption = (
        f"{'In the space of all features: ' if space else ''}{means[0]:.1f} neighbours per image at the run's "
        f"threshold of {lowest:g}; higher thresholds would keep fewer. "
        f"The run took at least {summary['k_min']} and at most {summary['k_max']}. {counted}"
    )
    hover = "similarity %{x:.2f} and more: %{y:.1f} neighbours"
    curve = _line(edges[:-1], means, hover, line={"color": BLUE, "width": 2.5})
    axes: dict[str, Any] = {"xaxis_title": "threshold (cosine similarity)", "yaxis_title": "neighbours per image"}
    yield _chart("counts", "Neighbours against the threshold", caption, curve, yaxis_rangemode="tozero", **axes)
    caption = (
        f"{summary['mean_neighbors']:.1f} on average; {summary['share_at_k_min']:.1%} of the images have the fewest, "
        f"{summary['k_min']}, and none more than {summary['k_max']}. {counted}"
    )
    x, y, width = binned(np.concatenate(lengths))
    bars = go.Bar(x=x, y=y, width=width, marker={"color": BLUE, "line": {"width": 0}})
    between = " to %{customdata[1]}" if width > 1 else ""
    bars.customdata = np.stack([x - (width - 1) / 2, x + (width - 1) / 2], axis=1)
    bars.hovertemplate = f"%{{customdata[0]}}{between} neighbours: %{{y:,}} images<extra></extra>"
    axes: dict[str, Any] = {"xaxis_title": "neighbours of an image", "yaxis_title": "images"}
    yield _chart("lengths", "How many neighbours images have", caption, bars, **axes)


def binned(values: NDArray[np.integer]) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
    """Middles of at most BINS bins of whole numbers, how many of `values` [n] are in each, and how wide they are."""
    low, high = int(values.min()), int(values.max())
    width = -(-(high - low + 1) // BINS)
    counts = np.bincount((values - low) // width)
    middles = low + width * np.arange(len(counts), dtype=np.float64) + (width - 1) / 2
    return middles, counts, width


def agreement(classes: Hierarchy | None) -> Iterator[Chart]:
    """NMI of each two heads, each a bar of length one: a heat map would be pixels in an SVG file."""
    if classes is None or len(classes["pairs"]) < 2:
        return
    pairs = np.array(classes["pairs"])
    heads, others = len(pairs), pairs[~np.eye(len(pairs), dtype=bool)]
    caption = (
        f"Normalised mutual information of the labels of each two heads on {classes['compared']:,} images from "
        f"{others.min():.2f} to {others.max():.2f}, {others.mean():.2f} on average."
    )
    low = np.floor(10 * pairs.min()) / 10
    squares = [
        go.Bar(
            x=[1] * heads,
            y=list(range(heads)),
            base=head - 0.5,
            orientation="h",
            marker={
                "color": sample_colorscale("Viridis", ((column - low) / max(1 - low, 0.1)).clip(0, 1).tolist()),
                "line": {"width": 0},
            },
            customdata=column.round(4).tolist(),
            hovertemplate=f"heads {head} and %{{y}}: NMI %{{customdata:.3f}}<extra></extra>",
            showlegend=False,
        )
        for head, column in enumerate(pairs.T)
    ]
    scale = go.Scatter(
        x=[None], y=[None], mode="markers", marker={"color": [0], "coloraxis": "coloraxis"}, showlegend=False
    )
    colours = {"colorscale": "Viridis", "cmin": low, "cmax": 1.0, "colorbar": {"thickness": 12, "outlinewidth": 0}}
    axis = {"title": {"text": "head"}, "constrain": "domain", "showgrid": False, "zeroline": False}
    axes: dict[str, Any] = {
        "xaxis": axis | {"range": [-0.5, heads - 0.5]},
        "yaxis": axis | {"scaleanchor": "x", "range": [heads - 0.5, -0.5]},
    }
    layout = {"barmode": "overlay", "bargap": 0, "coloraxis": colours} | axes
    yield _chart("agreement", "Head by head", caption, [*squares, scale], height=420, **layout)


def grid(store: Store) -> Iterator[Chart]:
    """Accuracy on held-out images of every classifier of the grid."""
    marker = store.marker("classifier")
    if marker is None:
        return
    rows, traces = store.storage.read_table(CLASSIFIER_GRID.path).to_pylist(), []
    for kind, colour in zip(dict.fromkeys(row["input"] for row in rows), cycle((BLUE, GREEN, ORANGE)), strict=False):
        mine = [row for row in rows if row["input"] == kind]
        rates, accuracies = ([row[name] for row in mine] for name in ("learning_rate", "accuracy"))
        hover = f"{kind}, learning rate %{{x}}: %{{y:.4f}}"
        traces.append(_line(rates, accuracies, hover, mode="lines+markers", name=kind, line={"color": colour}))
    caption = (
        f"{len(rows)} linear classifiers, judged by the consensus labels of images kept aside. "
        f"Chosen: {marker.summary['input']} with learning rate {marker.summary['learning_rate']:g}."
    )
    axes: dict[str, Any] = {
        "xaxis_title": "learning rate",
        "xaxis_type": "log",
        "xaxis_exponentformat": "power",
        "yaxis_title": "accuracy, held-out images",
    }
    yield _chart("grid", "The classifier's grid", caption, traces, showlegend=True, **axes)


def sweeps(store: Store) -> Iterator[Chart]:
    """Every sweep that has ended."""
    for path, _ in store.storage.list(SWEEPS):  # in the order of their names
        folder, _, name = path.rpartition("/")
        if name == SWEEP_TABLE:
            params = list(_params(store, f"{folder}/{SWEEP_FILE}"))
            yield _sweep(folder.removeprefix(f"{SWEEPS}/"), params, store.storage.read_table(path).to_pydict())


def _params(store: Store, path: str) -> dict[str, str]:
    """The settings that a sweep varies, with their values as they were given."""
    try:
        return shaped(dict[str, str], opened_yaml(store.storage.read_bytes(path)).get("params"))
    except DocumentError as error:
        raise RunError(f"{store.storage.uri(path)} is damaged ({error}); delete the folder of this sweep") from error


def _sweep(name: str, params: list[str], rows: dict[str, list[Any]]) -> Chart:
    """Scores of every trial over the setting that was swept; of several settings over the number of the trial."""
    axis = params[0] if len(params) == 1 else "trial"
    mode = "lines+markers" if len(params) == 1 else "markers"
    places, traces = rows[axis], []
    order = sorted(range(len(places)), key=places.__getitem__)
    texts = [", ".join(f"{param} = {rows[param][index]}" for param in params) for index in order]
    shown = [column for column in SCORES if any(value is not None for value in rows[column])]
    for column, colour in zip(shown, (ORANGE, BLUE, GREEN, PINK), strict=False):
        x, y = ([values[index] for index in order] for values in (places, rows[column]))
        hover = f"%{{text}}: {SCORES[column]} %{{y:.4f}}"
        traces.append(_line(x, y, hover, mode=mode, text=texts, name=SCORES[column], line={"color": colour}))
    caption = f"{len(places)} trials of {', '.join(params)}."
    return _chart(f"sweep-{name}", f"Sweep {name}", caption, traces, xaxis_title=axis, showlegend=True)
