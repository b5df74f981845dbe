"""The tree of the classes, cut: how well it finds what belongs together, against trees of the classes' mean features.

    python jobs/bench/hierarchy.py                                            # digits in 30 classes, cut to 10
    python jobs/bench/hierarchy.py --features cifar10.npz --fine 10 30

Too many classes are asked for, and the tree is cut to the true number: NMI with the true classes. `--features` is an
.npz of `features` [n, D] and `label` [n] of CIFAR-10's classes, cut to 2 as well: ACC of animals against vehicles.
"""

from __future__ import annotations

import numpy as np
from measuring import header, options, row
from numpy.typing import NDArray
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform
from sklearn.datasets import load_digits

from icce_ray import ICCE
from icce_ray.core.hierarchy import co_association, cut, tree
from icce_ray.core.metrics import head_contingency, scores

ANIMALS = (2, 3, 4, 5, 6, 7)
Trees = dict[str, list[tuple[int, int, float]]]


def trees(features: NDArray[np.float32], label: NDArray[np.int32], heads: NDArray[np.int32]) -> Trees:
    """Every way to join the classes, as `core.hierarchy.tree` gives merges."""
    sizes = np.bincount(label)
    counts = np.full(heads.shape[1], int(heads.max()) + 1)
    together = co_association(head_contingency(heads, label, counts, len(sizes)))
    scale = np.sqrt(together.diagonal())
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    means = np.stack([unit[label == one].mean(axis=0) for one in range(len(sizes))])
    return {
        "company in the heads' clusters (the tree)": tree(together, sizes),
        "co-association, average": _of_similarity(together),
        "co-association, its cosine, average": _of_similarity(together / np.outer(scale, scale)),
        "mean features, average of cosines": _merges(linkage(means, "average", metric="cosine")),
        "mean features, Ward": _merges(linkage(means, "ward")),
    }


def _of_similarity(similarity: NDArray[np.float64]) -> list[tuple[int, int, float]]:
    return _merges(linkage(squareform(1.0 - similarity, checks=False), "average"))


def _merges(linked: NDArray[np.float64]) -> list[tuple[int, int, float]]:
    return [(int(one), int(other), distance) for one, other, distance, _ in linked.tolist()]


def main() -> None:
    """Cluster, cut and print one table a data set and number of classes."""
    parser = options(__doc__, features="", fine=[30], seeds=[0, 1], heads=16)
    given = parser.parse_args()
    if given.features:
        kept = np.load(given.features)
        features, truth = kept["features"].astype(np.float32), kept["label"].astype(np.int64)
    else:
        pixels, classes = load_digits(return_X_y=True)
        features, truth = np.asarray(pixels, np.float32) - 8.0, np.asarray(classes, np.int64)
    for fine in given.fine:
        found: dict[str, list[str]] = {}
        for seed in given.seeds:
            model = ICCE(fine, heads=given.heads, random_state=seed).fit(features)
            label, coarse = model.labels_, int(truth.max()) + 1
            for name, merges in trees(features, label, model.head_labels_).items():
                cells = found.setdefault(name, [])
                if fine > coarse:
                    cells.append(f"{scores(cut(merges, fine, coarse)[label], truth)['nmi']:.3f}")
                if given.features:
                    halves = np.isin(truth, ANIMALS).astype(np.int64)
                    cells.append(f"{scores(cut(merges, fine, 2)[label], halves)['acc']:.3f}")
        what = (["NMI at 10"] if fine > 10 else []) + (["ACC at 2"] if given.features else [])
        header(f"{fine} classes", *(f"{one}, seed {seed}" for seed in given.seeds for one in what))
        for name, cells in found.items():
            row(name, *cells)


if __name__ == "__main__":
    main()
