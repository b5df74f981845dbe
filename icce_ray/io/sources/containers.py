"""Images inside larger files: finding those files, reading parts of them, listing several at a time."""

from __future__ import annotations

import io
from abc import abstractmethod
from collections import Counter
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from icce_ray.io.decode import Reject
from icce_ray.io.locations import retried
from icce_ray.io.sources.base import Source, SourceError
from icce_ray.io.sources.fetch import open_file
from icce_ray.io.sources.walk import Found, one_ahead, select, walk
from icce_ray.io.stores import RemoteFile, info, is_local, resolve

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: A jump forward up to this far goes on reading ahead; a longer one starts again with a small read. About what a store
#: sends in the time that it takes to answer.
_NEAR = 1 << 20


class ContainerSource(Source):
    """A file of one of `endings`, or every such file below a folder or prefix.

    `container` in its listing is the path of the file below the source, "" where the source is that file.
    """

    endings: tuple[str, ...]
    #: What is missing where there are files and no images, for the error.
    lacks: str
    _is_file = False

    @abstractmethod
    def tables(self, container: str) -> Generator[pa.Table]:
        """The images of one file, in the tables of a `listing`; runs in a thread."""

    def listing(self) -> Iterator[pa.Table]:
        """Several files at a time; see `Source.listing`."""
        count = 0
        for table in one_ahead(self.tables(container) for container, _ in self.containers()):
            count += len(table)
            yield table
        if not count:
            raise self.nothing(self.lacks)

    def files(self) -> Iterator[Found]:
        """The containers; see `Source.files`. A source that is one file is listed under its own name."""
        return ((self.name_of(container), size) for container, size in self.containers())

    def containers(self) -> Iterator[Found]:
        """(container, bytes), each counted into the digest. Raises SourceError at the end if there was none."""
        count = 0
        for container, size in self.found(self.left_out):
            self.seen(self.name_of(container), size)
            count += 1
            yield container, size
        if not count:
            raise self.nothing("no such file")

    def first(self) -> str:
        """The container with the first name. Raises SourceError if there is none."""
        left_out: Counter[str] = Counter()
        found = next(self.found(left_out), None)
        if found is None:
            self.left_out.update(left_out)
            raise self.nothing("no such file")
        return found[0]

    def found(self, left_out: Counter[str]) -> Iterator[Found]:
        """(container, bytes) in the order of their names, without a trace in the digest."""
        try:
            kind, size = retried(lambda: info(self.spec.location), what=self.spec.location)
        except OSError as error:
            raise SourceError(f"the source {self.spec.location!r} cannot be read: {error}") from error
        self._is_file = kind == "file"
        if self._is_file:
            return iter([("", size)])
        return select(walk(self.spec.location, left_out), self.endings, left_out)

    def name_of(self, container: str) -> str:
        """What a container is called in uris and messages."""
        return container or resolve(self.spec.location)[1].rsplit("/", 1)[-1]

    def open(self, container: str, *, least: int = 0, most: int = 0) -> StoreFile:
        """The container's bytes; see `StoreFile` for `least` and `most`, which do not count on local disk.

        Raises Reject if it is missing, forbidden or no regular file.
        """
        file = open_file(self.spec.location, container)
        if isinstance(file, Reject):
            raise file
        if is_local(resolve(self.spec.location)[0]):
            return StoreFile(file, least=min(least, 1 << 14), most=min(most, 1 << 14), whole=False)
        return StoreFile(file, least=least, most=most, whole=True)

    def required(self, container: str, *, least: int, most: int) -> StoreFile:
        """`open` for a file without which there is no listing. Raises SourceError that names it."""
        try:
            return self.open(container, least=least, most=most)
        except Reject as reject:
            raise SourceError(
                f"{self.name_of(container)} in {self.spec.location!r} cannot be read: {reject}"
            ) from reject

    def nothing(self, what: str) -> SourceError:
        """The error of a source without images."""
        ignored = ", ".join(f"{count:,} {kind}" for kind, count in self.left_out.items()) or "nothing else"
        endings = ", ".join("*" + ending for ending in self.endings)
        looked_for = "" if self._is_file else f"; file names looked for: {endings}"
        return SourceError(f"0 images in {self.spec.location!r}: {what} ({ignored}){looked_for}")


class StoreFile(io.RawIOBase):
    """A file of a store for readers that want `read`, `seek` and `tell`. Requests that fail and may pass are repeated.

    Reads ahead at least `least` bytes; while reads follow each other closely, twice as many each time up to `most`. So
    members of an archive that are small come with few large requests, and large ones are jumped over. `whole` says that
    fewer bytes than the file has are a fault of the line, to be asked for again.

    Attributes:
        size: bytes of the file.
    """

    def __init__(self, file: pa.NativeFile | RemoteFile, *, least: int = 0, most: int = 0, whole: bool = False) -> None:
        super().__init__()
        self.size = retried(file.size)
        self._file = file
        self._least, self._most, self._whole = least, most, whole
        self._ahead = least
        self._position = 0
        self._start = 0
        self._block = b""

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position of the next read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """As of any file; asks the store nothing."""
        self._position = offset + (0, self._position, self.size)[whence]
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        """`size` bytes, fewer at the end of the file."""
        left = max(0, self.size - self._position)
        size = left if size is None or size < 0 else min(size, left)
        offset = self._position - self._start
        if size and not 0 <= offset <= len(self._block) - size:
            end = self._start + len(self._block)
            near = offset >= 0 and self._position - end <= _NEAR
            self._ahead = min(2 * self._ahead, self._most) if near else self._least
            self._block = self.read_at(self._position, max(size, self._ahead))
            self._start, offset = self._position, 0
        data = self._block[offset : offset + size]
        self._position += len(data)
        return data

    def readinto(self, buffer: Buffer, /) -> int:
        """As of any file."""
        view = memoryview(buffer)
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def read_at(self, position: int, size: int) -> bytes:
        """`size` bytes from `position` on, fewer at the end of the file; the next `read` is not moved by it."""
        size = min(size, self.size - position)
        return retried(lambda: self._exactly(position, size)) if size > 0 else b""

    def _exactly(self, position: int, size: int) -> bytes:
        data = self._file.read_at(size, position)
        if self._whole and len(data) != size:
            raise OSError(f"unexpected end of a read at {position}: {len(data)} of {size} bytes came")
        return data

    def close(self) -> None:
        """Close the file underneath too."""
        if not self.closed:
            self._file.close()
            self._block = b""
        super().close()
