"""Memory of the heads' training on each device: what a plan says of it, and what a run checks before it mines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from icce_ray.core.heads import HeadCost
from icce_ray.core.neighbors import default_k_max
from icce_ray.core.recipe import Recipe
from icce_ray.settings import Settings
from icce_ray.settings.choosing import choose, with_choice
from icce_ray.store import RunError

#: Of a neighbour in a list, as training holds it: int32.
TRAINING_NEIGHBOR_BYTES = 4


@dataclass(frozen=True)
class HeadsMemory:
    """Heads of `cost`, of which a device trains `heads`, on so many images."""

    cost: HeadCost
    images: int
    heads: int
    device: str

    def inputs(self, pairs: float) -> float:
        """Bytes of the features, float16, and of lists of so many neighbours in all, with their offsets."""
        return 2.0 * self.images * self.cost.dim + TRAINING_NEIGHBOR_BYTES * pairs + 8.0 * self.images

    def total(self, pairs: float) -> float:
        """Bytes on each device."""
        return self.inputs(pairs) + self.cost.memory(self.heads, self.device)

    def most_neighbors(self, memory: float) -> float:
        """Neighbours an image, on average, with which it fits; below 0 where nothing does."""
        return (memory - self.total(0.0)) / (TRAINING_NEIGHBOR_BYTES * self.images)


def heads_memory(settings: Settings, *, images: int, dim: int, workers: int, device: str) -> HeadsMemory:
    """Of settings with all numbers: of workers that share the heads, the one with most; `dim` is what heads see."""
    chosen = settings.heads
    cost = HeadCost(Recipe(**chosen.recipe()), dim, settings.clusters, min(chosen.batch_size, images))
    split = settings.resources.parallelism == "heads" and device == "cuda"
    return HeadsMemory(cost, images, -(-chosen.heads // workers) if split else chosen.heads, device)


def check_heads_fit(
    settings: Settings,
    *,
    images: int,
    dims: Sequence[int],
    pairs: int | None,
    heads: Callable[[int], int],
    workers: Callable[[Settings], int],
    gpu_memory: int,
    log: Callable[[str], None],
) -> None:
    """Raise RunError if the training of the heads cannot fit GPUs of so many bytes.

    `dims` are of the features, of several spaces that are joined those of each; `heads` says how many of all heads see
    them, `workers` how many processes train. Before the lists are mined (`pairs` None) they have at least k_min
    neighbours an image, and at most k_max: what may then be too large is a line of the log.
    """
    if pairs is None and (settings.count_unknown or settings.neighbors.mode == "ground_truth"):
        return  # nothing is known of the lists
    choices = [choose(settings, n_images=images, dim=dim, mean_cosine=0.0) for dim in dims]
    seen = sum(choice.components or dim for choice, dim in zip(choices, dims, strict=True))
    settings = with_choice(settings, choices[0])
    own = settings.heads.model_copy(update={"heads": heads(settings.heads.heads or 1)})
    settings = settings.model_copy(update={"heads": own})
    needs = heads_memory(settings, images=images, dim=seen, workers=workers(settings), device="cuda")
    least, most = _neighbors(settings, images) if pairs is None else 2 * (pairs / images,)
    fits = needs.most_neighbors(gpu_memory)
    limit = f"the smallest GPU has {gpu_memory / 1e9:.1f} GB"
    if least > fits:
        remedy = "set heads.max_images lower, or neighbors.components to fewer numbers"
        if fits >= (settings.neighbors.k_min or 1):
            remedy = f"mine fewer neighbours: --redo neighbors with neighbors.k_max={int(fits)} or less"
        raise RunError(f"{_said(needs, least)}, but {limit}; use larger GPUs, or {remedy}")
    if most > fits:
        log(
            f"WARNING: {_said(needs, most)}, but {limit}, enough for {int(fits):,} neighbours. With more on average "
            f"the run would stop before it trains; neighbors.k_max={int(fits)} makes sure that it does not"
        )


def _neighbors(settings: Settings, images: int) -> tuple[float, float]:
    """The fewest and the most neighbours an image that mining may find."""
    chosen = settings.neighbors
    k_min = min(chosen.k_min or 1, images - 1)
    if chosen.mode == "fixed":
        return k_min, k_min
    return k_min, min(chosen.k_max or default_k_max(images, settings.clusters, k_min), images - 1)


def _said(needs: HeadsMemory, neighbors: float) -> str:
    return (
        f"heads need {needs.total(neighbors * needs.images) / 1e9:.1f} GB on each GPU ({needs.images:,} images, "
        f"{needs.cost.dim:,} numbers and {neighbors:,.0f} neighbours each; {needs.heads} heads of "
        f"{needs.cost.n_clusters:,} clusters)"
    )
