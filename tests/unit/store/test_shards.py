"""Some of many shards."""

import numpy as np

from icce_ray.io.storage import FileInfo
from icce_ray.store.shards import evenly


def test_some_shards_are_evenly_spread():
    files = [FileInfo(path=f"{part:04d}", bytes=1, sha256="", rows=1000) for part in range(500)]
    some = evenly(files, 0.04)
    assert (len(some), some[0], some[-1]) == (20, files[0], files[-1])
    gaps = np.diff([int(info.path) for info in some])
    assert gaps.max() - gaps.min() <= 1
    assert evenly(files, 1.5) == files
    assert evenly(files, 0.0) == files[:1]
    assert evenly([], 0.5) == []
