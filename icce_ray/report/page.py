"""`report/index.html`: everything gathered and written as one file that needs no network."""

from __future__ import annotations

import base64
import gzip
import json
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from icce_ray.export.names import read_names
from icce_ray.progress import Progress
from icce_ray.report import facts
from icce_ray.report.charts import charts
from icce_ray.report.gallery import gallery
from icce_ray.report.heads import classes_of
from icce_ray.report.picks import KINDS, labelled
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
    given = read_names(names, len(source.sizes)) if names is not None and source is not None else {}
    cards, about = gallery(store, source, classes, given, progress) if source is not None else ([], "")
    drawn = charts(store, source, classes)
    run_file, evaluation = store.run_file(), store.metrics().get("evaluation", {})
    environment = Environment(
        loader=PackageLoader("icce_ray.report", "assets"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["embedded"] = _embedded
    return environment.get_template("page.html").render(
        run=store.root,
        settings=settings,
        created=run_file["created"],
        versions={"icce_ray": run_file["icce_ray"]} | run_file["versions"],
        verdict=facts.verdict(store, settings),
        alarms=facts.alarms(store),
        scores=facts.headline(settings, store, evaluation),
        confused=evaluation.get("confused", []),
        stages=facts.stage_rows(store),
        rejects=facts.rejects(store),
        setting_rows=facts.setting_rows(settings),
        gallery=cards,
        kinds=KINDS,
        about=about,
        charts=drawn,
        chart_data={one.name: one.figure for many in drawn.values() for one in many},
        plotly=_plotly(),
    )


@cache
def _plotly() -> str:
    """The library that draws the charts; compressed once for all pages of a process."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()


def _embedded(value: Any) -> str:
    """JSON for a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
