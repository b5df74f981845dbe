"""A uniform sample of numbered rows that depends on nothing but the seed and their number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Keys drawn at a time: 2 MB, which stay in the cache.
_BLOCK_ROWS = 2**18
#: Standard deviations of room in the number of keys kept; fewer than `size` are then kept once in 10^15 seeds.
_ROOM = 8.0


def uniform_rows(n_rows: int, size: int, seed: int, block_rows: int = _BLOCK_ROWS) -> NDArray[np.int64]:
    """Choose `size` of `n_rows` rows, each set of this size being as likely as any other.

    Row i has the i-th output of a counter-based generator (Philox 4x64; Salmon et al., SC 2011) as its key, and the
    rows of the smallest keys are chosen. So the memory is that of the sample, however many rows there are, and a larger
    sample with the same seed holds the smaller one.

    Args:
        n_rows: rows there are.
        size: rows wanted.
        seed: not negative.
        block_rows: keys drawn at a time; the sample does not depend on it.

    Returns:
        int64[size], ascending.

    Raises:
        ValueError: size is not in [1, n_rows].
    """
    if not 1 <= size <= n_rows:
        raise ValueError(f"a sample of {size} rows cannot be drawn from {n_rows}; ask for 1 to {n_rows}")
    room = _ROOM
    rows, keys = _below(_cut(n_rows, size, room), n_rows, seed, block_rows)
    while len(rows) < size:  # the same keys again, more of them kept: which are the smallest does not change
        room = 4.0 * room + 1.0
        rows, keys = _below(_cut(n_rows, size, room), n_rows, seed, block_rows)
    return np.sort(rows[np.argsort(keys, kind="stable")[:size]])


def _cut(n_rows: int, size: int, room: float) -> np.uint64:
    """A key with `size` rows and some more below it; all rows if there are no more."""
    expected = size + room * np.sqrt(size) + room**2
    return np.uint64(2**64 - 1 if expected >= n_rows else int(expected / n_rows * 2.0**64))


def _below(cut: np.uint64, n_rows: int, seed: int, block_rows: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Rows whose keys are at most `cut`, ascending, and these keys; no other key outlives its block."""
    generator = np.random.Philox(seed)
    rows, keys = [], []
    for start in range(0, n_rows, block_rows):
        block = generator.random_raw(min(block_rows, n_rows - start))
        kept = np.flatnonzero(block <= cut)
        rows.append(kept.astype(np.int64) + start)
        keys.append(block[kept])
    return np.concatenate(rows), np.concatenate(keys)
