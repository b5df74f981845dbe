"""`report/index.html`: everything gathered and written as one file that needs no network."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from icce_ray.export.names import chosen_names
from icce_ray.export.superclasses import MISSING, hierarchy_of
from icce_ray.progress import Progress
from icce_ray.report.changes import changes
from icce_ray.report.charts import charts
from icce_ray.report.corrections import correctable
from icce_ray.report.findings import findings
from icce_ray.report.gallery import KINDS, gallery, shown
from icce_ray.report.labels import Labelled, headline, labelled
from icce_ray.report.map_data import map_section
from icce_ray.report.pool import Section, pool
from icce_ray.report.updates import grown
from icce_ray.settings import Settings
from icce_ray.settings.choosing import choice_of
from icce_ray.store import Marker, RunError, Store, check_files
from icce_ray.store.artifacts import REJECTS, REPORT, STAGES, Hierarchy

#: Rejects of each reason that are named, and shards that are looked through for them.
EXAMPLES, LOOKED_THROUGH = 5, 200
#: Parts of the page's script, in the order in which they see each other; each is one closure's. A part that is not
#: there yet is left out.
SCRIPTS = (
    *("base.js", "images.js", "tiles.js", "sheet.js", "cards.js", "charts.js", "tree.js"),
    *("map_points.js", "map_gl.js", "map_view.js", "map_colours.js", "map_words.js", "map_pictures.js", "map.js"),
    *("findings.js", "decisions.js", "corrections.js", "choose.js", "select.js", "main.js"),
)
STYLES = ("style.css", "cards.css", "map.css", "tree.css", "findings.css", "decisions.css")


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
    source, classes = labelled(store), hierarchy_of(store)
    parts, about, icons = {}, "", False
    if source is not None:
        given = chosen_names(store, names, len(source.sizes), progress.log)
        parts["classes"], about = gallery(store, source, classes, given or {})
        parts |= _parts(store, source, classes, progress)
        found = pool(store, source, list(parts.values()), progress)
        about, icons = f"{about} {found.text}", found.icons
        if (whose := correctable(store, names)) is not None:
            parts["run"] = Section(whose, np.empty(0, np.int64))
        parts["classes"] = replace(parts["classes"], data=shown(parts["classes"].data, found.images))
        parts["images"] = Section(found.images, np.empty(0, np.int64))
    drawn = charts(store, source, classes)
    data = {name: part.data for name, part in parts.items()}
    data |= {"kinds": KINDS, "certainty": source.share if source is not None else "", "icons": icons}
    data["charts"] = {one.name: one.figure for many in drawn.values() for one in many}
    resolved = store.resolved(settings)
    run_file, evaluation = store.run_file(), store.metrics().get("evaluation", {})
    markers = {stage: store.marker(stage) for stage in STAGES}
    environment = Environment(
        loader=PackageLoader("icce_ray.report", "assets"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["embedded"] = _embedded
    updates = grown(store, progress)
    return environment.get_template("page.html").render(
        run=store.root,
        settings=settings,
        heads=resolved.heads.heads,
        created=run_file["created"],
        versions={"icce_ray": run_file["icce_ray"]} | run_file["versions"],
        summaries={stage: marker.summary if marker else {} for stage, marker in markers.items()},
        evaluation=evaluation,
        scores=headline(store, evaluation),
        times=[(stage, marker, _rate(markers, marker)) for stage, marker in markers.items()],
        rejects=_rejects(store, markers["embed"]),
        setting_rows=_setting_rows(settings, resolved),
        recipe=recipe.describe() if (recipe := choice_of(resolved)) else "",
        updates=updates,
        about=about,
        charts=drawn,
        data=data,
        panels=_panels(environment, parts),
        plotly=_plotly(),
        scripts=_texts(environment, SCRIPTS),
        styles=_texts(environment, STYLES),
    )


def _parts(store: Store, source: Labelled, classes: Hierarchy | None, progress: Progress) -> dict[str, Section]:
    """The further parts of the page that the run has data for, those first that the budget of pictures serves first."""
    tree = {"merges": classes["merges"]} if classes is not None else {"missing": f"No tree of the classes: {MISSING}."}
    parts = {
        "findings": findings(store),
        "tree": Section(tree, np.empty(0, np.int64)),
        "changes": changes(store),
        "map": map_section(store, source, progress),
    }
    return {name: part for name, part in parts.items() if part is not None}


def _panels(environment: Environment, parts: Mapping[str, Section]) -> dict[str, str]:
    """Title of each tab; its panel is a template of its own."""
    titles = {"classes": "Classes", "map": "Map", "findings": "Findings", "changes": "Changes"}
    there = set(environment.list_templates())
    shown = {name: title for name, title in titles.items() if name in parts and f"{name}.html" in there}
    return shown | {"figures": "Figures", "run": "Run"}


def _texts(environment: Environment, names: Sequence[str]) -> str:
    """Files of the page's assets one after the other, as far as they are there."""
    there = set(environment.list_templates())
    loader = environment.loader
    assert loader is not None
    return "\n".join(loader.get_source(environment, name)[0] for name in names if name in there)


def _rate(markers: dict[str, Marker | None], marker: Marker | None) -> str:
    """Throughput of a stage as text; "" where it has none."""
    if marker is None or marker.seconds <= 0.05:
        return ""
    sample = markers["sample"].summary if markers["sample"] else {}
    images = marker.summary.get("images", marker.summary.get("labelled", sample.get("images")))
    return f"{images / marker.seconds:,.0f} images per second" if images else ""


def _rejects(store: Store, marker: Marker | None) -> list[tuple[str, int, list[tuple[str, str]]]]:
    """(reason, count, the first few (uri, detail)) of rejected inputs, most frequent reason first."""
    if marker is None or not marker.summary["rejected"]:
        return []
    by_reason: dict[str, int] = marker.summary["rejected_by_reason"]
    examples: dict[str, list[tuple[str, str]]] = {reason: [] for reason in by_reason}
    for info in [info for info in REJECTS.files(marker.files) if info.rows][:LOOKED_THROUGH]:
        table = store.storage.read_table(info.path, ["uri", "reason", "detail"]).slice(0, 1000)
        for row in table.to_pylist():
            if len(examples[row["reason"]]) < EXAMPLES:
                examples[row["reason"]].append((row["uri"], row["detail"] or ""))
        if all(len(rows) >= min(EXAMPLES, by_reason[reason]) for reason, rows in examples.items()):
            break
    ordered = sorted(by_reason.items(), key=lambda item: -item[1])
    return [(reason, count, examples[reason]) for reason, count in ordered]


def _setting_rows(settings: Settings, resolved: Settings) -> dict[str, list[tuple[str, str, bool]]]:
    """(field, value that the run worked with, whether a value other than the default was given), by stage."""
    plain = Settings.model_construct().model_dump(mode="json", warnings=False)
    given, rows = settings.model_dump(mode="json"), dict[str, list[tuple[str, str, bool]]](run=[])
    for name, value in resolved.model_dump(mode="json").items():
        if isinstance(value, dict):
            rows[name] = [(field, _text(one), given[name][field] != plain[name][field]) for field, one in value.items()]
        else:
            rows["run"].append((name, _text(value), name in plain and given[name] != plain[name]))
    return rows


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


@cache
def _plotly() -> str:
    """The library that draws the charts; compressed once for all pages of a process."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()


def _embedded(value: Any) -> str:
    """JSON for a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
