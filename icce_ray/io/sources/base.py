"""What a source is: a listing of images in a fixed order, and the bytes of any of them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import pyarrow as pa

from icce_ray.io.decode import Reject

#: Columns of a listing. `uri` says where the image lies, in the source's own terms and each once where the source is
#: well made (`a/b.jpg`, `00001.tar/0001.jpg`, `train.parquet/17`); `key` is what the source calls it (path, tar member,
#: row key); `size` its bytes, null where only reading tells. An image inside a larger file lies in `container` (a path
#: below the source) at `position`: a byte offset in a tar, a row number elsewhere.
LISTED = pa.schema(
    [
        ("uri", pa.string()),
        ("key", pa.string()),
        ("size", pa.int64()),
        ("container", pa.string()),
        ("position", pa.int64()),
    ]
)
#: Rows of one table of a listing, at most.
TABLE_ROWS = 4096

Row = tuple[str, str, int | None, str | None, int | None]


class SourceError(ValueError):
    """A source that is missing, unreadable, or without images."""


@dataclass(frozen=True)
class SourceSpec:
    """Which source, and how to read it.

    Attributes:
        location: path or URI of a folder or prefix, or of one file.
        format: one of `sources.FORMATS`; `auto` looks at what lies there.
        column: of Parquet files, the column of images, URIs or features; None takes the one that can only be meant.
        key_column: of Parquet files, the column that names each image; None takes a usual name, else the row number.
        dim: of features, the numbers in a row; None until somebody has looked.
    """

    location: str
    format: str = "auto"
    column: str | None = None
    key_column: str | None = None
    dim: int | None = None


class Source(ABC):
    """Images of one kind of source. It pickles as its `spec`, so that a worker has it without another look.

    Attributes:
        spec: with the format and the columns that were found, so that opening it again looks at nothing.
        left_out: what the listing saw and left out, by kind; complete when the listing has ended.
    """

    def __init__(self, spec: SourceSpec) -> None:
        self.spec = spec
        self.left_out: Counter[str] = Counter()
        self._digest = hashlib.sha256()

    def __reduce__(self) -> tuple[type[Source], tuple[SourceSpec]]:
        return type(self), (self.spec,)

    @abstractmethod
    def files(self) -> Iterator[tuple[str, int | None]]:
        """(path below the source, bytes) of the files that make it up, sorted by the bytes of their UTF-8 paths.

        Every file goes through `seen`. Raises SourceError at the end if there was none.
        """

    @abstractmethod
    def listing(self) -> Iterator[pa.Table]:
        """All images as tables of `LISTED`, in a fixed order, at most `TABLE_ROWS` rows each.

        Raises SourceError for a source that cannot be listed or holds no image.
        """

    def read(self, rows: pa.Table, *, max_bytes: int) -> Iterator[bytes | Reject]:
        """The bytes of these images of the listing, in order, each as it is asked for.

        An image that is missing, forbidden, empty of bytes or larger than `max_bytes` is a Reject in its place. Raises
        UnavailableError where the store itself does not answer: then nothing can be said of the image.
        """
        return chain.from_iterable(self.read_spans(rows, max_bytes=max_bytes))

    def read_spans(self, rows: pa.Table, *, max_bytes: int) -> Iterator[Generator[bytes | Reject]]:
        """`read` in parts that may be read at the same time; nothing is read before it is asked for."""
        for begin, end in self.spans(rows):
            yield self.read_span(rows.slice(begin, end - begin), max_bytes)

    def spans(self, rows: pa.Table) -> list[tuple[int, int]]:
        """Ranges of `rows` that are best read together."""
        return [(row, row + 1) for row in range(len(rows))]

    @abstractmethod
    def read_span(self, rows: pa.Table, max_bytes: int) -> Generator[bytes | Reject]:
        """`read` for the rows of one of `spans`."""

    def seen(self, path: str, size: int | None) -> None:
        """Count a file into the digest."""
        self._digest.update(f"{path}\0{-1 if size is None else size}\0".encode())

    def digest(self) -> str:
        """Digest of names and sizes of all files seen: two listings of an unchanged source agree."""
        return self._digest.hexdigest()


class FeatureSource(Source):
    """Features computed elsewhere, one row per image. Its images have no bytes."""

    @property
    def dim(self) -> int:
        """Numbers in a row."""
        return self.spec.dim or 0

    @abstractmethod
    def features(self, rows: pa.Table) -> np.ndarray:
        """Features of these rows of the listing, float32 [rows, dim]; a row that is null there is NaN here."""

    def read_span(self, rows: pa.Table, max_bytes: int) -> Generator[bytes | Reject]:
        """Raises TypeError: there are no images, only features."""
        raise TypeError(f"{self.spec.location!r} holds features, not images; use features()")


def tables_of(rows: Iterable[Row]) -> Iterator[pa.Table]:
    """Rows of a listing as tables of `LISTED`."""
    coming = iter(rows)
    while some := list(islice(coming, TABLE_ROWS)):
        columns = zip(*some, strict=True)
        yield pa.table([pa.array(column, field.type) for column, field in zip(columns, LISTED, strict=True)], LISTED)
