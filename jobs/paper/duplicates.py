"""Near-duplicates: what copies with tiny changes cost the same method on the same images (ours).

Copies come in two ways: *on top*, so that the set grows, and *instead* of other images, so that it does not (as
`FeatureModel.duplicates` draws them). A copy is the nearest neighbour of its original: it takes a place among the k_min
nearest and brings no other image of the class. Rows not seen are the same ones everywhere, none a copy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from icce_ray.core.heads import derived_seed
from jobs.paper.feature_sets import FeatureSet
from jobs.paper.measure import Measured
from jobs.paper.studies import ALL, FINAL, NEIGHBORS, OF_CLASS, VALIDATION
from jobs.paper.synthetic import STREAM, near_copies
from jobs.paper.tables import COLUMNS, Results, cells, difference, points, table

#: Of the images, as copies.
SHARE = 0.3
#: Points of ACC that copies may cost.
LIMIT = 1.0
_COLUMNS = (NEIGHBORS, OF_CLASS, ALL, VALIDATION, FINAL)
_PLAIN, _ON_TOP, _FEWER, _INSTEAD = "no copies", "copies on top", "fewer images, no copies", "fewer images and copies"


def duplicates(measure: Measured, seeds: Sequence[int], share: float = SHARE) -> str:
    """A Markdown table of sets with and without copies, and what the copies cost; a seed draws its own copies."""
    found: Results = {}
    sizes: dict[str, int] = {}
    for seed in seeds:
        for name, on in _sets(measure.on, share, seed).items():
            here = measure if on is measure.on else Measured(on, measure.kept, measure.say)
            found.setdefault(name, []).append(here.variant(f"duplicates: {name}", on.base, seed))
            sizes[name] = len(on.features)
    rows = [[name, f"{sizes[name]:,}", *cells(figures, _COLUMNS)] for name, figures in found.items()]
    costs = [
        _cost("copies on top of all images", found[_ON_TOP], found[_PLAIN]),
        _cost("copies on top of fewer images", found[_INSTEAD], found[_FEWER]),
        _cost("copies instead of other images (which are lost too)", found[_INSTEAD], found[_PLAIN]),
    ]
    header = ["", "images", *(COLUMNS[name] for name in _COLUMNS)]
    return table(f"Near-duplicates: {share:.0%} copies", header, rows, costs)


def on_top(on: FeatureSet, share: float, seed: int) -> FeatureSet:
    """All images and a near-copy each of `share` of them, drawn at random, at the end."""
    generator = _generator(seed)
    chosen = torch.randperm(len(on.features), generator=generator)[: round(share * len(on.features))]
    return _with_copies(on, torch.arange(len(on.features)), chosen, f"{share:.0%} copied", generator)


def instead(on: FeatureSet, share: float, seed: int) -> tuple[FeatureSet, FeatureSet]:
    """The images but for a random `share`, alone and with as many near-copies of theirs at the end as are left out."""
    generator = _generator(seed)
    count = round(share * len(on.features))
    stay = torch.randperm(len(on.features), generator=generator)[count:].sort().values
    chosen = stay[torch.randint(len(stay), (count,), generator=generator)]
    alone = _with_copies(on, stay, stay[:0], f"{share:.0%} left out", generator)
    return alone, _with_copies(on, stay, chosen, f"{share:.0%} left out for copies", generator)


def _sets(on: FeatureSet, share: float, seed: int) -> dict[str, FeatureSet]:
    fewer, with_copies = instead(on, share, seed)
    return {_PLAIN: on, _ON_TOP: on_top(on, share, seed), _FEWER: fewer, _INSTEAD: with_copies}


def _with_copies(on: FeatureSet, stay: Tensor, chosen: Tensor, name: str, generator: torch.Generator) -> FeatureSet:
    rows = torch.cat([stay, chosen])
    features = torch.cat([on.features[stay], near_copies(on.features[chosen], generator)])
    return dataclasses.replace(on, name=f"{on.name}, {name}", features=features, classes=on.classes[rows.numpy()])


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(seed, STREAM, 3))  # the parts before are those of `draw`


def _cost(text: str, copied: Sequence[dict[str, float]], plain: Sequence[dict[str, float]]) -> str:
    """What copies cost after self-training and in the mean of all heads, seed by seed."""
    costs = [difference([one[name] for one in plain], [one[name] for one in copied]) for name in (FINAL, ALL)]
    kept = "within" if costs[0][0] <= LIMIT else "ABOVE"
    final, heads = (points(*cost, len(plain)) for cost in costs)
    return f"- {text} cost {final} after self-training ({heads} in all heads): {kept} the limit of {LIMIT:g}."
