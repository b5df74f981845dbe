"""One class in parts: by heads trained on its images alone, and what the heads of the run say of these.

Some heads of a run divide a class where its parts are, others do not; heads trained on its images see what tells only
these apart. The consensus of all is better than either: jobs/bench/RESULTS.md, "Parts of a class".
"""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icce_ray.core.automatic import Choice, automatic
from icce_ray.core.consensus import Partitioners, consensus
from icce_ray.core.in_memory import LimitsOf, Seen, train
from icce_ray.core.recipe import Recipe
from icce_ray.core.sampling import uniform_rows
from icce_ray.core.search import mine

#: Images that the heads are trained on; of a larger class the others are labelled by them.
MOST_IMAGES = 50_000


@dataclass(frozen=True)
class Parts:
    """A class in parts."""

    part: NDArray[np.int32]
    """int32[n] in [0, parts), the largest part first."""
    agreement: NDArray[np.float32]
    """float32[n] in [0, 1]: share of the heads that agree with it."""


def split(features: Tensor, votes: NDArray[np.int32], parts: int, *, seed: int, partitioners: Partitioners) -> Parts:
    """A class of n >= 2 * parts images in so many parts; the same seed gives the same.

    `features` [n, D] are those of its images, `votes` int32[n, H] their labels under the heads of the run. Raises
    ValueError as `Seen.of` does.
    """
    labels = np.concatenate([_trained(features, parts, seed, partitioners), votes], axis=1)
    found = consensus(labels, parts, partitioners, seed=seed)
    order = np.argsort(-np.bincount(found.label, minlength=parts), kind="stable")
    return Parts(np.argsort(order).astype(np.int32)[found.label], found.agreement)


def _trained(features: Tensor, parts: int, seed: int, partitioners: Partitioners) -> NDArray[np.int32]:
    """Labels int32[n, h] of heads trained on these images, all as in a run of them alone with nothing set.

    With a projection of their own: what tells the parts apart is little of what tells the classes of the run apart.
    """
    seen = Seen.of(features, _choose)
    if len(seen.rows) > MOST_IMAGES:
        chosen = torch.zeros(len(features), dtype=torch.bool)
        chosen[torch.from_numpy(uniform_rows(len(features), MOST_IMAGES, seed))] = True
        taken = seen.directed & chosen.to(features.device)
        seen = dataclasses.replace(seen, directed=taken, facts=seen.facts | {"n_images": int(taken.sum())})
    choice = _choose(parts, seen.facts)
    values = asdict(Recipe()) | asdict(choice)
    recipe = Recipe(**{field.name: values[field.name] for field in dataclasses.fields(Recipe)})
    limits = LimitsOf(choice, parts, None, recipe, seed, partitioners).of(seen.rows)
    used = [(seen, mine(seen.rows, limits), recipe.heads)]
    return train(used, n_clusters=parts, recipe=recipe, seed=seed, on_epoch=lambda done, temi: None)[0]


def _choose(n_clusters: int, facts: dict[str, Any]) -> Choice:
    """The automatic recipe."""
    given = {"components": facts["components"]} if "components" in facts else {}
    return automatic(n_clusters=n_clusters, given=given, **{k: v for k, v in facts.items() if k != "components"})
