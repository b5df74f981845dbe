"""Cleaner neighbours without labels: what each filter of `core.cleaning` gives, between mined lists and true ones.

The upper end is the paper's Table 4: every image of the anchor's class is its neighbour. A filter is worth having if it
closes half of the gap to it on every feature set. How much any filter of the mined lists could close is shown by one
that knows the classes.

Found on synthetic features and digits, three seeds: no filter closes more than 2 % of the gap of self-training. On
synthetic features a perfect one closes all of it, but wrong pairs there are those of fragments that lie nearer to
another class than to their own, and what is purer without labels has lost their right pairs as well. On digits even a
perfect filter closes less than a third: right pairs are missing that no list has.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from icce_ray.studies.measure import Figures, Measured
from icce_ray.studies.paper import ALL, BEST, FINAL, NEIGHBORS, OF_CLASS, VALIDATION
from icce_ray.studies.tables import COLUMNS, cell, head
from icce_ray.studies.variants import Variant

_COLUMNS = (NEIGHBORS, OF_CLASS, BEST, ALL, VALIDATION, FINAL)
#: Looser lists have more right pairs and many more wrong ones.
_LOOSENED = 0.2
LOWER, UPPER = "adaptive", "ground truth"
#: Reads the classes: no filter of the same lists can do better.
PERFECT = "all wrong pairs left out (reads labels)"


def variants(base: Variant) -> dict[str, Variant]:
    """The rows of the table by name; `base` has no filter."""
    return {
        LOWER: base,
        "mutual": base.but(cleaning="mutual"),
        "shared": base.but(cleaning="shared"),
        f"threshold - {_LOOSENED}, shared": base.but(cleaning="shared", loosened=_LOOSENED),
        "two rounds, 70 % agree": base.but(cleaning="agreement", level=0.7),
        f"threshold - {_LOOSENED}, two rounds, 70 % agree": base.but(
            cleaning="agreement", level=0.7, loosened=_LOOSENED
        ),
        PERFECT: base.but(cleaning="true"),
        UPPER: base.but(neighbors="ground_truth"),
    }


def cleaner(measure: Measured, seeds: Sequence[int]) -> str:
    """A Markdown table, mean +- standard deviation over seeds, and the share of the gap that each filter closes."""
    rows = variants(measure.on.base)
    found: dict[str, list[Figures]] = {name: [] for name in rows}
    for seed in seeds:
        for name, variant in rows.items():
            found[name].append(measure.variant(f"cleaner: {name}", variant, seed))
    lines = ["### Cleaner neighbours", "", head(["", *(COLUMNS[name] for name in _COLUMNS)])]
    lines += [f"| {name} | {' | '.join(cell(each, column) for column in _COLUMNS)} |" for name, each in found.items()]
    return "\n".join([*lines, "", *closed(found)]) + "\n"


def closed(found: dict[str, list[Figures]]) -> list[str]:
    """By filter, the share of the gap between the two ends that it closes, of the means over seeds."""
    lines = []
    for name in found:
        if name in (LOWER, UPPER):
            continue
        shares = [
            f"{text} {_share(found, name, figure)}" for text, figure in (("best head", BEST), ("self-training", FINAL))
        ]
        lines.append(f"- {name} closes of the gap to true neighbours: {', '.join(shares)}.")
    return lines


def _share(found: dict[str, list[Figures]], name: str, figure: str) -> str:
    low, high, own = (float(np.mean([one[figure] for one in found[row]])) for row in (LOWER, UPPER, name))
    if high <= low:
        return f"none to close ({100 * (high - low):+.2f} points)"
    return f"{100 * (own - low) / (high - low):.0f} % of {100 * (high - low):.2f} points"
