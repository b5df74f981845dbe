"""Features that behave like DINOv2's, drawn at random: for studies where no pretrained weights are at hand.

A point is a direction; all vectors below have length one. Of K classes:

- *Hierarchy*: the classes share `0.15 K` superclasses; class centres of one superclass have cosine `kinship`.
- *Fragments*: a class has `modes` modes, `sqrt(e) class centre + sqrt(1 - e) own direction`, so that two modes of it
  have cosine e; e differs by class and is spread evenly over `coherence`.
- *Confusable classes*: the share `leaning` of all modes has cosine `lean` to a mode of another class.
- *Typicality*: an image is `t mode + sqrt(1 - t^2) noise` with isotropic noise. Of typical images
  `t = U^typical_power`, of the share `atypical`, `t = atypical_scale U^atypical_power`, U uniform in [0, 1]: images
  far from everything.
- *Mislabelled-looking*: the share `mislabelled` is drawn from another class than its label says.
- *Near-duplicates*: the share `duplicates` are copies of other images with a cosine of about `1 - 1e-4`.
- *Imbalance*: class sizes fall geometrically, the largest `imbalance` times the smallest.

Shares are met exactly and e is not drawn but spread, so that sets of different seeds differ little. The defaults
follow, for K = 100 and D = 256, the paper's Table 11 (mean neighbours and their accuracy over nine thresholds on
ImageNet-100, DINOv2 ViT-L/14) and tell the story of its Table 1: fixed neighbours stay inside fragments, adaptive ones
join them (`jobs/paper.py curve` and `jobs/paper.py ladder`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from icce_ray.core.heads import derived_seed

STREAM = 3  # of random numbers; head training has 0 and 1, the linear grid 2
#: Length of the noise on a copy: a cosine of 1 - 1e-4 to the original.
COPY_NOISE = 0.0141


@dataclass(frozen=True, kw_only=True)
class FeatureModel:
    """What is drawn; each field is explained at the top of the file. The defaults are fitted (ours)."""

    n_clusters: int = 100
    dim: int = 256
    modes: int = 4
    kinship: float = 0.20
    coherence: tuple[float, float] = (0.86, 0.965)
    leaning: float = 0.05
    lean: float = 0.80
    typical_power: float = 0.13
    atypical: float = 0.32
    atypical_scale: float = 0.58
    atypical_power: float = 0.45
    mislabelled: float = 0.001
    duplicates: float = 0.0
    imbalance: float = 1.0


@dataclass(frozen=True)
class Drawn:
    """Images of a model: features float32[n, dim] of length one, and the class of each, int64[n]."""

    features: Tensor
    classes: Tensor


def draw(model: FeatureModel, n_images: int, seed: int, *, unseen: int = 0) -> tuple[Drawn, Drawn]:
    """`n_images` images and `unseen` others of the same classes, in random order.

    The same seed gives the same classes, whatever the numbers of images. Raises ValueError for fewer images than
    classes, and for a share, a cosine or an imbalance out of its range.
    """
    _check(model, n_images)
    modes = _modes(model, torch.Generator().manual_seed(derived_seed(seed, STREAM, 0)))
    seen, new = (torch.Generator().manual_seed(derived_seed(seed, STREAM, part)) for part in (1, 2))
    return _images(model, modes, n_images, seen), _images(model, modes, unseen, new)


def scaled_k_min(n_images: int, n_clusters: int) -> int:
    """The paper's k_min = 50 of 1,285 images a class for classes of another size, at least 1."""
    return max(1, round(50 * n_images / n_clusters / 1285))


def _modes(model: FeatureModel, generator: torch.Generator) -> Tensor:
    """Centres of the modes, float32[K, modes, dim]."""
    n_classes, n_modes, dim = model.n_clusters, model.modes, model.dim
    supers = _directions(max(1, round(0.15 * n_classes)), dim, generator)
    of_class = supers[torch.arange(n_classes) % len(supers)]
    centres = _between(of_class, _directions(n_classes, dim, generator), torch.tensor(model.kinship))
    spread = torch.linspace(*model.coherence, n_classes)[torch.randperm(n_classes, generator=generator)]
    own = _directions(n_classes * n_modes, dim, generator).view(n_classes, n_modes, dim)
    modes = _between(centres[:, None].expand_as(own), own, spread[:, None, None]).flatten(0, 1)
    count = round(model.leaning * len(modes)) if n_classes > 1 else 0
    leaning = torch.randperm(len(modes), generator=generator)[:count]
    # A mode of another class: so many classes further, any of its modes.
    steps = torch.randint(1, max(2, n_classes), (count,), generator=generator)
    others = (leaning // n_modes + steps) % n_classes * n_modes
    towards = modes[others + torch.randint(n_modes, (count,), generator=generator)]
    apart = normalize(modes[leaning] - (modes[leaning] * towards).sum(1, keepdim=True) * towards, dim=1)
    modes[leaning] = model.lean * towards + math.sqrt(1.0 - model.lean**2) * apart
    return modes.view(n_classes, n_modes, dim)


def _images(model: FeatureModel, modes: Tensor, n_images: int, generator: torch.Generator) -> Drawn:
    n_originals = n_images - round(model.duplicates * n_images)
    sizes = class_sizes(n_originals, model.n_clusters, model.imbalance)
    classes = torch.repeat_interleave(torch.arange(model.n_clusters), sizes)
    classes = classes[torch.randperm(n_originals, generator=generator)]
    wrong = torch.randperm(n_originals, generator=generator)[: round(model.mislabelled * n_originals)]
    source = classes.clone()
    source[wrong] = torch.randint(model.n_clusters, (len(wrong),), generator=generator)
    mode = torch.randint(model.modes, (n_originals,), generator=generator)
    typicality = torch.rand(n_originals, generator=generator)
    atypical = torch.randperm(n_originals, generator=generator)[: round(model.atypical * n_originals)]
    far = model.atypical_scale * typicality[atypical] ** model.atypical_power
    typicality = typicality**model.typical_power
    typicality[atypical] = far
    noise = _directions(n_originals, model.dim, generator)
    features = normalize(_mixed(modes[source, mode], noise, typicality[:, None]), dim=1)
    copied = torch.randint(max(1, n_originals), (n_images - n_originals,), generator=generator)
    changed = near_copies(features[copied], generator)
    order = torch.randperm(n_images, generator=generator)
    features, classes = torch.cat([features, changed]), torch.cat([classes, classes[copied]])
    return Drawn(features[order], classes[order])


def near_copies(features: Tensor, generator: torch.Generator) -> Tensor:
    """Near-duplicates of rows float32[n, D]: as long, with a cosine of about 1 - 1e-4 to them."""
    lengths = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    noise = COPY_NOISE * lengths * _directions(len(features), features.shape[1], generator)
    return lengths * normalize(features + noise, dim=1)


def class_sizes(n_images: int, n_clusters: int, imbalance: float) -> Tensor:
    """Sizes of the classes, int64[K] descending, summing to `n_images`; first over last is about `imbalance`."""
    shares = imbalance ** -torch.linspace(0.0, 1.0, n_clusters, dtype=torch.float64)
    edges = (shares.cumsum(0) / shares.sum() * n_images).round().long()
    return edges.diff(prepend=edges.new_zeros(1))


def _mixed(direction: Tensor, noise: Tensor, cosine: Tensor) -> Tensor:
    return cosine * direction + (1.0 - cosine**2).sqrt() * noise


def _between(shared: Tensor, own: Tensor, cosine: Tensor) -> Tensor:
    """Directions that have about this cosine to each other where `shared` is the same."""
    return normalize(_mixed(shared, own, cosine.sqrt()), dim=-1)


def _directions(count: int, dim: int, generator: torch.Generator) -> Tensor:
    return normalize(torch.randn(count, dim, generator=generator), dim=1)


def _check(model: FeatureModel, n_images: int) -> None:
    if n_images < model.n_clusters:
        raise ValueError(f"{n_images} images for {model.n_clusters} classes; draw at least one a class")
    shares = ("kinship", "leaning", "lean", "atypical", "atypical_scale", "mislabelled", "duplicates")
    for name in shares:
        if not 0.0 <= getattr(model, name) <= 1.0:
            raise ValueError(f"{name} = {getattr(model, name)}; it must lie in [0, 1]")
    if not 0.0 <= model.coherence[0] <= model.coherence[1] <= 1.0:
        raise ValueError(f"coherence = {model.coherence}; give two ascending numbers in [0, 1]")
    if model.imbalance < 1.0 or model.duplicates == 1.0:
        raise ValueError(
            f"imbalance = {model.imbalance} must be at least 1, duplicates = {model.duplicates} below 1: copies need "
            "an original"
        )
