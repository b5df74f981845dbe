"""Data of the tab Findings: copies in groups, images far from all, quality trouble, labels that the classes contradict.

Each part is there where the run has what it shows; the page says how to get one that is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from icce_ray.report.pool import Section
from icce_ray.store import Store
from icce_ray.store.artifacts import DUPLICATE_PAIRS, DUPLICATES, LABEL_ISSUES, OUTLIERS, QUALITY, Table

#: Of each part that many are on the page, the worst first; the export has all.
PAIRS, GROUPS, SHOWN, OF_PROBLEM = 1000, 100, 200, 48
#: Images of one group of exact copies that are on the page.
MEMBERS = 12


def findings(store: Store) -> Section | None:
    """What was found, None for a run that was neither inspected nor evaluated."""
    marker = store.marker("inspect")
    figures = marker.summary if marker else {}
    parts, wanted = {}, [np.empty(0, np.int64)]
    for name, data in {
        "duplicates": _duplicates(store, figures),
        "outliers": _outliers(store, figures),
        "quality": _quality(store, figures),
        "labels": _label_issues(store),
    }.items():
        if data is not None:
            parts[name], ids = data
            wanted.append(ids)
    if not parts:
        return None
    return Section({"run": store.root, **parts}, np.concatenate(wanted), unnamed=False)


def _duplicates(store: Store, figures: Mapping[str, Any]) -> tuple[dict[str, Any], np.ndarray] | None:
    """Groups of exact copies, and pairs of near ones of which the page makes groups at any limit."""
    if "duplicates" not in figures:
        return None
    storage, marker = store.storage, store.require("inspect")
    table = _table(store, DUPLICATES)
    exact = table.filter(pa.array([kind == "exact" for kind in table["kind"].to_pylist()], pa.bool_()))
    groups = _groups(exact)
    files = DUPLICATE_PAIRS.files(marker.files)
    pairs = storage.read_table(files[0].path).slice(0, PAIRS) if files else DUPLICATE_PAIRS.schema().empty_table()
    columns = [pairs[name].to_pylist() for name in ("image_id", "other", "similarity")]
    listed = [[one, other, round(similarity, 3)] for one, other, similarity in zip(*columns, strict=True)]
    near = np.array([pair[:2] for pair in listed], np.int64).ravel()
    wanted = np.concatenate([near, np.array([one for group in groups for one in group["ids"]], np.int64)])
    about = figures["duplicates"] | {"exact_groups": groups, "pairs": listed}
    return about, wanted


def _groups(exact: pa.Table) -> list[dict[str, Any]]:
    """The largest groups of exact copies: how many there are of each, and some image_ids."""
    group, ids = exact["group"].to_numpy(), exact["image_id"].to_numpy()
    numbers, inverse, counts = np.unique(group, return_inverse=True, return_counts=True)
    members = np.split(ids[np.argsort(inverse, kind="stable")], np.cumsum(counts)[:-1]) if len(numbers) else []
    order = np.argsort(-counts, kind="stable")[:GROUPS].tolist()
    return [{"size": int(counts[one]), "ids": members[one][:MEMBERS].tolist()} for one in order]


def _outliers(store: Store, figures: Mapping[str, Any]) -> tuple[dict[str, Any], np.ndarray] | None:
    if "outliers" not in figures:
        return None
    table = _table(store, OUTLIERS).sort_by([("score", "descending"), ("image_id", "ascending")]).slice(0, SHOWN)
    ids = table["image_id"].to_numpy()
    scores = [round(score, 2) for score in table["score"].to_pylist()]
    return figures["outliers"] | {"found": list(zip(ids.tolist(), scores, strict=True))}, ids


def _quality(store: Store, figures: Mapping[str, Any]) -> tuple[dict[str, Any], np.ndarray] | None:
    """Images of each problem, the worst first: of the bright ones those of the highest value, of others the lowest."""
    if "quality" not in figures:
        return None
    every, problems, wanted = _table(store, QUALITY), {}, [np.empty(0, np.int64)]
    for name, one in figures["quality"]["problems"].items():
        table = every.filter(pa.array([problem == name for problem in every["problem"].to_pylist()], pa.bool_()))
        order = "descending" if name == "bright" else "ascending"
        table = table.sort_by([("value", order), ("image_id", "ascending")]).slice(0, OF_PROBLEM)
        wanted.append(table["image_id"].to_numpy())
        values = [round(value, 3) for value in table["value"].to_pylist()]
        problems[name] = one | {"found": list(zip(wanted[-1].tolist(), values, strict=True))}
    return figures["quality"] | {"flagged": len(every), "problems": problems}, np.concatenate(wanted)


def _label_issues(store: Store) -> tuple[dict[str, Any], np.ndarray] | None:
    """Those of the highest agreement; None where no labels were ever given."""
    if not store.storage.exists(LABEL_ISSUES.path):
        return None
    table = store.storage.read_table(LABEL_ISSUES.path)
    count, table = len(table), table.sort_by([("agreement", "descending"), ("image_id", "ascending")]).slice(0, SHOWN)
    columns = [table[name].to_pylist() for name in ("image_id", "label", "suggested", "agreement")]
    found = [[*row[:3], round(row[3], 3)] for row in zip(*columns, strict=True)]
    return {"flagged": count, "found": found}, table["image_id"].to_numpy()


def _table(store: Store, table: Table) -> pa.Table:
    """All shards of a table of findings; of an image, hardly any has a row."""
    files = table.files(store.require(table.stage).files)
    tables = [store.storage.read_table(info.path) for info in files if info.rows]
    return pa.concat_tables(tables).combine_chunks() if tables else table.schema().empty_table()
