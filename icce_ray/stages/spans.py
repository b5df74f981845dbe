"""Which columns of an image's features belong to which of several feature spaces."""

from __future__ import annotations

from icce_ray.backbones import BackboneInfo
from icce_ray.io.sources import FeatureSource
from icce_ray.store.views import space_names


def of_source(source: FeatureSource) -> BackboneInfo:
    """What a source of features holds, as a backbone would say it."""
    spans, start = {}, 0
    for name, dim in zip(space_names(source.dims), source.dims.values(), strict=True):
        spans[f"{name}.features"] = (start, start + dim)
        start += dim
    layout = spans or {"features": (0, source.dim)}
    return BackboneInfo(name="", features="features", dim=source.dim, image_size=0, layout=layout, block_dim=0)


def spans_of(info: BackboneInfo) -> dict[str, tuple[int, int]]:
    """Columns of each space of `info`, whose layout has `space.part` in order; of a single space none."""
    spans: dict[str, tuple[int, int]] = {}
    for name, (start, stop) in info.layout.items():
        space, dot, _ = name.partition(".")
        if dot:
            spans[space] = (spans.get(space, (start, stop))[0], stop)
    return spans
