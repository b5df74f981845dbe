"""Settings that nobody gave, filled in by the automatic recipe (`core.automatic`), and those that a run found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from icce_ray.core.automatic import PAPER_IMAGES, Choice, automatic
from icce_ray.settings.models import Settings

#: What the recipe chooses, by group.
CHOSEN = {
    "neighbors": ("components", "threshold", "k_min"),
    "heads": (
        "heads",
        "hidden",
        "bottleneck",
        "epochs",
        "batch_size",
        "learning_rate",
        "warmup_epochs",
        "teacher_momentum",
        "prior_strength",
    ),
    "classifier": ("iterations", "l2", "agreement_power"),
}


def choose(settings: Settings, *, n_images: int, dim: int, mean_cosine: float) -> Choice:
    """The recipe for so many images that the heads learn from; what the settings give is kept.

    With the number of clusters still to be found it is that of the fewest.
    """
    given = {name: getattr(getattr(settings, group), name) for group, names in CHOSEN.items() for name in names}
    given["k_max"] = settings.neighbors.k_max
    return automatic(n_images, dim, settings.fewest_clusters, mean_cosine=mean_cosine, given=given)


def with_choice(settings: Settings, choice: Choice) -> Settings:
    """The settings with every value of the recipe in its place."""
    groups = {
        group: getattr(settings, group).model_copy(update={name: getattr(choice, name) for name in names})
        for group, names in CHOSEN.items()
    }
    return settings.model_copy(update=groups)


def with_numbers(settings: Settings, figures: Mapping[str, Any]) -> Settings:
    """The settings as stage `neighbors` has resolved them: its `figures` say what it found and worked with.

    Those of a version without the recipe name no `mean_cosine`: all was the paper's then that nobody gave.
    """
    if settings.count_unknown and "clusters" in figures:
        settings = settings.model_copy(update={"clusters": figures["clusters"]})
    found = {"components": figures.get("components", 0)}
    found |= {name: figures[name] for name in ("threshold", "k_min") if name in figures}
    own = settings.neighbors
    missing = {name: value for name, value in found.items() if getattr(own, name) in (None, "auto")}
    settings = settings.model_copy(update={"neighbors": own.model_copy(update=missing)})
    if "mean_cosine" not in figures:
        return with_papers(settings)
    facts = {name: figures[name] for name in ("dim", "mean_cosine")}
    return with_choice(settings, choose(settings, n_images=figures["images"], **facts))


def with_papers(settings: Settings) -> Settings:
    """The settings with the paper's value of all that is not given."""
    return with_choice(settings, choose(settings, n_images=PAPER_IMAGES, dim=1, mean_cosine=0.0))


def identity(settings: Settings) -> dict[str, Any]:
    """What results are known by: `defining`, less what is zero of the settings that 0.1.0 did not have.

    Whether that is given or follows from the recipe is for `defining` to tell; and so it is whether `embed.resize` is,
    whose default was `squash` in 0.1.0, and of DINOv2 and hog still is.
    """
    values = settings.defining()
    embed = values["embed"]
    name = embed["backbone"]  # or several, which 0.1.0 did not have
    if embed["resize"] is None and isinstance(name, str) and (name == "hog" or name.startswith("facebook/dinov2")):
        embed["resize"] = "squash"
    for group, name in (("neighbors", "components"), ("classifier", "l2"), ("classifier", "agreement_power")):
        if not values[group][name]:
            del values[group][name]
    return values


def choice_of(settings: Settings) -> Choice | None:
    """The recipe that settings with all numbers hold; None of others."""
    if not is_resolved(settings):
        return None
    return Choice(
        **{name: getattr(getattr(settings, group), name) for group, names in CHOSEN.items() for name in names}
    )


def is_resolved(settings: Settings) -> bool:
    """Whether every number is there."""
    values = [getattr(getattr(settings, group), name) for group, names in CHOSEN.items() for name in names]
    return not settings.count_unknown and None not in values and "auto" not in values


def paper() -> dict[str, Any]:
    """The paper's recipe, whatever the size of the set: the preset `--config paper`."""
    choice = automatic(PAPER_IMAGES, 1, 1000, mean_cosine=0.0)
    return {group: {name: getattr(choice, name) for name in names} for group, names in CHOSEN.items()}
