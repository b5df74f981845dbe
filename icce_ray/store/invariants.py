"""What must hold between artifacts: accepted and rejected images, sample and features, neighbours and cosines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from icce_ray.core.sampling import uniform_rows
from icce_ray.io.storage import FileInfo
from icce_ray.store.artifacts import FEATURES, NEIGHBORS, SAMPLE, Table
from icce_ray.store.contents import Contents, filled, numbers
from icce_ray.store.run import Store

#: Pairs whose similarity is computed again, spread over all shards; and how far it may be off: a search in half
#: precision has been seen to be off by 5e-4.
PAIRS, TOLERANCE = 1024, 2e-3
#: Shards of the sample of which every row is compared with the features it was copied from.
COMPARED = 32


def wrong_images(contents: Contents, accepted: Table, rejected: Table) -> Iterator[str]:
    """Every listed image is there once, as accepted or as rejected; then the accepted ones are known."""
    stage, inputs = accepted.stage, len(contents.manifest)
    (lines, good), (others, bad) = contents.table(accepted), contents.table(rejected)
    yield from lines + others
    if good is None or bad is None:
        return
    every = np.concatenate([good, bad])
    listed = np.unique(every[(every >= 0) & (every < inputs)])
    missing, foreign = inputs - len(listed), int(((every < 0) | (every >= inputs)).sum())
    twice = len(every) - len(listed) - foreign
    if missing or foreign or twice:
        yield (
            f"{stage}: {inputs} inputs, but {len(good)} ok and {len(bad)} rejected: {missing} missing, {twice} twice, "
            f"{foreign} that were never listed"
        )
    elif (np.diff(good) < 0).any():
        yield f"{stage}: image_ids do not ascend over the shards in the order of their numbers"
    else:
        contents.ids["accepted"] = good
    yield from contents.figure(stage, "ok", len(good))
    yield from contents.figure(stage, "rejected", len(bad))


def wrong_sample(contents: Contents) -> Iterator[str]:
    """The images that the seed draws, with their own features; then the ids that later stages have are known."""
    assert contents.settings is not None, "a prediction has no sample"
    ids, marker, heads = contents.ids["accepted"], contents.markers["sample"], contents.settings.heads
    size = min(heads.max_images, len(ids))
    for name, value in {"images": size, "of": len(ids), "seed": heads.sample_seed}.items():
        yield from contents.figure("sample", name, value)
    files = SAMPLE.files(marker.files)
    if size == len(ids):
        if files:
            yield f"sample: has {len(files)} files, but heads.max_images allows all {len(ids)} images"
        else:
            contents.ids["learned"] = ids
        return
    drawn = ids[uniform_rows(len(ids), size, heads.sample_seed)]
    lines, sampled = contents.table(SAMPLE)
    if sampled is not None and not lines and not np.array_equal(sampled, drawn):
        extra, missing = len(np.setdiff1d(sampled, drawn)), len(np.setdiff1d(drawn, sampled))
        lines.append(
            f"sample: image_ids are not those that seed {heads.sample_seed} draws from {len(ids)} images in order: "
            f"{missing} missing, {extra} extra, {len(sampled)} rows"
        )
    if not lines:
        lines += _wrong_copies(contents, files)
    yield from lines
    if not lines:
        contents.ids["learned"] = drawn


def _wrong_copies(contents: Contents, files: list[FileInfo]) -> Iterator[str]:
    """Some shards of the sample, spread over all, whose rows are not those of the features."""
    sources, ids = FEATURES.files(contents.markers["embed"].files), contents.ids["accepted"]
    for info in files[:: -(-len(files) // COMPARED)]:
        here = contents.store.storage.read_table(info.path).combine_chunks()
        there = _rows_at(contents.store, sources, np.searchsorted(ids, here["image_id"].to_numpy()))
        if here.column_names != there.column_names:
            yield f"sample: {info.path} has columns {here.column_names}, the features have {there.column_names}"
            continue
        differ = [name for name in here.column_names if not here[name].equals(there[name])]
        if differ:
            yield f"sample: {info.path} has other {', '.join(differ)} than the features of its images"


def wrong_neighbors(contents: Contents) -> Iterator[str]:
    """Each list on its own (paper 3.1), then similarities of some pairs, the same ones every time."""
    files = NEIGHBORS.files(contents.markers["neighbors"].files)
    share, random = -(-PAIRS // max(1, len(files))), np.random.default_rng(0)
    pairs: dict[str, np.ndarray] = {}

    def check(path: str, shard: pa.Table) -> Iterator[str]:
        own, (offsets, neighbor), (ends, similarity) = _lists(shard)
        if not np.array_equal(offsets, ends):
            yield "has lists of neighbours and of similarities that differ in length"
            return
        wrong = list(_wrong_lists(contents, own, offsets, neighbor, similarity))
        yield from wrong
        if not wrong and len(own):
            row = np.repeat(own, np.diff(offsets))
            chosen = random.choice(len(row), min(share, len(row)), replace=False)
            pairs[path] = np.stack([row[chosen], neighbor[chosen], similarity[chosen].astype(np.float64)])

    lines, _ = contents.table(NEIGHBORS, check)
    yield from lines
    if not lines and pairs:
        yield from _wrong_similarities(contents, pairs)


def _wrong_lists(
    contents: Contents, own: np.ndarray, offsets: np.ndarray, neighbor: np.ndarray, similarity: np.ndarray
) -> Iterator[str]:
    """What is wrong with the lists of one shard."""
    assert contents.settings is not None, "a prediction has no neighbours"
    ids, limits = contents.ids["learned"], contents.markers["neighbors"].summary
    counts = np.diff(offsets)
    row = np.repeat(np.arange(len(own)), counts)
    rank = np.arange(len(row)) - offsets[row]
    place = np.minimum(np.searchsorted(ids, neighbor), len(ids) - 1)
    if (ids[place] != neighbor).any():
        yield f"names images that are not in the {contents.of(NEIGHBORS)}"
    elif len(np.unique(row * len(ids) + place)) != len(row):
        yield "has a neighbour twice in one list"
    if (neighbor == own[row]).any():
        yield "has an image among its own neighbours"
    if (~(np.diff(similarity) <= 0) & (np.diff(row) == 0)).any() or not np.isfinite(similarity).all():
        yield "has lists that are not descending"
    if contents.settings.neighbors.mode != "ground_truth":
        fewest = min(limits["k_min"], len(ids) - 1)
        if (counts < fewest).any() or (counts > limits["k_max"]).any():
            yield f"has lists outside k_min {fewest} to k_max {limits['k_max']}"
        if (similarity[rank >= limits["k_min"]] < limits["threshold"]).any():
            yield f"has neighbours beyond k_min below the threshold {limits['threshold']}"


def _wrong_similarities(contents: Contents, pairs: dict[str, np.ndarray]) -> Iterator[str]:
    """Shards of which the sampled similarities are not the cosine of the two features."""
    table = SAMPLE if contents.markers["sample"].files else FEATURES
    wanted = np.unique(np.concatenate([sample[:2].ravel() for sample in pairs.values()]).astype(np.int64))
    places = np.searchsorted(contents.ids["learned"], wanted)
    rows = _rows_at(contents.store, table.files(contents.markers[table.stage].files), places, ["features"])
    unit = numbers(rows["features"]).astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    for path, sample in pairs.items():
        first, second = (np.searchsorted(wanted, side.astype(np.int64)) for side in sample[:2])
        cosine = (unit[first] * unit[second]).sum(axis=1)
        off = abs(cosine - sample[2])
        worst = int(off.argmax())
        if off[worst] > TOLERANCE:
            yield (
                f"neighbors: {path} has similarities that are not the cosine of the two features: of images "
                f"{int(sample[0, worst])} and {int(sample[1, worst])} it says {sample[2, worst]:.4f}, the features "
                f"give {cosine[worst]:.4f} ({int((off > TOLERANCE).sum())} of {len(off)} looked at)"
            )


def _rows_at(store: Store, files: Sequence[FileInfo], wanted: np.ndarray, columns: list[str] | None = None) -> pa.Table:
    """Some rows of all shards, numbered over them; `wanted` ascends, n > 0. One shard is held at a time."""
    ends = np.cumsum([info.rows or 0 for info in files])
    cuts = np.searchsorted(wanted, [0, *ends])
    pieces = [
        store.storage.read_table(info.path, columns).take(pa.array(wanted[low:high] - (end - (info.rows or 0))))
        for info, end, low, high in zip(files, ends, cuts[:-1], cuts[1:], strict=True)
        if low < high
    ]
    return pa.concat_tables(pieces).combine_chunks()


def _lists(shard: pa.Table) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """image_ids; offsets from 0 and all values of the lists of neighbours, and of similarities."""
    columns = (shard[name].combine_chunks() for name in ("neighbor_ids", "similarities"))
    pairs = [(column.offsets.to_numpy() - column.offsets[0].as_py(), filled(column.flatten())) for column in columns]
    return shard["image_id"].to_numpy(), pairs[0], pairs[1]
