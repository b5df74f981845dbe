"""Lists of neighbours against the features that they were made from: a part of `verify`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from icce_ray.store.artifacts import FEATURES, NEIGHBORS, SAMPLE, declared
from icce_ray.store.contents import Contents, Rows, filled, numbers
from icce_ray.store.views import View, figures_of, seen, views_of

#: Pairs whose similarity is computed again, spread over all shards; and how far it may be off: a search in half
#: precision has been seen to be off by 5e-4.
PAIRS, TOLERANCE = 1024, 2e-3


def neighbor_violations(contents: Contents, space: str) -> Iterator[str]:
    """Each list on its own (paper 3.1), then similarities of some pairs, the same ones every time."""
    lists = NEIGHBORS.of(space)
    files = lists.files(contents.markers["neighbors"].files)
    share, random = -(-PAIRS // max(1, len(files))), np.random.default_rng(0)
    pairs: dict[str, np.ndarray] = {}

    def check(path: str, shard: pa.Table) -> Iterator[str]:
        own, (offsets, neighbor), (ends, similarity) = _lists(shard)
        if not np.array_equal(offsets, ends):
            yield "has lists of neighbours and of similarities that differ in length"
            return
        wrong = list(_wrong_lists(contents, space, own, offsets, neighbor, similarity))
        yield from wrong
        if not wrong and len(own):
            row = np.repeat(own, np.diff(offsets))
            chosen = random.choice(len(row), min(share, len(row)), replace=False)
            pairs[path] = np.stack([row[chosen], neighbor[chosen], similarity[chosen].astype(np.float64)])

    beside = [one for one in declared([space]) if one.stage == "neighbors" and one != lists]
    lines = [line for artifact in beside for line in contents.artifact(artifact)] + contents.table(lists, check)[0]
    yield from lines
    if not lines and pairs:
        yield from _wrong_similarities(contents, space, pairs)


def _wrong_lists(
    contents: Contents,
    space: str,
    own: np.ndarray,
    offsets: np.ndarray,
    neighbor: np.ndarray,
    similarity: np.ndarray,
) -> Iterator[str]:
    """What is wrong with the lists of one shard."""
    assert contents.settings is not None, "a prediction has no neighbours"
    ids, limits = contents.ids["learned"], figures_of(contents.markers["neighbors"].summary, space)
    counts = np.diff(offsets)
    row = np.repeat(np.arange(len(own)), counts)
    rank = np.arange(len(row)) - offsets[row]
    place = np.minimum(np.searchsorted(ids, neighbor), len(ids) - 1)
    if (ids[place] != neighbor).any():
        yield "names images that heads do not learn from"
    elif len(np.unique(row * len(ids) + place)) != len(row):
        yield "has a neighbour twice in one list"
    if (neighbor == own[row]).any():
        yield "has an image among its own neighbours"
    if (~(np.diff(similarity) <= 0) & (np.diff(row) == 0)).any() or not np.isfinite(similarity).all():
        yield "has lists that are not descending"
    if contents.settings.neighbors.mode != "ground_truth":
        fewest = min(limits["k_min"], len(ids) - 1)
        if (counts < fewest).any() or (counts > limits["k_max"]).any():
            yield f"has lists outside k_min {fewest} to k_max {limits['k_max']}"
        if (similarity[rank >= limits["k_min"]] < limits["threshold"]).any():
            yield f"has neighbours beyond k_min below the threshold {limits['threshold']}"


def _views(contents: Contents, space: str) -> tuple[View, ...]:
    """What neighbours and heads see of the features in a space."""
    figures = contents.markers["neighbors"].summary.get("by_space", {})
    figures = figures if space else {"": {"components": contents.dimensions["components"]}}
    return views_of(contents.markers["embed"].summary, space, figures)


def _wrong_similarities(contents: Contents, space: str, pairs: dict[str, np.ndarray]) -> Iterator[str]:
    """Shards of which the sampled similarities are not the cosine of the two features."""
    features = Rows(contents, SAMPLE if contents.markers["sample"].files else FEATURES, ["features"])
    wanted = np.unique(np.concatenate([sample[:2].ravel() for sample in pairs.values()]).astype(np.int64))
    rows = features.take(np.searchsorted(contents.ids["learned"], wanted))
    view = seen(contents.store.storage, _views(contents, space))
    unit = view(numbers(rows["features"])).astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    for path, sample in pairs.items():
        first, second = (np.searchsorted(wanted, side.astype(np.int64)) for side in sample[:2])
        cosine = (unit[first] * unit[second]).sum(axis=1)
        off = abs(cosine - sample[2])
        worst = int(off.argmax())
        if off[worst] > TOLERANCE:
            yield (
                f"neighbors: {path} has similarities that are not the cosine of the two features: of images "
                f"{int(sample[0, worst])} and {int(sample[1, worst])} it says {sample[2, worst]:.4f}, the features "
                f"give {cosine[worst]:.4f} ({int((off > TOLERANCE).sum())} of {len(off)} looked at)"
            )


def _lists(shard: pa.Table) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """image_ids; offsets from 0 and all values of the lists of neighbours, and of similarities."""
    columns = (shard[name].combine_chunks() for name in ("neighbor_ids", "similarities"))
    pairs = [(column.offsets.to_numpy() - column.offsets[0].as_py(), filled(column.flatten())) for column in columns]
    return shard["image_id"].to_numpy(), pairs[0], pairs[1]
