"""A uniform sample of numbered rows that depends on nothing but the seed and their number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK_ROWS = 2**24
#: Standard deviations of room in the number of keys kept on the first pass.
_ROOM = 8.0


def uniform_rows(n_rows: int, size: int, seed: int, block_rows: int = _BLOCK_ROWS) -> NDArray[np.int64]:
    """Choose `size` of `n_rows` rows, each set of this size being as likely as any other.

    Row i has the i-th output of a counter-based generator (Philox 4x64; Salmon et al., SC 2011) as its key, and the
    rows of the smallest keys are chosen. So the memory is that of the sample, however many rows there are, and a larger
    sample with the same seed holds the smaller one.

    Returns:
        int64[size], ascending.

    Raises:
        ValueError: size is not in [1, n_rows].
    """
    if not 1 <= size <= n_rows:
        raise ValueError(f"a sample of {size} rows cannot be drawn from {n_rows}; ask for 1 to {n_rows}")
    # The size-th smallest key is about here; a few more are kept, and the rest is never held.
    expected = min(n_rows, size + _ROOM * np.sqrt(size) + _ROOM**2)
    cut = np.uint64(min(expected / n_rows * 2.0**64, 2.0**64 - 2**12))
    generator = np.random.Philox(seed)
    rows, keys = [], []
    for start in range(0, n_rows, block_rows):
        block = generator.random_raw(min(block_rows, n_rows - start))
        kept = np.flatnonzero(block <= cut)
        rows.append(kept + start)
        keys.append(block[kept])
    found, key = np.concatenate(rows), np.concatenate(keys)
    if len(found) < size:  # once in 10^15 seeds: draw again and keep every key
        found, key = np.arange(n_rows), np.random.Philox(seed).random_raw(n_rows)
    return np.sort(found[np.argsort(key, kind="stable")[:size]]).astype(np.int64)
