"""Several backbones as one: each sees the same decoded picture in its own size, and has a feature space of its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from icce_ray.backbones import Backbone, BackboneInfo, Features, load_backbone


def describe_several(models: Mapping[str, BackboneInfo]) -> BackboneInfo:
    """What models give side by side, by the names of their feature spaces, which hold no dot: parts are `space.part`.

    Each of the models has its last block only.
    """
    layout: dict[str, tuple[int, int]] = {}
    first = 0
    for space, info in models.items():
        layout |= {f"{space}.{part}": (first + start, first + stop) for part, (start, stop) in info.layout.items()}
        first += info.dim
    return BackboneInfo(
        name=" + ".join(info.name for info in models.values()),
        features=" + ".join(info.features for info in models.values()),
        dim=first,
        image_size=0,
        layout=layout,
        block_dim=0,
        parts=tuple(models.values()),
    )


def load(info: BackboneInfo, *, device: str, dtype: str) -> Several:
    """See `load_backbone`."""
    return Several(info, [load_backbone(part, device=device, dtype=dtype) for part in info.parts])


class Several:
    """`Backbone` of several; its pixels are uint8 [B, info.input_bytes], the squares of one model after the other."""

    def __init__(self, info: BackboneInfo, backbones: list[Backbone]) -> None:
        self.info, self._backbones = info, backbones

    def embed(self, pixels: np.ndarray) -> Features:
        """main float32 [B, dim], the features of the models in their order; no blocks."""
        if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != self.info.input_bytes:
            raise ValueError(
                f"pixels are {pixels.dtype} {list(pixels.shape)}; these backbones take uint8 [B, "
                f"{self.info.input_bytes}]"
            )
        ends = np.cumsum([part.input_bytes for part in self.info.parts])
        squares = (
            columns.reshape(len(pixels), part.image_size, part.image_size, 3)
            for part, columns in zip(self.info.parts, np.split(pixels, ends[:-1], axis=1), strict=True)
        )
        found = [one.embed(square).main for one, square in zip(self._backbones, squares, strict=True)]
        return Features(np.concatenate(found, axis=1))
