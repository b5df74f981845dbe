"""The whole run, stage by stage, in the order of the paper. Read this first.

    list -> embed -> neighbors -> heads -> consensus -> classifier -> predict          (evaluate, where labels exist)

Stages hand over artifacts under the run's directory and nothing else, so that each may be skipped when its marker
stands and a killed run is resumed by the same command. `icce`, the jobs and `icce_ray.run` all come here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from icce_ray.adapters.progress import Display, StageProgress, silent
from icce_ray.adapters.sources import list_images
from icce_ray.settings import ResourceSettings, Settings
from icce_ray.stages import classifier, consensus, embed, evaluate, heads, listing, neighbors, predict
from icce_ray.stages.cluster import Resources, check_device, connected, resources
from icce_ray.stages.embed import described_backbone
from icce_ray.stages.truth import read_truth
from icce_ray.store import ARTIFACTS, Marker, RejectBudgetError, RunError, Store, fingerprint

STAGES = {
    "embed": embed.run,
    "neighbors": neighbors.run,
    "heads": heads.run,
    "consensus": consensus.run,
    "classifier": classifier.run,
    "predict": predict.run,
}
Shown = Callable[[str], AbstractContextManager[StageProgress]]


def run(
    settings: Settings,
    *,
    first: str = "embed",
    last: str = "predict",
    redo: str | None = None,
    verbose: bool = True,
) -> dict[str, Any]:
    """Run the stages `first` to `last` that are not complete; returns the content of `metrics.json`.

    `redo` repeats the run from that stage on, and may come with other settings for it and what follows. Raises
    SourceError, BackboneError, RunError before any work where the fault can be known; RejectBudgetError at the
    end, when every stage is complete but too many inputs were rejected.
    """
    shown: Shown = Display if verbose else silent
    store = Store(settings.out)
    wanted = _between(first, last)
    _prepare(settings, store, redo, shown)
    todo = _todo(store, wanted)
    if todo:
        with connected():
            available = resources(settings.resources)
            for stage in todo:
                _run_stage(stage, settings, store, available, shown)
    else:
        with shown("run") as progress:
            progress.say(f"nothing to do: {first} to {last} of {store.root} are complete")
    _check_budget(store.marker("embed"), settings.embed.reject_budget)
    return store.metrics()


def predict_source(
    run_root: str, source: str, out: str, *, limits: ResourceSettings | None = None, verbose: bool = True
) -> dict[str, Any]:
    """Label the images of a new source with a run's classifier; predictions and rejects go to `out`.

    Returns the summary. Resumes like a run. Raises as `run` does.
    """
    shown: Shown = Display if verbose else silent
    run_store, out_store, limits = Store(run_root), Store(out), limits or ResourceSettings()
    settings = run_store.settings()
    classifier_marker = run_store.require("classifier")
    described_backbone(settings.embed)
    check_device(limits)
    if out_store.root == run_store.root:
        raise RunError(f"--out {out} is the run itself, whose predictions are of its own images; give another --out")
    list_images(source)
    purpose = {"run": run_store.root, "classifier": classifier_marker.fingerprint, "source": source}
    out_store.claim_prediction(purpose)
    listed = out_store.marker("list")
    if listed is not None:
        listing.check_unchanged(source, listed.summary)
    else:
        _list(source, out_store, shown, settings.embed.rows_per_shard, classifier_marker.fingerprint)
    marker = out_store.marker("predict")
    if marker is None:
        with connected(), shown("predict") as progress:
            started = time.monotonic()
            files, summary = predict.run_source(run_store, source, out_store, limits, resources(limits), progress)
            fingerprint_ = classifier_marker.fingerprint
            seconds = time.monotonic() - started
            marker = out_store.commit("predict", files, fingerprint=fingerprint_, summary=summary, seconds=seconds)
    else:
        with shown("predict") as progress:
            progress.say(f"nothing to do: {out_store.root} is complete")
    _check_budget(marker, settings.embed.reject_budget)
    return marker.summary


def evaluate_run(
    run_root: str, labels: str, *, predictions: str | None = None, kmeans: bool = False, verbose: bool = True
) -> dict[str, Any]:
    """Scores of everything the run holds against true labels, also kept in `metrics.json`; see `stages.evaluate`."""
    store = Store(run_root)
    settings = store.settings()
    store.require("embed")
    read_truth(labels)
    if predictions is not None:
        Store(predictions).require("predict")
    shown: Shown = Display if verbose else silent
    with connected(), shown("evaluate") as progress:
        figures = evaluate.run(
            store, labels, resources(settings.resources), progress, predictions=predictions, kmeans=kmeans
        )
    store.record("evaluation", figures)
    return figures


def _prepare(settings: Settings, store: Store, redo: str | None, shown: Shown) -> None:
    """Everything that can be found wrong before work starts; binds the run to the settings and lists the source."""
    list_images(settings.source)
    described_backbone(settings.embed)
    check_device(settings.resources)
    if settings.neighbors.labels is not None:
        read_truth(settings.neighbors.labels)
    listed = store.marker("list") if redo != "list" else None
    if listed is not None:  # before `redo` deletes anything
        _check_clusters(settings, listed)
    new = store.claim(settings, redo=redo)
    try:
        if listed is None:
            listed = _list(settings.source, store, shown, settings.embed.rows_per_shard, fingerprint(settings, "list"))
            _check_clusters(settings, listed)
        else:
            listing.check_unchanged(settings.source, listed.summary)
    except (ValueError, RunError):
        if new:  # nothing was done yet: other settings may take the place
            store.abandon()
        raise


def _check_clusters(settings: Settings, listed: Marker) -> None:
    if settings.clusters > listed.summary["images"]:
        raise RunError(
            f"clusters = {settings.clusters} is more than the {listed.summary['images']} images of "
            f"{settings.source}; ask for fewer clusters or give more images"
        )


def _list(source: str, store: Store, shown: Shown, rows_per_shard: int, digest: str) -> Marker:
    with shown("list") as progress:
        started = time.monotonic()
        store.storage.delete_tree(ARTIFACTS["list"])
        files, summary = listing.run(source, store, progress, rows_per_shard=rows_per_shard)
        progress.say(
            f"{summary['images']:,} images, {summary['bytes']:,} bytes; {summary['other_files']:,} other files"
        )
        return store.commit("list", files, fingerprint=digest, summary=summary, seconds=time.monotonic() - started)


def _between(first: str, last: str) -> list[str]:
    """Stages from `first` to `last`. Raises RunError unless both exist, in this order."""
    order = list(STAGES)
    for name in (first, last):
        if name not in order:
            raise RunError(f"there is no stage {name!r}; stages are {', '.join(order)}")
    begin, end = order.index(first), order.index(last)
    if begin > end:
        raise RunError(f"--from {first} comes after --until {last}; stages run in the order {', '.join(order)}")
    return order[begin : end + 1]


def _todo(store: Store, wanted: list[str]) -> list[str]:
    """Incomplete stages of those wanted. Raises RunError if one before them is incomplete."""
    order = list(STAGES)
    for earlier in order[: order.index(wanted[0])]:
        store.require(earlier)
    return [stage for stage in wanted if store.marker(stage) is None]


def _run_stage(stage: str, settings: Settings, store: Store, available: Resources, shown: Shown) -> None:
    if stage != "embed":
        embed.check_enough(store, settings.clusters)
    started = time.monotonic()
    with shown(stage) as progress:
        files, summary = STAGES[stage](settings, store, available, progress)
        seconds = time.monotonic() - started
        store.commit(stage, files, fingerprint=fingerprint(settings, stage), summary=summary, seconds=seconds)
        store.record(stage, summary | {"seconds": round(seconds, 3)})


def _check_budget(marker: Marker | None, budget: float) -> None:
    """Raise RejectBudgetError if more inputs were rejected than allowed, naming them."""
    if marker is None or not marker.summary.get("rejected"):
        return
    summary = marker.summary
    share = summary["rejected"] / summary["images"]
    if share > budget:
        raise RejectBudgetError(
            f"{summary['rejected']} of {summary['images']} inputs ({share:.1%}) were rejected, the budget is "
            f"{budget:.1%}: {summary['rejected_by_reason']}. Every stage asked for is complete for the others. "
            "Mend the source, or accept it with --set embed.reject_budget=SHARE"
        )
