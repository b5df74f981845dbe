"""What decisions about the classes of the demo are worth: digits with too few and too many clusters, before and after.

    python jobs/bench/refine.py --out bench-refine --clusters 9,12 --seeds 0,1,2

True labels play the person: of each class the page shows most of one digit, or of two. Two classes of one digit are
merged; a class in which a second digit, the most of which lies in no other class, has a quarter is split. Runs that are
there already are used again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from icce_ray import commands, pipeline, refining
from icce_ray.cli.demo import SETTINGS, write_digits
from icce_ray.io.user_tables import read_user_table
from icce_ray.settings import load
from icce_ray.stages.connection import connected
from icce_ray.store import Store
from icce_ray.store.artifacts import PREDICTIONS
from icce_ray.store.versions import labelling

#: Share of a class that a second digit has if a person sees two of them in it.
TWO = 0.25


def main() -> None:
    """One row for each number of clusters and seed."""
    arguments = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    arguments.add_argument("--out", default="bench-refine")
    arguments.add_argument("--clusters", default="9,12")
    arguments.add_argument("--seeds", default="0,1,2")
    given = arguments.parse_args()
    folder = Path(given.out)
    write_digits(folder)
    print("| K | seed | decisions | classes | ACC before | ACC after | unseen before | unseen after |")
    print("|---|---|---|---|---|---|---|---|")
    with connected():
        for clusters in map(int, given.clusters.split(",")):
            for seed in map(int, given.seeds.split(",")):
                print(row(folder, clusters, seed), flush=True)


def row(folder: Path, clusters: int, seed: int) -> str:
    """Run, evaluate, decide, refine: a row of the table."""
    root, labels = str(folder / f"run-{clusters}-{seed}"), str(folder / "labels.csv")
    settings = {"source": str(folder / "seen"), "clusters": clusters, "out": root, "seed": seed}
    pipeline.run(load(settings | SETTINGS), verbose=False)
    before = scored(root, folder, labels)
    run = Store(root)
    decided = decisions(confusion(run, labels), labelling(run))
    if decided is None:
        return f"| {clusters} | {seed} | none | {clusters} | {before[0]:.2f} | | {before[1]:.2f} | |"
    path = folder / f"decisions-{clusters}-{seed}.json"
    path.write_text(json.dumps(decided))
    done = refining.refine(root, str(path), verbose=False)
    after = scored(done["root"], folder, labels)
    what = ", ".join([*(f"merge {group}" for group in decided["merge"]), *(f"split {one}" for one in decided["split"])])
    return (
        f"| {clusters} | {seed} | {what} | {done['classes']} | {before[0]:.2f} | {after[0]:.2f} | {before[1]:.2f} | "
        f"{after[1]:.2f} |"
    )


def scored(root: str, folder: Path, labels: str) -> tuple[float, float]:
    """ACC in percent on the images of the run, and on those kept aside."""
    out = str(folder / f"unseen-{'-'.join(Path(root).parts[-3:])}")
    commands.predict(root, str(folder / "unseen"), out, verbose=False)
    figures = commands.evaluate(root, labels, predictions=out, verbose=False)
    return 100 * figures["classifier_seen"]["acc"], 100 * figures["classifier_unseen"]["acc"]


def confusion(run: Store, labels: str) -> np.ndarray:
    """int64[K, 10]: images of each class and digit."""
    truth = read_user_table("labels", labels, needs=("uri", "label"))
    digit_of = dict(zip(truth["uri"].to_pylist(), map(int, truth["label"].to_pylist()), strict=True))
    marker = run.require("predict")
    tables = [run.storage.read_table(info.path, ["uri", "label"]) for info in PREDICTIONS.files(marker.files)]
    rows, table = pa.concat_tables(tables), np.zeros((len(marker.summary["class_sizes"]), 10), np.int64)
    np.add.at(table, (rows["label"].to_numpy(), [digit_of[uri] for uri in rows["uri"].to_pylist()]), 1)
    return table


def decisions(table: np.ndarray, run: dict[str, Any]) -> dict[str, Any] | None:
    """What a person would decide who sees the digits of each class; None for nothing."""
    first, sizes = table.argmax(axis=1), table.sum(axis=1)
    found: dict[str, Any] = {"merge": [], "split": {}}
    for digit in range(10):
        group = np.flatnonzero((first == digit) & (sizes > 0)).tolist()
        if len(group) > 1:
            found["merge"].append(group)
    merged = {label for group in found["merge"] for label in group}
    missing = set(range(10)) - set(first[sizes > 0].tolist())
    for label in sorted(set(range(len(table))) - merged):
        inside = [one for one in missing if table[label, one] >= TWO * sizes[label] and table[:, one].argmax() == label]
        if inside:
            found["split"][str(label)] = 1 + len(inside)
    if not found["merge"] and not found["split"]:
        return None
    return {"format": "icce-decisions", "version": 1, "run": run} | found


if __name__ == "__main__":
    main()
