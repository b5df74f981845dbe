"""Findings of a run that nobody computed, as stage `inspect` and `icce evaluate` write them."""

import pyarrow as pa

from icce_ray.store.artifacts import DUPLICATE_PAIRS, DUPLICATES, LABEL_ISSUES, MANIFEST, NAMES, OUTLIERS, QUALITY

FIGURES = {
    "duplicates": {
        **{"limit": 0.8, "chosen": False, "groups": 2, "exact": 2, "near": 2, "hashed": True, "compared": 5},
        **{"images": 5, "histogram": [0, 1, 1, 1, 2]},
    },
    "outliers": {"limit": 3.5, "images": 5, "flagged": 2},
    "quality": {"images": 5, "unmeasured": 0, "problems": {"dark": {"limit": 0.3, "images": 1}}},
}
#: Of the columns beside the names; pairs and duplicates are of the first images of a run that has six.
DUPLICATE = {"group": [0, 1, 1, 0], "kind": ["exact", "near", "near", "exact"], "similarity": [1.0, 0.9, 0.9, 1.0]}
PAIRS = {"other": [2, 4], "similarity": [0.9, 0.5]}
OUTLIER = {"score": [4.0, 9.0]}
PROBLEM = {"problem": ["dark"], "value": [0.25]}
ISSUE = {"label": ["b"], "suggested": ["a"], "agreement": [0.75]}


def inspected(store, images=(0, 1, 2, 4, 5)):
    """Add findings to a run, of the images with these five image_ids; of none, none."""
    ids = list(images)
    parts = [
        store.storage.read_table(info.path, ["image_id", *NAMES])
        for info in MANIFEST.files(store.require("list").files)
    ]
    names = {row["image_id"]: row for row in pa.concat_tables(parts).to_pylist()}

    def rows(table, of, columns):
        """Rows of the images at these places with the columns' values."""
        values = [dict(zip(columns, one, strict=True)) for one in zip(*columns.values(), strict=True)]
        found = [names[ids[place]] | one for place, one in zip(of, values, strict=True)] if ids else []
        return pa.Table.from_pylist(found, table.schema())

    pairs = PAIRS | ({"other": [ids[2], ids[3]]} if ids else {})
    duplicate = DUPLICATE | ({"group": [ids[one] for one in DUPLICATE["group"]]} if ids else {})
    files = [
        DUPLICATES.write(store.storage, rows(DUPLICATES, (0, 1, 2, 4), duplicate), 0),
        DUPLICATE_PAIRS.write(store.storage, rows(DUPLICATE_PAIRS, (1, 2), pairs)),
        QUALITY.write(store.storage, rows(QUALITY, (3,), PROBLEM), 0),
        OUTLIERS.write(store.storage, rows(OUTLIERS, (1, 3), OUTLIER), 0),
    ]
    LABEL_ISSUES.write(store.storage, rows(LABEL_ISSUES, (2,), ISSUE))
    store.commit("inspect", files, fingerprint="inspected", summary=FIGURES, seconds=0)
    return store
