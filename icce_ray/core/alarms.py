"""Collapse alarms: what heads and a consensus look like when training went wrong, seen without labels (ours).

Each check returns alarms that state value, limit and remedy, and none for a run that is well. The limits lie between
healthy runs (digits with three seeds, balanced synthetic features with one) and provoked collapses.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: A head whose TEMI loss fell by less than this share of log K, from its first to its lowest epoch, never started
#: (healthy: 0.28 to 0.6, with K ten times too large 0.14; learning rate or momentum a thousand times off: 0.02).
LEAST_FALL = 0.05
#: A head that uses no more than this share of its clusters has collapsed (healthy: 0.97 and more).
LEAST_USED = 0.5
#: Mean share of clusters that no image is in, of the heads that have not collapsed (healthy: 0.03 at most), from one
#: cluster a head on.
MOST_EMPTY = 0.05
#: Mean share of heads that agree with the consensus (healthy: 0.77 and more; heads that learned nothing: 0.4).
LEAST_AGREEMENT = 0.5
#: A label looks like two if the heads divide it, as one, into halves: `shared_division` (healthy: 0.56 at most).
MOST_DIVIDED = 0.7
#: Only labels whose smaller half is this share of them, in most heads, are looked at for that.
LEAST_HALF = 0.2


class CollapseWarning(UserWarning):
    """Heads or consensus look collapsed; the text says how, and what to change."""


@dataclass(frozen=True)
class Alarm:
    """One thing that is wrong."""

    name: str
    """For programs: diverged, stopped, collapsed, empty_clusters, empty_labels, merged_labels or disagreement."""
    value: float
    limit: float
    text: str
    """For people: value, limit and remedy."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)


def head_alarms(losses: NDArray[np.floating], sizes: NDArray[np.integer]) -> list[Alarm]:
    """Heads that diverged, never started or collapsed, and clusters that no image is in.

    Args:
        losses: float[epochs, H], mean TEMI loss of each epoch and head.
        sizes: int[H, K], images of each cluster of each head.
    """
    alarms, n_clusters = [], sizes.shape[1]
    diverged = np.asarray(~np.isfinite(losses).all(axis=0))
    if diverged.any():
        text = f"the loss of {_listed('head', diverged)} is not finite (limit: none); lower the learning rate"
        alarms.append(Alarm("diverged", int(diverged.sum()), 0, text))
    fall = (losses[0] - np.fmin.reduce(losses)) / math.log(max(2, n_clusters))
    stopped = ~diverged & (fall < LEAST_FALL)
    # With one epoch there is no fall, and with one cluster the loss is about zero from the start.
    if len(losses) > 1 and n_clusters > 1 and stopped.any():
        most = float(fall[stopped].max())
        text = (
            f"the loss of {_listed('head', stopped)} fell by {most:.1%} of log K at most (limit: {LEAST_FALL:.0%}): "
            "nothing was learned; raise the learning rate, lower teacher_momentum or train longer"
        )
        alarms.append(Alarm("stopped", most, LEAST_FALL, text))
    return [*alarms, *_unused(sizes)]


def cluster_sizes(labels: NDArray[np.integer], n_clusters: int) -> NDArray[np.int64]:
    """Images of each cluster of each head, int64[H, K], of labels int[N, H] in [0, K)."""
    n_heads = labels.shape[1]
    cells = labels + np.arange(n_heads, dtype=np.int64) * n_clusters
    return np.bincount(cells.ravel(), minlength=n_heads * n_clusters).reshape(n_heads, n_clusters)


def _unused(sizes: NDArray[np.integer]) -> list[Alarm]:
    n_clusters, alarms = sizes.shape[1], []
    used = (sizes > 0).mean(axis=1)
    collapsed = (used <= LEAST_USED) & (n_clusters > 1)
    if collapsed.any():
        least = float(used[collapsed].min())
        text = (
            f"{_listed('head', collapsed)} collapsed: down to {least:.0%} of {n_clusters} clusters used (limit: "
            f"above {LEAST_USED:.0%}); train with teacher=sinkhorn and beta=0.6, lower weight_decay or the learning "
            "rate, or ask for fewer clusters"
        )
        alarms.append(Alarm("collapsed", least, LEAST_USED, text))
    empty = 0.0 if collapsed.all() else float(1 - used[~collapsed].mean())
    if empty > MOST_EMPTY and empty * n_clusters >= 1:
        text = (
            f"heads leave {empty:.0%} of their {n_clusters} clusters empty on average (limit: {MOST_EMPTY:.0%}); ask "
            "for fewer clusters, or train with teacher=sinkhorn, cluster_prior=uniform and prior_strength=1"
        )
        alarms.append(Alarm("empty_clusters", empty, MOST_EMPTY, text))
    return alarms


def divided(sizes: NDArray[np.integer], splits: NDArray[np.integer]) -> NDArray[np.int64]:
    """The labels that most heads divide: int64[labels], of the arrays that `consensus_alarms` takes."""
    return np.flatnonzero(np.median(splits, axis=0) > LEAST_HALF * np.maximum(sizes, 1))


def shared_division(moments: NDArray[np.floating], sizes: NDArray[np.integer]) -> NDArray[np.float64]:
    """How far the heads divide each of some labels, of int[L] `sizes`, in the same way: float64[L] in [0, 1].

    Of every head the cluster that divides the label most evenly says of each image 1 or 0; `moments` [L, H, H] are for
    how many images two heads both say 1 (`consensus.tally.division_moments`). The largest eigenvalue of the covariance
    of these H numbers is H / 4 where all heads divide the label into the same halves: two classes. Where heads differ
    in what they leave out, as with classes that they only cut up, no direction is shared.
    """
    n_heads = moments.shape[1]
    together = moments / np.maximum(sizes, 1)[:, None, None]
    alone = np.diagonal(together, axis1=1, axis2=2)
    covariance = together - alone[:, :, None] * alone[:, None, :]
    return 4 * np.linalg.eigvalsh(covariance)[:, -1] / n_heads


def consensus_alarms(
    sizes: NDArray[np.integer],
    labels: NDArray[np.integer],
    division: NDArray[np.floating],
    mean_agreement: float,
) -> list[Alarm]:
    """Labels that no image has, labels that look like two, and heads that do not agree.

    Args:
        sizes: int[K], images of each label.
        labels: int[L], those of `divided`.
        division: float[L], their `shared_division`.
        mean_agreement: share of heads that agree with the label, mean over images.
    """
    alarms, empty = [], int((sizes == 0).sum())
    if empty:
        text = (
            f"{empty} of {len(sizes)} labels have no image (limit: 0): the heads do not tell so many classes apart; "
            "ask for fewer clusters"
        )
        alarms.append(Alarm("empty_labels", empty, 0, text))
    merged = np.isin(np.arange(len(sizes)), labels[division > MOST_DIVIDED])
    if merged.any():
        most = float(division.max())
        text = (
            f"{_listed('label', merged)} look like two classes each: the heads agree by up to {most:.0%} how to divide "
            f"them (limit: {MOST_DIVIDED:.0%}); ask for more clusters or train more heads"
        )
        alarms.append(Alarm("merged_labels", most, MOST_DIVIDED, text))
    if mean_agreement < LEAST_AGREEMENT:
        text = (
            f"{mean_agreement:.0%} of the heads agree with the consensus on average (limit: {LEAST_AGREEMENT:.0%}): "
            "its labels are arbitrary; train longer, set another neighbors.threshold, or ask for fewer clusters"
        )
        alarms.append(Alarm("disagreement", mean_agreement, LEAST_AGREEMENT, text))
    return alarms


def _listed(what: str, chosen: NDArray[np.bool_], most: int = 8) -> str:
    """`head 3`, `heads 0, 3`, or the first of many."""
    numbers = np.flatnonzero(chosen)
    shown = ", ".join(map(str, numbers[:most])) + (f" and {len(numbers) - most} more" if len(numbers) > most else "")
    return f"{what}{'s' * (len(numbers) > 1)} {shown}"
