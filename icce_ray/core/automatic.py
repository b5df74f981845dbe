"""The automatic recipe: every setting that nobody gave, from the number of images, dimensions and clusters.

From `PAPER_IMAGES` on it is the paper's (4.2). Smaller sets get a recipe of their own (ours): features are centred and
projected, heads are narrow and few, and the length of the training follows the steps it needs, not epochs. What each
rule was measured on stands in jobs/paper/RESULTS.md, "Nothing set".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from icce_ray.core.recipe import K_MIN, THRESHOLD, GridRecipe, Recipe

#: Images from which on the paper's recipe is taken as it stands; ImageNet, which it was made for, has 1,281,167.
PAPER_IMAGES = 500_000
#: Mean cosine of two random rows up to which features count as centred, as those of DINOv2 are.
CENTRED = 0.1
#: Principal components that heads and neighbours see of a smaller set, at most one for so many images.
COMPONENTS, IMAGES_PER_COMPONENT = 128, 4
#: Cosine similarity of centred and projected features from which an image is a neighbour.
PROJECTED_THRESHOLD = 0.5
#: Steps of training of 1,000 to 5,000 images; for fewer and more these powers of their number.
STEPS, FEW, MANY = 600, (1_000, 0.3), (5_000, 0.7)
#: Pairs for each cluster in a batch, within these batches: with too few, Sinkhorn's equal columns are mostly noise.
PAIRS_PER_CLUSTER, SMALLEST_BATCH, LARGEST_BATCH = 10, 256, 1024
#: Learning rate of a step, whatever the batch, and the shares of the training that the warm-up and the memory of the
#: teacher take: a moving average longer than the training never moves.
STEP_RATE, WARMUP, HORIZON = 3e-3, 0.1, 0.02
#: How far Sinkhorn goes towards equal clusters. All the way, which the paper goes, cuts the large ones of classes of
#: unequal size; a little less costs classes of equal size nothing.
PRIOR_STRENGTH = 0.8
#: Passes of the linear classifiers over the images, and fewest steps.
PASSES, FEWEST_ITERATIONS = 100, 300
#: Regularisation of the classifiers: with few images they learn the consensus' mistakes by heart.
L2, AGREEMENT_POWER = 0.01, 2.0


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the recipe chooses, under the names of the settings; what was given is kept.

    `components` is 0 where neighbours and heads see the features as they are.
    """

    components: int
    threshold: float
    k_min: int
    heads: int
    hidden: int
    bottleneck: int
    epochs: int
    batch_size: int
    learning_rate: float
    warmup_epochs: int
    teacher_momentum: float
    prior_strength: float
    iterations: int
    l2: float
    agreement_power: float

    def describe(self) -> str:
        """One line."""
        seen = f"{self.components} centred principal components" if self.components else "the features as they are"
        return (
            f"{seen}, threshold {self.threshold}, k_min {self.k_min}; {self.heads} heads of {self.hidden} and "
            f"{self.bottleneck}, {self.epochs} epochs in batches of {self.batch_size}, learning rate "
            f"{self.learning_rate:.2g}, teacher's momentum {self.teacher_momentum:.4g}, prior strength "
            f"{self.prior_strength:g}; classifiers of {self.iterations:,} steps, l2 {self.l2:g}, agreement to the "
            f"power {self.agreement_power:g}"
        )


def automatic(
    n_images: int, dim: int, n_clusters: int, *, mean_cosine: float, given: Mapping[str, Any] | None = None
) -> Choice:
    """The recipe for N images of D features in K clusters.

    Args:
        n_images, dim, n_clusters: N, D and K.
        mean_cosine: of two random rows, in [0, 1]: the squared length of the mean of the unit rows.
        given: values by name that are kept, those that are None left out; the others follow them. Beside those of
            `Choice` it may have `k_max`, which bounds the number of nearest neighbours.
    """
    kept = {name: value for name, value in (given or {}).items() if value is not None}
    k_max = kept.pop("k_max", None)
    large = n_images >= PAPER_IMAGES
    values = _papers(dim, mean_cosine) if large else _small(n_images, dim, n_clusters)
    values |= kept
    if not large:
        values = _schedule(n_images, values) | kept
    if k_max is not None and "k_min" not in kept:
        values["k_min"] = min(values["k_min"], k_max)
    values["warmup_epochs"] = kept.get("warmup_epochs", min(values["warmup_epochs"], values["epochs"]))
    return Choice(**values)


def _papers(dim: int, mean_cosine: float) -> dict[str, Any]:
    """The paper's; features that all point one way are centred, or every pair would be similar."""
    recipe = asdict(Recipe())
    names = {field.name for field in fields(Choice)} & recipe.keys()
    return {name: recipe[name] for name in names} | {
        "components": 0 if mean_cosine <= CENTRED else dim,
        "threshold": THRESHOLD,
        "k_min": K_MIN,
        "iterations": GridRecipe.iterations,
        "l2": GridRecipe.l2,
        "agreement_power": GridRecipe.agreement_power,
    }


def _small(n_images: int, dim: int, n_clusters: int) -> dict[str, Any]:
    """All but the schedule, for fewer images."""
    wanted = 2 ** math.ceil(math.log2(PAIRS_PER_CLUSTER * n_clusters))
    passes = PASSES * n_images // GridRecipe.batch_size
    return {
        "components": max(1, min(COMPONENTS, dim, n_images // IMAGES_PER_COMPONENT)),
        "threshold": PROJECTED_THRESHOLD,
        "k_min": max(1, min(20, n_images // (2 * n_clusters))),
        "heads": 16,
        "hidden": 64,
        "bottleneck": 64,
        "batch_size": min(max(SMALLEST_BATCH, min(wanted, LARGEST_BATCH)), n_images),
        "prior_strength": PRIOR_STRENGTH,
        "iterations": max(FEWEST_ITERATIONS, min(passes, GridRecipe.iterations)),
        "l2": L2,
        "agreement_power": AGREEMENT_POWER,
    }


def _schedule(n_images: int, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with epochs, learning rate, warm-up and teacher's momentum, which follow the batch and each other."""
    batch = min(values["batch_size"], n_images)
    per_epoch = n_images // batch
    wanted = STEPS * min(1.0, n_images / FEW[0]) ** FEW[1] * max(1.0, n_images / MANY[0]) ** MANY[1]
    epochs = values.get("epochs", math.ceil(wanted / per_epoch))
    return dict(values) | {
        "epochs": epochs,
        "learning_rate": STEP_RATE * 256 / batch,
        "warmup_epochs": max(1, round(WARMUP * epochs)),
        "teacher_momentum": max(0.0, 1.0 - 1.0 / max(1.0, HORIZON * epochs * per_epoch)),
    }
