"""Several feature spaces computed elsewhere: columns of the same Parquet files, or .npy files row by row alike.

`spec.column` names them, separated by commas. They are columns where the source is Parquet; of a folder of .npy files
they are the names of files, less their ending, or of folders of files that are called alike.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from icce_ray.io.locations import SourceError
from icce_ray.io.sources.base import SourceSpec, asked_columns
from icce_ray.io.sources.features import FeatureSource, NpyFeatures, ParquetFeatures, feature_files
from icce_ray.io.sources.walk import Listed
from icce_ray.io.stores import info


def feature_source(spec: SourceSpec) -> FeatureSource:
    """`feature_files`, of several spaces where `spec` names several. Raises SourceError where one is missing."""
    names = asked_columns(spec)
    if spec.parts or len(names) < 2:
        return FeatureSpaces(spec) if spec.parts else feature_files(spec)
    if "" in names or len(set(names)) < len(names):
        raise SourceError(f"list.column = {spec.column!r}: give each feature space once, such as hog,effnet")
    found = tuple(feature_files(part).spec for part in _parts(spec, names))
    return FeatureSpaces(replace(spec, parts=found, dim=sum(part.dim or 0 for part in found)))


def _parts(spec: SourceSpec, names: list[str]) -> list[SourceSpec]:
    """Each space as a source of its own."""
    base = spec.location.rstrip("/")
    places = [_npy_of(base, name) for name in names] if info(spec.location)[0] == "directory" else []
    if not any(places):
        return [replace(spec, column=name) for name in names]
    missing = [name for name, place in zip(names, places, strict=True) if not place]
    if missing:
        raise SourceError(
            f"{spec.location!r} has neither {missing[0]}.npy nor a folder {missing[0]}, which list.column = "
            f"{spec.column!r} names as a feature space"
        )
    return [replace(spec, column=None, location=place) for place in places if place]


def _npy_of(base: str, name: str) -> str | None:
    """The file or folder of a space, None if there is none."""
    wanted = ((f"{base}/{name}.npy", "file"), (f"{base}/{name}", "directory"))
    return next((place for place, kind in wanted if info(place)[0] == kind), None)


class FeatureSpaces(FeatureSource):
    """Sources of features of the same images, row by row: the features of a row are those of all, side by side."""

    endings = (".npy", ".parquet")

    def __init__(self, spec: SourceSpec) -> None:
        super().__init__(spec)
        self._parts: list[FeatureSource] = [
            NpyFeatures(part) if part.column is None else ParquetFeatures(part) for part in spec.parts
        ]
        npy = [part for part in self._parts if isinstance(part, NpyFeatures)]
        self._listed: list[FeatureSource] = [*(npy or self._parts[:1])]  # columns are of the same files
        self.left_out = self._listed[0].left_out

    @property
    def dims(self) -> dict[str, int]:
        """Numbers in a row of each space."""
        return {name: part.dim for name, part in zip(asked_columns(self.spec), self._parts, strict=True)}

    def listing(self) -> Iterator[pa.Table]:
        """That of the first. Raises SourceError where another has other files, or other numbers of rows."""
        first, *others = self._listed
        files = [container for container, _ in first.found(Counter())]
        for other in others:
            found = [container for container, _ in other.counted()]
            if found != files:
                differing = sorted({*found} ^ {*files})[0]
                raise SourceError(
                    f"{first.spec.location!r} and {other.spec.location!r} must have files of the same names, but "
                    f"{differing or 'a single file'} is in one of them only"
                )
            for container in files:
                self._check_rows(first, other, container)
        return first.listing()

    def _check_rows(self, first: FeatureSource, other: FeatureSource, container: str) -> None:
        here, there = (_rows(part, container) for part in (first, other))
        if here != there:
            raise SourceError(
                f"{first.name_of(container)} has {here:,} rows, {other.name_of(container)} has {there:,}; row i of "
                f"every feature space of {self.spec.location!r} must be of the same image"
            )

    def files(self) -> Iterator[Listed]:
        """Those of all."""
        for part in self._listed:
            yield from part.files()

    def digest(self) -> str:
        """Over the files of all."""
        return hashlib.sha256("".join(part.digest() for part in self._listed).encode()).hexdigest()

    def tables(self, container: str) -> Generator[pa.Table]:
        """Those of the first."""
        return self._listed[0].tables(container)

    def read_rows(self, container: str, positions: np.ndarray, result: np.ndarray) -> None:
        """Fill the columns of each space; an image that one of them lacks has NaN there."""
        edges = np.cumsum([0, *self.dims.values()])
        for part, start, stop in zip(self._parts, edges, edges[1:], strict=False):
            part.read_rows(container, positions, result[:, start:stop])


def _rows(part: FeatureSource, container: str) -> int:
    assert isinstance(part, NpyFeatures), "columns of one file have the same rows"
    with part.array(container) as array:
        return array.rows
