"""The card of a predictor, README.md: where it comes from, what speaks for it, how it is used, what it cannot do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from icce_ray.export.predictor import Trained
from icce_ray.export.usage import usage
from icce_ray.report.labels import headline
from icce_ray.store import Store
from icce_ray.version import __version__


def write_card(store: Store, trained: Trained, form: str, folder: Path, names: Sequence[str]) -> None:
    """Write README.md into the folder of a predictor of the format `form`. Raises RunError as `Store` does."""
    sections = {
        "Use": usage(trained, form),
        "Data": _data(store, trained),
        "Classes": _classes(store, names),
        "What speaks for it": _evidence(store),
        "Alarms": _alarms(store),
        "Licence": _licence(trained),
        "Limits": _limits(trained, form),
        "Settings": _settings(store),
    }
    head: dict[str, str | list[str]] = {"pipeline_tag": "image-classification", "tags": ["icce", "unsupervised"]}
    if form == "huggingface":
        head["library_name"] = "transformers"
    if hub_id := _hub_id(trained):
        head["base_model"] = hub_id
    body = "\n".join(f"## {name}\n\n{text}\n" for name, text in sections.items())
    title = f"# {trained.classes} classes of images, found without labels"
    text = f"---\n{yaml.safe_dump(head)}---\n{title}\n\n{_made(store, trained)}\n\n{body}"
    (folder / "README.md").write_text(text, encoding="utf-8")


def _made(store: Store, trained: Trained) -> str:
    heads, kept = store.resolved(store.settings()).heads.heads, store.require("consensus").summary
    origin = "computed elsewhere"
    if trained.info is not None:
        origin = f"`{trained.info.features}` of the frozen backbone `{trained.info.name}`"
    return (
        f"Made by icce-ray {__version__} (Image Clustering by Consensus of an Ensemble). On features of the images, "
        f"{origin}, {heads} clustering heads were trained, their labels made one by consensus ({kept['method']}), and "
        "this linear classifier trained on that consensus. No label was read."
    )


def _data(store: Store, trained: Trained) -> str:
    counts, learned = trained.embedded.summary, store.require("sample").summary
    return (
        f"{counts['images']:,} images of `{store.settings().source}`, of which {counts['ok']:,} could be used and "
        f"{learned['images']:,} were learned from. {trained.classes} classes."
    )


def _classes(store: Store, names: Sequence[str]) -> str:
    marker = store.marker("predict")
    sizes = marker.summary["class_sizes"] if marker else [""] * len(names)
    rows = [
        f"| {label} | {_cell(name)} | {size} |" for label, (name, size) in enumerate(zip(names, sizes, strict=True))
    ]
    return "\n".join(["| class | name | images |", "|---|---|---|", *rows])


def _evidence(store: Store) -> str:
    """Scores by true labels where the run was evaluated, and what can be said without them."""
    kept, chosen = store.require("consensus").summary, store.require("classifier").summary
    lines = [
        f"- Heads and consensus agree: ANMI {kept['anmi']:.4f}, mean agreement {kept['mean_agreement']:.1%}.",
        f"- The classifier predicts {chosen['heldout_accuracy']:.1%} of {chosen['heldout_images']:,} consensus labels "
        "that it was not trained on.",
    ]
    predicted = store.marker("predict")
    if predicted is not None:
        lines.append(f"- Its mean confidence in the images of the run is {predicted.summary['mean_confidence']:.3f}.")
    rows = headline(store, store.metrics().get("evaluation", {}))
    if not rows:
        return "\n".join(["Not scored by true labels (`icce evaluate`). Without labels:", "", *lines])
    table = ["| labelling | ACC | NMI | ARI | images |", "|---|---|---|---|---|"]
    for name, one in rows:
        figures = " | ".join(f"{100 * one[key]:.2f}" for key in ("acc", "nmi", "ari"))
        table.append(f"| {name} | {figures} | {one['images']:,} |")
    return "\n".join(["Scores by true labels, in percent:", "", *table, "", "Without labels:", "", *lines])


def _alarms(store: Store) -> str:
    markers = [store.marker(stage) for stage in ("heads", "consensus")]
    texts = [one["text"] for marker in markers if marker is not None for one in marker.summary.get("alarms", [])]
    return "\n".join(f"- {text}" for text in texts) or "None: no head collapsed, and no class is empty or disputed."


def _licence(trained: Trained) -> str:
    if trained.info is None or trained.info.name == "hog":
        return "No weights of others are in this folder."
    hub_id = _hub_id(trained)
    where = f"its page, https://huggingface.co/{hub_id}, states it" if hub_id else "look where you had it from"
    return f"The backbone `{trained.info.name}` has a licence of its own, also for its weights in this folder: {where}."


def _limits(trained: Trained, form: str) -> str:
    lines = [
        "- Every image gets one of these classes, also one that belongs to none: look at the probability.",
        "- A class is what some images have in common for the backbone; its name, if it has one, was given afterwards.",
    ]
    if trained.info is not None and form != "sklearn":
        size, near = trained.info.image_size, "0.005" if form == "huggingface" else "0.001"
        lines.append(
            f"- Pictures become squares of {size} x {size} pixels by the model's filter, as Pillow has it. Of the same "
            f"square the probabilities are those of `icce predict` on a CPU to {near}. `icce` decodes large JPEGs at a "
            "lower resolution and resizes some pictures by torch: a few of 255 in some pixels, which moves "
            "probabilities a little further. Lay transparent pictures over white."
        )
    if trained.info is not None and trained.info.name != "hog" and trained.embed.precision != "float32":
        lines.append("- `icce predict` on a GPU computes features in bfloat16, this predictor in float32.")
    return "\n".join(lines)


def _settings(store: Store) -> str:
    own = store.resolved(store.settings()).model_dump(mode="json", exclude={"resources", "out", "tracking"})
    return f"```yaml\n{yaml.safe_dump(own, sort_keys=False).strip()}\n```"


def _hub_id(trained: Trained) -> str | None:
    """The backbone's id on the model hub, None for anything else."""
    name = "" if trained.info is None else trained.info.name
    return name if name.count("/") == 1 and name[0].isalnum() and not Path(name).exists() else None


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")
