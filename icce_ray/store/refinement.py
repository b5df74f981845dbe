"""From decisions to the classes of a new version: which numbers, names and given labels they have."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from icce_ray.store.artifacts import FEATURES
from icce_ray.store.decisions import Decisions, Move
from icce_ray.store.markers import RunError, UsageError
from icce_ray.store.run import Store
from icce_ray.store.versions import Refinement, labelling, made_from, refinement_of

#: Images of a class for each of its parts, at least: from fewer a training learns nothing.
FEWEST = 10
#: What a class that was rejected is called, before its name if it has one.
REJECTED = "rejected"
_READERS = 8


def check_labelling(base: Store, decisions: Decisions) -> None:
    """Raise RunError for decisions about other classes than the base has."""
    now, then = labelling(base), decisions.run
    if now["predictions"] != then.predictions or now["classes"] != then.classes:
        raise RunError(
            f"the decisions are about other classes: those of {base.root} are {now['predictions']} ({now['classes']}), "
            f"the decisions say {then.predictions} ({then.classes}). The run was repeated since, or the file is of "
            "another run; decide again on the page of `icce report`"
        )


def gone_images(base: Store, moves: Sequence[Move]) -> set[int]:
    """image_ids of moves that are of no accepted image, or of one with another key; reads the shards that hold them."""
    if not moves:
        return set()
    ends = np.cumsum([info.rows or 0 for info in base.require("list").files])
    ids = np.array([one.image_id for one in moves])
    shards = np.searchsorted(ends, ids, side="right")
    there = {info.path for info in FEATURES.files(base.require("embed").files)}

    def keys(shard: int) -> dict[int, str]:
        path = FEATURES.part(shard)
        if path not in there:
            return {}
        table = base.storage.read_table(path, ["image_id", "key"])
        table = table.filter(pa.array(np.isin(table["image_id"].to_numpy(), ids[shards == shard])))
        return dict(zip(table["image_id"].to_pylist(), table["key"].to_pylist(), strict=True))

    known: dict[int, str] = {}
    with ThreadPoolExecutor(_READERS) as pool:
        for found in pool.map(keys, np.unique(shards).tolist()):
            known |= found
    return {one.image_id for one in moves if known.get(one.image_id) != one.key}


def check_splits(base: Store, decisions: Decisions) -> None:
    """Raise UsageError for a class with too few images to learn the parts from, or if one class is left."""
    sizes = base.require("consensus").summary["cluster_sizes"]
    for label, parts in decisions.split.items():
        if sizes[int(label)] < FEWEST * parts:
            raise UsageError(
                f"class {label} has {sizes[int(label)]:,} images to learn its parts from; {parts} parts need at least "
                f"{FEWEST * parts}: ask for fewer, or move the images one by one"
            )
    left = _numbers(decisions)[1]
    if left < 2:
        raise UsageError("these merges leave one class of all images; a classifier needs two: leave a merge out")


def planned(
    base: Store, run: Store, decisions: Decisions, names: dict[int, tuple[str, bool]], left_out: list[str]
) -> Refinement:
    """What follows from decisions about the base; `names` are those of its classes, and whether they are guesses."""
    parts, classes = _numbers(decisions)
    before = refinement_of(base)
    moved = {} if before is None else before.fixed
    moved |= {one.image_id: one.to for one in decisions.move}
    rejected = _rejected(decisions, set() if before is None else set(before.rejected), parts)
    named, guessed = _names(decisions, names, parts)
    for label in rejected:
        if not named.get(label, "").startswith(REJECTED):
            named[label] = f"{REJECTED}: {named[label]}" if label in named else REJECTED
    return Refinement(
        base=decisions.run.version,
        labels=decisions.run.predictions,
        decisions=decisions.digest(),
        made_from=made_from(run),
        classes=classes,
        parts=parts,
        names=dict(sorted(named.items())),
        guessed=sorted(guessed),
        rejected=sorted(rejected),
        moved=sorted(moved.items()),
        left_out=left_out,
    )


def _numbers(decisions: Decisions) -> tuple[list[list[int]], int]:
    """New numbers of each class, and how many there are: in the old order, those merged in the place of the first."""
    into = {label: min(group) for group in decisions.merge for label in group}
    parts: list[list[int]] = []
    count = 0
    for label in range(decisions.run.classes):
        first = into.get(label, label)
        own = 0 if first < label else decisions.split.get(str(label), 1)
        parts.append(list(range(count, count + own)) if own else parts[first])
        count += own
    return parts, count


def _rejected(decisions: Decisions, before: set[int], parts: list[list[int]]) -> set[int]:
    """New numbers of classes all of whose members are rejected; a split asks which of its images are of use."""
    now = before | set(decisions.reject)
    members: dict[int, list[int]] = {}
    for label, of_class in enumerate(parts):
        if len(of_class) == 1:
            members.setdefault(of_class[0], []).append(label)
    return {new for new, labels in members.items() if now.issuperset(labels)}


def _names(
    decisions: Decisions, names: dict[int, tuple[str, bool]], parts: list[list[int]]
) -> tuple[dict[int, str], set[int]]:
    """Name of each new class that has one, and those that are guesses. Of classes merged, the first that has one.

    A name that was given goes before any other. Parts bear the name of their class and their number in it.
    """
    given = {int(label): (name, False) for label, name in decisions.rename.items()}
    found: dict[int, tuple[str, bool]] = {}
    for known in (given, names):
        for label, of_class in enumerate(parts):
            for place, new in enumerate(of_class, 1):
                if label in known and new not in found:
                    name, guess = known[label]
                    found[new] = (name if len(of_class) == 1 else f"{name} ({place})", guess)
    return {new: name for new, (name, _) in found.items()}, {new for new, (_, guess) in found.items() if guess}
