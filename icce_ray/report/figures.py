"""The charts that a run has data for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from icce_ray.documents import DocumentError, shaped
from icce_ray.io.storage import FileInfo
from icce_ray.report import charts
from icce_ray.report.charts import Chart
from icce_ray.report.facts import summary_of
from icce_ray.report.heads import Classes
from icce_ray.report.picks import Labelled
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import CLASSIFIER_GRID, HEAD_LOSSES, NEIGHBORS, SWEEPS
from icce_ray.store.seals import opened_yaml

#: Pairs of neighbours that the curve of thresholds counts at most, and points of it.
PAIRS, POINTS = 20_000_000, 101
#: Points of a curve of losses, at most: pages of 50 heads stay small.
EPOCHS = 200


def of_training(store: Store) -> Iterator[Chart]:
    """Losses of the heads."""
    marker = store.marker("heads")
    if marker is None:
        return
    table = store.storage.read_table(HEAD_LOSSES.path)
    heads = marker.summary["heads"]
    epochs = table["epoch"].to_numpy().reshape(-1, heads)[:, 0]
    temi, cross = (table[name].to_numpy().reshape(-1, heads) for name in ("temi", "cross_entropy"))
    shown = np.unique(np.linspace(0, len(epochs) - 1, min(EPOCHS, len(epochs))).round().astype(int))
    yield charts.losses(epochs[shown] + 1, temi[shown], cross[shown], marker.summary["best_head"])


def of_neighbors(store: Store) -> Iterator[Chart]:
    """Neighbours against the threshold, and how many images have."""
    marker = store.marker("neighbors")
    if marker is None or "threshold" not in marker.summary:
        return
    told = marker.summary
    lowest = float(told["threshold"])
    edges = np.append(np.linspace(lowest, 1.0, POINTS), np.inf)
    above, images, lengths = np.zeros(POINTS), 0, []
    for info in _some(NEIGHBORS.files(marker.files), told["mean_neighbors"]):
        column = store.storage.read_table(info.path, ["similarities"])["similarities"].combine_chunks()
        similarities = column.flatten().to_numpy()
        above += np.histogram(similarities[similarities >= lowest], edges)[0]
        images += len(column)
        lengths.append(np.diff(column.offsets.to_numpy()))
    if not images:
        return
    means = above[::-1].cumsum()[::-1] / images
    counted = f"Counted on {images:,} images" + ("." if images == told["images"] else f" of {told['images']:,}.")
    yield charts.counts(
        edges[:-1],
        means,
        f"{means[0]:.1f} neighbours an image at the run's threshold of {lowest:g}; higher thresholds would keep fewer. "
        f"The run took at least {told['k_min']} and at most {told['k_max']}. {counted}",
    )
    yield charts.lengths(
        np.concatenate(lengths),
        f"{told['mean_neighbors']:.1f} on average; {told['share_at_k_min']:.1%} of the images have the fewest, "
        f"{told['k_min']}, and none more than {told['k_max']}. {counted}",
    )


def _some(files: list[FileInfo], mean: float) -> list[FileInfo]:
    """Shards spread evenly over the run, as many as hold PAIRS pairs."""
    pairs = mean * sum(info.rows or 0 for info in files)
    wanted = max(1, min(len(files), round(len(files) * PAIRS / max(pairs, 1.0))))
    return [files[place] for place in np.linspace(0, len(files) - 1, wanted).round().astype(int)] if files else []


def of_classes(source: Labelled | None) -> Iterator[Chart]:
    """Sizes of the classes."""
    if source is not None:
        yield charts.sizes(source.sizes)


def of_heads(classes: Classes | None) -> Iterator[Chart]:
    """Agreement of the heads."""
    if classes is not None and len(classes.pairs) > 1:
        yield charts.agreement(classes.pairs, classes.compared)


def of_classifier(store: Store) -> Iterator[Chart]:
    """The grid of the classifier."""
    told = summary_of(store, "classifier")
    if told:
        table = store.storage.read_table(CLASSIFIER_GRID.path)
        yield charts.grid(table.to_pydict(), (told["input"], told["learning_rate"]))


def of_sweeps(store: Store) -> Iterator[Chart]:
    """Every sweep that has ended."""
    paths = sorted(path for path, _ in store.storage.list(SWEEPS) if path.endswith("/results.parquet"))
    for path in paths:
        folder = path.removesuffix("/results.parquet")
        params = list(_asked(store, f"{folder}/sweep.yaml"))
        rows = store.storage.read_table(path).to_pydict()
        names = {"acc": "consensus ACC", "best_head_acc": "best head ACC", "modularity": "modularity", "anmi": "ANMI"}
        shown = [(column, label) for column, label in names.items() if any(v is not None for v in rows[column])]
        yield charts.sweep(folder.removeprefix(f"{SWEEPS}/"), params, rows, shown)


def _asked(store: Store, path: str) -> dict[str, str]:
    """The settings that a sweep varies, with their values as they were given."""
    try:
        return shaped(dict[str, str], opened_yaml(store.storage.read_bytes(path)).get("params"))
    except DocumentError as error:
        raise RunError(f"{store.storage.uri(path)} is damaged ({error}); delete the folder of this sweep") from error
