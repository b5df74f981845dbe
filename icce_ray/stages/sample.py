"""Stage `sample`: of more images than `heads.max_images`, the uniform sample that everything is learned from.

The classifier then labels all images (stage `predict`), as the paper does with images it has not seen (3.3), so that
a bucket of a billion costs one embedding pass plus a constant. The sample's features are copied into files of their
own: what reads them reads nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import ray

from icce_ray.core.sampling import uniform_rows
from icce_ray.io.storage import FileInfo
from icce_ray.progress import Progress
from icce_ray.settings import Settings
from icce_ray.stages import StageResult
from icce_ray.stages.cluster import Resources, completed, room_for, write_shards
from icce_ray.stages.features import FeatureRows
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import NEIGHBORS, SAMPLE

#: Images per shard of the sample: whatever the shards of the features are, the sample's are the same.
ROWS_PER_SHARD = 8192


def run(settings: Settings, store: Store, resources: Resources, progress: Progress) -> StageResult:
    """Draw the sample and copy its rows, one task a shard; nothing where all images may be used.

    Raises RunError if neighbours of all images are there already, from a version that knew no sample.
    """
    rows = FeatureRows.of(store)
    size, seed = min(settings.heads.max_images, len(rows)), settings.heads.sample_seed
    summary = {"images": size, "of": len(rows), "seed": seed}
    if size == len(rows):
        return [], summary
    if store.parts(NEIGHBORS):
        raise RunError(
            f"{store.root} has neighbours of all its {len(rows):,} images, from a version of icce-ray without samples, "
            f"but heads.max_images = {size:,}; give --redo sample, which repeats the stages from there on"
        )
    shards = [min(ROWS_PER_SHARD, size - start) for start in range(0, size, ROWS_PER_SHARD)]

    def write(missing: list[int]) -> Iterator[list[FileInfo]]:
        if missing:
            chosen, everything = _choose.remote(len(rows), size, seed), ray.put(rows)
            yield from completed((_copy.remote(everything, chosen, index) for index in missing), room_for(0.5))

    files = write_shards(store, SAMPLE, shards, write, progress)
    progress.log(f"{size:,} of {len(rows):,} images drawn (seed {seed}); the classifier will label all")
    return files, summary


@ray.remote(num_cpus=0.5)
def _choose(n_rows: int, size: int, seed: int) -> np.ndarray:
    return uniform_rows(n_rows, size, seed)


@ray.remote(num_cpus=0.5)
def _copy(rows: FeatureRows, chosen: np.ndarray, index: int) -> list[FileInfo]:
    """Shard `index` of the sample, with all columns of the features."""
    wanted = chosen[index * ROWS_PER_SHARD : (index + 1) * ROWS_PER_SHARD]
    return [SAMPLE.write(Store(rows.root).storage, rows.take(wanted), index)]
