"""Charts that a run has data for, as Plotly figures in JSON; colours are the page's own, so it may be light or dark."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from icce_ray.documents import DocumentError, shaped
from icce_ray.io.storage import FileInfo
from icce_ray.report.heads import Classes
from icce_ray.report.picks import Labelled
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import CLASSIFIER_GRID, HEAD_LOSSES, NEIGHBORS, SWEEPS
from icce_ray.store.seals import opened_yaml

#: Colours that stand out on light and dark and for the colour-blind (Okabe and Ito 2008).
BLUE, ORANGE, GREEN, PINK = "#3b8fd4", "#e69f00", "#009e73", "#cc79a7"
_FAINT = 0.3
#: Pairs of neighbours that the curve of thresholds counts at most, and points of it.
PAIRS, POINTS = 20_000_000, 101
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


def charts(store: Store, source: Labelled | None, classes: Classes | None) -> dict[str, list[Chart]]:
    """Charts by section of the page."""
    return {
        "sizes": list(sizes(source)),
        "training": list(training(store)),
        "neighbors": list(neighbors(store)),
        "heads": list(agreement(classes)),
        "classifier": list(grid(store)),
        "sweeps": list(sweeps(store)),
    }


def _chart(name: str, title: str, caption: str, figure: go.Figure, *, height: int = 340) -> Chart:
    """A chart of the page. Fonts, colours and widths are set by the page."""
    figure.update_layout(
        template=None,
        height=height,
        margin={"l": 60, "r": 16, "t": 12, "b": 50},
        legend={"orientation": "h", "y": 1.08, "yanchor": "bottom"},
    )
    return Chart(name, title, caption, json.loads(figure.to_json() or ""))


def sizes(source: Labelled | None) -> Iterator[Chart]:
    """Images of each class, largest first."""
    if source is None:
        return
    ordered = np.sort(source.sizes)[::-1]
    bars = go.Bar(x=np.arange(1, len(ordered) + 1), y=ordered, marker={"color": BLUE, "line": {"width": 0}})
    figure = go.Figure(bars)
    figure.update_traces(hovertemplate="%{y:,} images<extra></extra>")
    figure.update_layout(xaxis={"title": {"text": "classes, largest first"}}, yaxis={"title": {"text": "images"}})
    span = f"{ordered.min():,} to {ordered.max():,} images, median {np.median(ordered):,.0f}"
    yield _chart("sizes", "Sizes of the classes", f"{len(ordered):,} classes of {span}.", figure)


def training(store: Store) -> Iterator[Chart]:
    """Both losses of all heads over the epochs; the head of the lowest loss stands out."""
    marker = store.marker("heads")
    if marker is None:
        return
    heads, best = marker.summary["heads"], marker.summary["best_head"]
    table = store.storage.read_table(HEAD_LOSSES.path)
    columns = (table[name].to_numpy().reshape(-1, heads) for name in ("epoch", "temi", "cross_entropy"))
    epochs, temi, cross = columns
    shown = np.unique(np.linspace(0, len(epochs) - 1, min(EPOCHS, len(epochs))).round().astype(int))
    figure = go.Figure()
    for values, name, axis in ((temi, "TEMI", "y"), (cross, "cross-entropy", "y2")):
        for head in [*(h for h in range(heads) if h != best), best]:
            figure.add_scatter(
                x=epochs[shown, 0] + 1,
                y=values[shown, head],
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
    caption = (
        f"{heads} heads over {len(epochs)} epochs. TEMI ended between {temi[-1].min():.3f} and {temi[-1].max():.3f}; "
        f"head {best} has the lowest loss and stands out."
    )
    yield _chart("losses", "Losses of all heads", caption, figure, height=460)


def neighbors(store: Store) -> Iterator[Chart]:
    """Mean number of neighbours per image against the threshold, and how many neighbours images have."""
    marker = store.marker("neighbors")
    if marker is None or "threshold" not in marker.summary:
        return
    summary = marker.summary
    lowest = float(summary["threshold"])
    edges = np.append(np.linspace(lowest, 1.0, POINTS), np.inf)
    above, images, lengths = np.zeros(POINTS), 0, []
    for info in _some(NEIGHBORS.files(marker.files), summary["mean_neighbors"]):
        column = store.storage.read_table(info.path, ["similarities"])["similarities"].combine_chunks()
        similarities = column.flatten().to_numpy()
        above += np.histogram(similarities[similarities >= lowest], edges)[0]
        images += len(column)
        lengths.append(np.diff(column.offsets.to_numpy()))
    if not images:
        return
    means = above[::-1].cumsum()[::-1] / images
    counted = f"Counted on {images:,} images" + ("." if images == summary["images"] else f" of {summary['images']:,}.")
    figure = go.Figure(go.Scatter(x=edges[:-1], y=means, mode="lines", line={"color": BLUE, "width": 2.5}))
    figure.update_traces(hovertemplate="similarity %{x:.2f} and more: %{y:.1f} neighbours<extra></extra>")
    figure.update_layout(
        xaxis={"title": {"text": "threshold (cosine similarity)"}},
        yaxis={"title": {"text": "neighbours per image"}, "rangemode": "tozero"},
    )
    caption = (
        f"{means[0]:.1f} neighbours per image at the run's threshold of {lowest:g}; higher thresholds would keep "
        f"fewer. The run took at least {summary['k_min']} and at most {summary['k_max']}. {counted}"
    )
    yield _chart("counts", "Neighbours against the threshold", caption, figure)
    figure = go.Figure(go.Histogram(x=np.concatenate(lengths), nbinsx=60, marker={"color": BLUE}))
    figure.update_traces(hovertemplate="%{x} neighbours: %{y} images<extra></extra>")
    figure.update_layout(xaxis={"title": {"text": "neighbours of an image"}}, yaxis={"title": {"text": "images"}})
    caption = (
        f"{summary['mean_neighbors']:.1f} on average; {summary['share_at_k_min']:.1%} of the images have the fewest, "
        f"{summary['k_min']}, and none more than {summary['k_max']}. {counted}"
    )
    yield _chart("lengths", "How many neighbours images have", caption, figure)


def _some(files: list[FileInfo], mean: float) -> list[FileInfo]:
    """Shards spread evenly over the run, as many as hold PAIRS pairs."""
    pairs = mean * sum(info.rows or 0 for info in files)
    wanted = max(1, min(len(files), round(len(files) * PAIRS / max(pairs, 1.0))))
    return [files[place] for place in np.linspace(0, len(files) - 1, wanted).round().astype(int)] if files else []


def agreement(classes: Classes | None) -> Iterator[Chart]:
    """NMI of each two heads."""
    if classes is None or len(classes.pairs) < 2:
        return
    pairs = classes.pairs
    figure = go.Figure(go.Heatmap(z=pairs, zmin=0.0, zmax=1.0, colorscale="Viridis", colorbar={"thickness": 12}))
    figure.update_traces(hovertemplate="heads %{x} and %{y}: NMI %{z:.3f}<extra></extra>")
    axis = {"title": {"text": "head"}, "constrain": "domain"}
    figure.update_layout(xaxis=axis, yaxis=axis | {"scaleanchor": "x", "autorange": "reversed"})
    others = pairs[~np.eye(len(pairs), dtype=bool)]
    caption = (
        f"Normalised mutual information of the labels of each two heads on {classes.compared:,} images from "
        f"{others.min():.2f} to {others.max():.2f}, {others.mean():.2f} on average."
    )
    yield _chart("agreement", "Head by head", caption, figure, height=420)


def grid(store: Store) -> Iterator[Chart]:
    """Accuracy on held-out images of every classifier of the grid."""
    marker = store.marker("classifier")
    if marker is None:
        return
    rows = store.storage.read_table(CLASSIFIER_GRID.path).to_pydict()
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
        f"Chosen: {marker.summary['input']} with learning rate {marker.summary['learning_rate']:g}."
    )
    yield _chart("grid", "The classifier's grid", caption, figure)


def sweeps(store: Store) -> Iterator[Chart]:
    """Every sweep that has ended."""
    for path, _ in store.storage.list(SWEEPS):  # in the order of their names
        if path.endswith("/results.parquet"):
            folder = path.removesuffix("/results.parquet")
            params = list(_params(store, f"{folder}/sweep.yaml"))
            yield _sweep(folder.removeprefix(f"{SWEEPS}/"), params, store.storage.read_table(path).to_pydict())


def _params(store: Store, path: str) -> dict[str, str]:
    """The settings that a sweep varies, with their values as they were given."""
    try:
        return shaped(dict[str, str], opened_yaml(store.storage.read_bytes(path)).get("params"))
    except DocumentError as error:
        raise RunError(f"{store.storage.uri(path)} is damaged ({error}); delete the folder of this sweep") from error


def _sweep(name: str, params: list[str], rows: dict[str, list[Any]]) -> Chart:
    """Scores of every trial over the setting that was swept; of several settings over the number of the trial."""
    figure = go.Figure()
    one = len(params) == 1
    values = rows[params[0]]
    order = sorted(range(len(values)), key=values.__getitem__) if one else range(len(values))
    texts = [", ".join(f"{param} = {rows[param][index]}" for param in params) for index in order]
    shown = [column for column in SCORES if any(value is not None for value in rows[column])]
    for column, colour in zip(shown, (ORANGE, BLUE, GREEN, PINK), strict=False):
        figure.add_scatter(
            x=[values[index] for index in order] if one else [rows["trial"][index] for index in order],
            y=[rows[column][index] for index in order],
            text=texts,
            mode="lines+markers" if one else "markers",
            name=SCORES[column],
            line={"color": colour},
            hovertemplate=f"%{{text}}: {SCORES[column]} %{{y:.4f}}<extra></extra>",
        )
    figure.update_layout(xaxis={"title": {"text": params[0] if one else "trial"}}, showlegend=True)
    return _chart(f"sweep-{name}", f"Sweep {name}", f"{len(values)} trials of {', '.join(params)}.", figure)
