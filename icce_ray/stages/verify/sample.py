"""The sample that later stages learn from: the images that the seed draws, with their own features."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from icce_ray.core.sampling import uniform_rows
from icce_ray.settings import Settings
from icce_ray.stages.features import FeatureRows
from icce_ray.stages.sample import drawn
from icce_ray.stages.verify.reading import Unfit, columns
from icce_ray.store import Marker, Store
from icce_ray.store.artifacts import SAMPLE

#: Shards of which every row is compared with the features it was copied from; spread over all of them.
COMPARED = 32


def check_sample(
    store: Store, marker: Marker, settings: Settings, ids: np.ndarray, learned: list[np.ndarray]
) -> Iterator[str]:
    """Size, ids and rows of the sample; puts the ids that later stages must have into `learned` if all can be used."""
    size, seed = min(settings.heads.max_images, len(ids)), settings.heads.sample_seed
    expected = {"images": size, "of": len(ids), "seed": seed}
    for name, value in expected.items():
        if marker.summary.get(name) != value:
            yield f"sample: its marker says {name} = {marker.summary.get(name)}, settings and features give {value}"
    files = SAMPLE.files(marker.files)
    if size == len(ids):
        if files:
            yield f"sample: has {len(files)} files, but heads.max_images allows all {len(ids)} images"
        else:
            learned.append(ids)
        return
    found = [np.empty(0, np.int64)]
    try:
        for info in files:
            table = columns(store, "sample", info.path, image_id=pa.types.is_int64)
            found.append(table["image_id"].to_numpy())
    except Unfit as error:
        yield str(error)
        return
    sampled = np.concatenate(found)
    wrong = list(_wrong_ids(sampled, ids, size, seed))
    yield from wrong
    if wrong:
        return
    copied = list(_wrong_copies(store, [info.path for info in files], found[1:], ids))
    yield from copied
    if not copied:
        learned.append(sampled)


def _wrong_ids(sampled: np.ndarray, ids: np.ndarray, size: int, seed: int) -> Iterator[str]:
    """What is wrong with the ids of the sample; a fault that is told is not told again as another sample."""
    foreign, distinct = len(np.setdiff1d(sampled, ids)), len(np.unique(sampled))
    told = False
    if len(sampled) != size:
        yield f"sample: {len(sampled)} images in its files, not {size}"
        told = True
    if foreign:
        yield f"sample: {foreign} image_ids are of no accepted image"
        told = True
    if distinct != len(sampled):
        yield f"sample: {len(sampled) - distinct} image_ids are there twice"
    elif (np.diff(sampled) < 0).any():
        yield "sample: image_ids do not ascend over the files in the order of their names"
    elif not told and not np.array_equal(sampled, ids[uniform_rows(len(ids), size, seed)]):
        yield f"sample: image_ids are not those that seed {seed} draws from {len(ids)} images"


def _wrong_copies(store: Store, paths: list[str], found: list[np.ndarray], ids: np.ndarray) -> Iterator[str]:
    """Shards whose rows are not those of the features."""
    rows, step = FeatureRows.of(store), -(-len(paths) // COMPARED)
    for path, own in list(zip(paths, found, strict=True))[::step]:
        if not len(own):
            continue
        here, there = store.storage.read_table(path), drawn(rows, np.searchsorted(ids, own))
        if here.column_names != there.column_names:
            yield f"sample: {path} has columns {here.column_names}, the features have {there.column_names}"
            continue
        differ = [name for name in here.column_names if not here[name].equals(there[name])]
        if differ:
            yield f"sample: {path} has other {', '.join(differ)} than the features of its images"
