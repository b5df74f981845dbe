"""A perceptual hash: a few bytes of a picture that differ little between copies of it, and much between pictures.

pHash, the signs of the lowest frequencies of the cosine transform about their median, of 16 x 16 frequencies, as 8 x 8
do not tell one handwritten stroke from another.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Sides of the grey picture that is hashed, and of the lowest frequencies of which the hash consists.
HASH_PIXELS, _FREQUENCIES = 32, 16
HASH_BYTES = _FREQUENCIES**2 // 8
#: The cosine transform (DCT-II) as a matrix, so that who decodes pictures loads no library for it.
_COSINES = np.cos(
    np.pi / HASH_PIXELS * np.outer(np.arange(_FREQUENCIES), np.arange(HASH_PIXELS) + 0.5), dtype=np.float32
)


def picture_hash(grey: NDArray[np.number]) -> bytes:
    """The hash of a picture, HASH_BYTES long.

    Args:
        grey: [HASH_PIXELS, HASH_PIXELS], the whole picture, of any range.
    """
    lowest = (_COSINES @ grey.astype(np.float32) @ _COSINES.T).ravel()
    lowest[0] = np.sort(lowest[1:])[len(lowest) // 2 - 1]  # the mean brightness says nothing
    return np.packbits(lowest > lowest[0]).tobytes()


def differing(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Share of bits in which hashes uint8[n, bytes] of pairs differ: float32[n]."""
    bits = np.bitwise_count(one ^ other).sum(axis=1, dtype=np.int64)
    return (bits / (8 * one.shape[1])).astype(np.float32)
