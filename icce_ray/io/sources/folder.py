"""Files below a folder or a bucket prefix: images themselves, or larger files that hold them."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Generator, Iterator

import pyarrow as pa

from icce_ray.io.decode import Reject
from icce_ray.io.locations import SourceError, retried
from icce_ray.io.sources.base import Source, tables_of
from icce_ray.io.sources.fetch import fetch, open_file
from icce_ray.io.sources.walk import Listed, one_ahead
from icce_ray.io.stores import StoredFile, info

IMAGE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)


class FolderSource(Source):
    """Every file with an image's ending. The path below the folder is both uri and key.

    A dangling link is listed, without a size, so that reading it becomes a reject with a reason.
    """

    endings = IMAGE_EXTENSIONS

    def listing(self) -> Iterator[pa.Table]:
        """One row a file."""
        return tables_of((path, path, size, None, None) for path, size in self.counted())

    def read_span(self, rows: pa.Table, max_bytes: int) -> Generator[bytes | Reject]:
        """The file's bytes, in one request."""
        for uri in rows["uri"].to_pylist():
            yield fetch(self.spec.location, uri, max_bytes=max_bytes)


class ContainerSource(Source):
    """Images inside larger files: one file, or every one below a folder or prefix.

    `container` in its listing is the path of the file below the source, "" where the source is that file.
    """

    #: What is missing where there are files and no images, for the error.
    lacks: str

    @abstractmethod
    def tables(self, container: str) -> Generator[pa.Table]:
        """The images of one file, in the tables of a `listing`; runs in a thread."""

    def listing(self) -> Iterator[pa.Table]:
        """Several files at a time; see `Source.listing`."""
        count = 0
        for table in one_ahead(self.tables(container) for container, _ in self.counted()):
            count += len(table)
            yield table
        if not count:
            raise self.nothing(self.lacks)

    def found(self, left_out: Counter[str]) -> Iterator[Listed]:
        """The containers; see `Source.found`."""
        try:
            kind, size = retried(lambda: info(self.spec.location), what=self.spec.location)
        except OSError as error:
            raise SourceError(f"the source {self.spec.location!r} cannot be read: {error}") from error
        self.is_file = kind == "file"
        return iter([("", size)]) if self.is_file else super().found(left_out)

    def first(self) -> str:
        """The container with the first name. Raises SourceError if there is none."""
        left_out: Counter[str] = Counter()
        for container, _ in self.found(left_out):
            return container
        self.left_out.update(left_out)
        raise self.nothing()

    def open(self, container: str, *, least: int = 0, most: int = 0) -> StoredFile:
        """`open_file` of a container. Raises Reject if it is missing, forbidden or no regular file."""
        return open_file(self.spec.location, container, least=least, most=most)

    def required(self, container: str, *, ahead: int) -> StoredFile:
        """`open` for a file without which there is no listing. Raises SourceError that names it."""
        try:
            return self.open(container, least=ahead, most=ahead)
        except Reject as reject:
            raise SourceError(
                f"{self.name_of(container)} in {self.spec.location!r} cannot be read: {reject}"
            ) from reject
