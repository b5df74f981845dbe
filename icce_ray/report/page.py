"""`report/index.html`: everything gathered and written as one file that needs no network."""

from __future__ import annotations

import base64
import gzip
import json
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from icce_ray.export.images import RunImages
from icce_ray.export.names import read_names
from icce_ray.io.decode import Reject
from icce_ray.io.sources import SourceError
from icce_ray.progress import Progress
from icce_ray.report import facts, figures
from icce_ray.report.cards import cards
from icce_ray.report.charts import Chart
from icce_ray.report.heads import Classes, classes_of
from icce_ray.report.picks import KINDS, Labelled, Picks, labelled, pick
from icce_ray.report.thumbs import MOST_OF_A_KIND, in_turn, side, thumbnails
from icce_ray.settings import Settings
from icce_ray.store import RunError, Store, check_files
from icce_ray.store.artifacts import REPORT, STAGES


def write_report(store: Store, progress: Progress, *, names: str | None = None) -> str:
    """Write the page of a run, of which at least `embed` is complete; returns its path or URI.

    `names` is a CSV file of names of classes, as for `icce export`. Pictures that cannot be read any more are shown as
    such. Raises RunError for anything but a run, and as `read_names` does.
    """
    settings = checked(store)
    page = _page(store, settings, progress, names).encode()
    if not store.storage.exists(REPORT) or store.storage.read_bytes(REPORT) != page:
        store.storage.write_bytes(REPORT, page)
    return store.storage.uri(REPORT)


def checked(store: Store) -> Settings:
    """Settings of a run that can have a page. Raises RunError for anything else, before anything is written."""
    if store.holds_prediction():
        raise RunError(f"{store.root} is the output of `icce predict`; give the run, whose report shows its classes")
    settings = store.settings()
    store.require("embed")
    check_files(store, *STAGES)
    return settings


def _page(store: Store, settings: Settings, progress: Progress, names: str | None) -> str:
    source, classes = labelled(store), classes_of(store)
    known = read_names(names, len(source.sizes)) if names is not None and source is not None else {}
    gallery, told = _gallery(store, settings, source, classes, known, progress)
    charts = _charts(store, source, classes)
    content = store.run_file()
    environment = Environment(
        loader=PackageLoader("icce_ray.report", "assets"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["embedded"] = _embedded
    return environment.get_template("page.html").render(
        run=store.root,
        settings=settings,
        created=content["created"],
        versions={"icce_ray": content["icce_ray"]} | content["versions"],
        verdict=facts.verdict(store, settings),
        alarms=facts.alarms(store),
        scores=facts.scores(store, settings),
        confused=store.metrics().get("evaluation", {}).get("confused", []),
        names=known,
        stages=facts.stage_rows(store),
        rejects=facts.rejects(store),
        setting_rows=facts.setting_rows(settings),
        gallery=gallery,
        kinds=KINDS,
        told=told,
        charts=charts,
        chart_data={one.name: one.figure for many in charts.values() for one in many},
        plotly=_plotly(),
    )


@cache
def _plotly() -> str:
    """The library that draws the charts; compressed once for all pages of a process."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()


def _charts(store: Store, source: Labelled | None, classes: Classes | None) -> dict[str, list[Chart]]:
    """Charts by section."""
    return {
        "sizes": list(figures.of_classes(source)),
        "training": list(figures.of_training(store)),
        "neighbors": list(figures.of_neighbors(store)),
        "heads": list(figures.of_heads(classes)),
        "classifier": list(figures.of_classifier(store)),
        "sweeps": list(figures.of_sweeps(store)),
    }


def _gallery(
    store: Store,
    settings: Settings,
    source: Labelled | None,
    classes: Classes | None,
    names: dict[int, str],
    progress: Progress,
) -> tuple[list[dict[str, Any]], str]:
    """Cards of all classes, and what is to be said of them; none before there is a consensus."""
    if source is None:
        return [], ""
    picks = pick(store, source, MOST_OF_A_KIND)
    truth = store.metrics().get("evaluation", {}).get("classes", [])
    if len(truth) != len(source.sizes):
        truth = []
    try:
        images = RunImages(store)
    except SourceError as error:
        return cards(source, picks, {}, {}, classes, names, truth), f"No pictures: {error}."
    pictures, shown = {}, in_turn(picks)
    if images.has_pixels:
        pictures = thumbnails(images, shown, side(len(source.sizes)), progress, max_pixels=settings.embed.max_pixels)
        shown = np.fromiter(pictures, np.int64, len(pictures))
    named = {row["image_id"]: row for row in images.rows(shown).select(["image_id", "uri", "key"]).to_pylist()}
    told = _told(source, picks, images, pictures)
    return cards(source, picks, named, pictures, classes, names, truth), told


def _told(source: Labelled, picks: Picks, images: RunImages, pictures: dict[int, bytes | Reject]) -> str:
    looked, every = int(picks.seen.sum()), int(source.sizes.sum())
    among = f"all {every:,} images" if looked == every else f"{looked:,} of {every:,} images, from shards evenly spread"
    text = f"Typical, least certain (by {source.share}) and random images of each class, among {among}."
    if not images.has_pixels:
        return f"{text} The source holds features, so images are shown by name."
    missing = sum(isinstance(data, Reject) for data in pictures.values())
    text += f" Neither side of a picture is above {side(len(source.sizes))} pixels here."
    return f"{text} {missing:,} pictures cannot be read any more." if missing else text


def _embedded(value: Any) -> str:
    """JSON for a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
