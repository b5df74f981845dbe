"""Stage `sample`: of more images than `heads.max_images`, the uniform sample that everything is learned from.

The classifier then labels all images (stage `predict`), as the paper does with images it has not seen (3.3), so that
a bucket of a billion costs one embedding pass plus a constant. The sample's features are copied into files of their
own: what reads them reads nothing else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import ray

from icce_ray.adapters.progress import StageProgress
from icce_ray.adapters.storage import FileInfo
from icce_ray.core.sampling import uniform_rows
from icce_ray.settings import Settings
from icce_ray.stages.cluster import Resources, run_files
from icce_ray.stages.rows import FeatureRows
from icce_ray.stages.shards import described
from icce_ray.store import ARTIFACTS, Store

ARTIFACT = ARTIFACTS["sample"]
#: Images a shard of the sample: whatever the shards of the features are, the sample's are the same.
ROWS_PER_SHARD = 8192


def run(
    settings: Settings, store: Store, resources: Resources, progress: StageProgress
) -> tuple[list[FileInfo], dict[str, Any]]:
    """Draw the sample and copy its rows, one task a shard; nothing where all images may be used."""
    rows = FeatureRows.of(store)
    size = min(settings.heads.max_images, len(rows))
    summary = {"images": size, "of": len(rows)}
    if size == len(rows):
        return [], summary
    shards = -(-size // ROWS_PER_SHARD)
    done = store.parts(ARTIFACT)
    missing = [index for index in range(shards) if index not in done]
    finished = sum(min(ROWS_PER_SHARD, size - index * ROWS_PER_SHARD) for index in done)
    progress.begin(size, done=finished, unit="images")
    chosen = _choose.remote(len(rows), size, settings.heads.sample_seed)
    copy: Any = _copy
    found = run_files(
        lambda index: copy.remote(rows, chosen, index),
        missing,
        limit=2 * max(1, resources.cores * resources.nodes),
        finished=finished,
        progress=progress,
    )
    progress.say(
        f"{size:,} of {len(rows):,} images drawn (seed {settings.heads.sample_seed}); the classifier will label all"
    )
    return found + described(store, [ARTIFACT], {info.path for info in found}), summary


@ray.remote(num_cpus=0.5)
def _choose(n_rows: int, size: int, seed: int) -> np.ndarray:
    return uniform_rows(n_rows, size, seed)


@ray.remote(num_cpus=0.5)
def _copy(rows: FeatureRows, chosen: np.ndarray, index: int) -> FileInfo:
    """Shard `index` of the sample, from one file of the features after another."""
    wanted = chosen[index * ROWS_PER_SHARD : (index + 1) * ROWS_PER_SHARD]
    storage = Store(rows.root).storage
    blocks = rows.blocks()
    edges = np.searchsorted(wanted, [start for start, _ in blocks] + [len(rows)])
    pieces = []
    for info, (start, _), low, high in zip(rows.files, blocks, edges, edges[1:], strict=False):
        if low < high:
            pieces.append(storage.read_table(info.path).take(wanted[low:high] - start))
    return storage.write_table(Store.part(ARTIFACT, index), pa.concat_tables(pieces).combine_chunks())
