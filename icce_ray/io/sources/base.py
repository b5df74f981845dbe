"""What a source is: a listing of images in a fixed order, and the bytes of any of them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa

from icce_ray.io.decode import Reject
from icce_ray.io.locations import SourceError
from icce_ray.io.sources.walk import Listed, select, walk
from icce_ray.io.stores import resolve

#: Columns of a listing. `uri` says where the image lies, in the source's own terms and each once where the source is
#: well made (`a/b.jpg`, `00001.tar/0001.jpg`, `train.parquet/17`); `key` is what the source calls it (path, tar member,
#: row key); `size` its bytes, null where only reading tells. An image inside a larger file lies in `container` (a path
#: below the source, of Lance a version) at `position`: a byte offset in a tar, a row number elsewhere.
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


@dataclass(frozen=True)
class SourceSpec:
    """Which source, and how to read it.

    Attributes:
        location: path or URI of a folder or prefix, or of one file.
        format: one of `sources.FORMATS`; `auto` looks at what lies there.
        column: of tables, the column of images, URIs or features; None takes the one that can only be meant.
        key_column: of tables, the column that names each image; None takes a usual name, else the row number.
        dim: of features, the numbers in a row; None until somebody has looked.
        parts: of several feature spaces, each as a source of its own; none until somebody has looked.
    """

    location: str
    format: str = "auto"
    column: str | None = None
    key_column: str | None = None
    dim: int | None = None
    parts: tuple[SourceSpec, ...] = ()


def asked_columns(spec: SourceSpec) -> list[str]:
    """The columns that `spec.column` names: none, one, or feature spaces separated by commas."""
    return [] if spec.column is None else [name.strip() for name in spec.column.split(",")]


class Source(ABC):
    """Images of one kind of source. It pickles as its `spec`, so that a worker has it without another look.

    Attributes:
        spec: with the format and the columns that were found, so that opening it again looks at nothing.
        left_out: what the listing saw and left out, by kind; complete when the listing has ended.
        endings: of the names of the files that make it up.
        is_file: whether it was seen to be one file, of any name.
    """

    endings: tuple[str, ...]
    is_file = False

    def __init__(self, spec: SourceSpec) -> None:
        self.spec = spec
        self.left_out: Counter[str] = Counter()
        self._digest = hashlib.sha256()

    def __reduce__(self) -> tuple[type[Source], tuple[SourceSpec]]:
        return type(self), (self.spec,)

    def found(self, left_out: Counter[str]) -> Iterator[Listed]:
        """(path below the source, bytes) of the files that make it up, sorted by the bytes of their UTF-8 paths."""
        return select(walk(self.spec.location, left_out), self.endings, left_out)

    def counted(self) -> Iterator[Listed]:
        """`found`, each file counted into the digest. Raises SourceError at the end if there was none."""
        count = 0
        for path, size in self.found(self.left_out):
            self.seen(self.name_of(path), size)
            count += 1
            yield path, size
        if not count:
            raise self.nothing()

    def files(self) -> Iterator[Listed]:
        """`counted`; a source that is one file is listed under its own name."""
        return ((self.name_of(path), size) for path, size in self.counted())

    def name_of(self, path: str) -> str:
        """What a file is called in uris and messages."""
        return path or resolve(self.spec.location)[1].rsplit("/", 1)[-1]

    def nothing(self, lacks: str = "") -> SourceError:
        """The error of a source without files, or of one whose files lack images, as `lacks` says."""
        ignored = ", ".join(f"{count:,} {kind}" for kind, count in self.left_out.items())
        ignored = ignored or ("nothing else" if lacks else "nothing at all")
        endings = ", ".join("*" + ending for ending in self.endings)
        looked_for = "" if self.is_file else f"; file names looked for: {endings}"
        return SourceError(f"0 images in {self.spec.location!r}: {lacks or 'no such file'} ({ignored}){looked_for}")

    @abstractmethod
    def listing(self) -> Iterator[pa.Table]:
        """All images as tables of `LISTED`, in a fixed order, at most `TABLE_ROWS` rows each.

        Raises SourceError for a source that cannot be listed or holds no image.
        """

    def read_spans(self, rows: pa.Table, *, max_bytes: int) -> Iterator[Generator[bytes | Reject]]:
        """The bytes of these images of the listing, in order, in parts that may be read at the same time.

        Nothing is read before it is asked for. An image that is missing, forbidden, empty of bytes or larger than
        `max_bytes` is a Reject in its place. Raises UnavailableError where the store itself does not answer: then
        nothing can be said of the image.
        """
        for begin, end in self.spans(rows):
            yield self.read_span(rows.slice(begin, end - begin), max_bytes)

    def spans(self, rows: pa.Table) -> list[tuple[int, int]]:
        """Ranges of `rows` that are best read together."""
        starts = [row for row, begins in enumerate(self.begins(rows)) if begins]
        return list(zip(starts, [*starts[1:], len(rows)], strict=False))

    def begins(self, rows: pa.Table) -> Iterable[bool]:
        """Whether each row begins a span; by default each is read alone."""
        return [True] * len(rows)

    @abstractmethod
    def read_span(self, rows: pa.Table, max_bytes: int) -> Generator[bytes | Reject]:
        """`read_spans` for the rows of one of `spans`."""

    def seen(self, path: str, size: int | None) -> None:
        """Count a file into the digest."""
        self._digest.update(f"{path}\0{-1 if size is None else size}\0".encode())

    def digest(self) -> str:
        """Digest of names and sizes of all files seen: two listings of an unchanged source agree."""
        return self._digest.hexdigest()


def tables_of(rows: Iterable[Row]) -> Iterator[pa.Table]:
    """Rows of a listing as tables of `LISTED`."""
    coming = iter(rows)
    while some := list(islice(coming, TABLE_ROWS)):
        columns = zip(*some, strict=True)
        yield pa.table([pa.array(column, field.type) for column, field in zip(columns, LISTED, strict=True)], LISTED)
