"""Losses and labels of heads as tables; of several feature spaces those of each, then of all heads together.

Heads are numbered through all spaces: first those of the first space, in the order of `spaces_of`. Until every space is
trained its losses and labels lie in a folder of its own, so that a killed run goes on with the space where it was.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import ray

from icce_ray.core.spaces import heads_of
from icce_ray.io.storage import FileInfo
from icce_ray.stages.cluster import completed_groups
from icce_ray.stages.features import FeatureRows, list_column, matrix
from icce_ray.store import Store
from icce_ray.store.artifacts import HEAD_LABELS, HEAD_LOSSES, HEAD_WEIGHTS
from icce_ray.store.views import JOINED, spaces_of


def losses_table(history: np.ndarray) -> pa.Table:
    """Losses [epochs, 2, heads] as a table, one row an epoch and head."""
    epochs, _, heads = history.shape
    return pa.table(
        {
            "epoch": np.repeat(np.arange(epochs), heads),
            "head": np.tile(np.arange(heads), epochs),
            "temi": history[:, 0].reshape(-1),
            "cross_entropy": history[:, 1].reshape(-1),
        }
    )


def losses_of(table: pa.Table) -> np.ndarray:
    """The reverse: float32[epochs, 2, heads]."""
    epochs = int(table["epoch"].to_numpy().max()) + 1
    return np.stack([table[name].to_numpy().reshape(epochs, -1) for name in ("temi", "cross_entropy")], axis=1)


def shares(store: Store, heads: int) -> dict[str, int]:
    """How many of the heads see each feature space that has any."""
    spaces = spaces_of(store.require("embed").summary)
    if JOINED not in spaces:
        return {"": heads}
    by_space = store.require("neighbors").summary["by_space"]
    counts = heads_of(heads, [by_space[space]["weight"] for space in spaces if space != JOINED])
    return {space: count for space, count in zip(spaces, counts, strict=True) if count}


def spans(counts: Mapping[str, int]) -> dict[str, list[int]]:
    """(first head, one past the last) of each space."""
    ends = itertools.accumulate(counts.values())
    return {space: [end - count, end] for (space, count), end in zip(counts.items(), ends, strict=True)}


def is_trained(store: Store, rows: FeatureRows) -> bool:
    """Whether the heads of a space have labelled all images: the last that is written of it."""
    blocks = len(rows.blocks())
    return len(store.parts(HEAD_LABELS.of(rows.space), of=blocks)) == blocks


def gather(store: Store, rows: FeatureRows, spaces: Sequence[str]) -> list[FileInfo]:
    """Write the losses and labels of the heads of all spaces as those of one stage, then delete those of each.

    Returns the files of the losses and of the weights of each space.
    """
    storage = store.storage
    histories = [losses_of(storage.read_table(HEAD_LOSSES.of(space).path)) for space in spaces]
    losses = HEAD_LOSSES.write(storage, losses_table(np.concatenate(histories, axis=2)))
    missing = sorted(set(range(len(rows.blocks()))) - store.parts(HEAD_LABELS, of=len(rows.blocks())))
    for _ in completed_groups(lambda group: _join.remote(store.root, rows, spaces, group), missing, cpus=0.5):
        pass
    for space in spaces:
        storage.delete_tree(HEAD_LABELS.of(space).path)
        storage.delete(HEAD_LOSSES.of(space).path)
    return [losses, *(storage.describe(HEAD_WEIGHTS.of(space).path) for space in spaces)]


@ray.remote(num_cpus=0.5)
def _join(root: str, rows: FeatureRows, spaces: Sequence[str], parts: Sequence[int]) -> None:
    """Labels of all heads of some shards, those of one space beside the other's."""
    storage, blocks = Store(root).storage, rows.blocks()
    for part in parts:
        each = [storage.read_table(HEAD_LABELS.of(space).part(part), ["labels"])["labels"] for space in spaces]
        labels = np.concatenate([matrix(one) for one in each], axis=1)
        table = rows.table(*blocks[part], ["image_id", "key"]).append_column("labels", list_column(labels))
        HEAD_LABELS.write(storage, table, part)
