"""Images in tar files, as WebDataset and img2dataset write them."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Generator, Iterator
from itertools import repeat
from threading import Lock

import pyarrow as pa
import pyarrow.compute as pc

from icce_ray.io.decode import Reject
from icce_ray.io.filenames import to_text
from icce_ray.io.locations import StorageError
from icce_ray.io.sources.base import Row, SourceSpec, tables_of
from icce_ray.io.sources.fetch import too_large
from icce_ray.io.sources.folder import IMAGE_EXTENSIONS, ContainerSource
from icce_ray.io.stores import Bounded, HeaderError, StoredFile, parsing

#: Members of one tar that lie at most this far apart are read together, up to this many bytes.
GAP, SPAN = 1 << 20, 16 << 20
# Read-ahead of the listing. A member of 100 kB is not worth a request of its own.
_LEAST, _MOST = 1 << 16, 4 << 20
_BLOCK = tarfile.BLOCKSIZE
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
# Where a member may end.
_MOST_END = 1 << 62


class _DamagedError(Exception):
    """No tar header where one should be; `position` is the byte where the listing ends."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


class TarSource(ContainerSource):
    """Every member of every tar with an image's ending, tar after tar by name, members in the order of the file.

    `uri` is the tar's path and the member's name, `key` that name alone. A member that appears twice is listed twice.
    Left out and counted are other members, hidden ones, links and sparse ones. The members before the place where a tar
    is cut or damaged are listed, and then the tar itself, as a row without `size` whose `read` says what is wrong. Tars
    put one behind the other (`cat a.tar b.tar`) are read as one.
    """

    endings = (".tar",)
    lacks = "no member with an image's ending"

    def __init__(self, spec: SourceSpec) -> None:
        """Looks at nothing."""
        super().__init__(spec)
        self._counting = Lock()

    def listing(self) -> Iterator[pa.Table]:
        """One row a member; reads headers only, of several tars at a time."""
        images, damaged = 0, None
        for table in super().listing():
            images += len(table) - table["size"].null_count
            if damaged is None and table["size"].null_count:
                damaged = table.filter(pc.field("size").is_null()).slice(0, 1)
            yield table
        if not images and damaged is not None:
            raise self.nothing(f"{damaged['uri'][0]}: {next(self.read_span(damaged, 0))}")

    def tables(self, container: str) -> Generator[pa.Table]:
        """The members of one tar, and the tar itself where it is damaged."""
        left_out: Counter[str] = Counter()
        yield from tables_of(self._rows(container, left_out))
        with self._counting:
            self.left_out.update(left_out)

    def _rows(self, container: str, left_out: Counter[str]) -> Iterator[Row]:
        name = self.name_of(container)
        try:
            with self.open(container, least=_LEAST, most=_MOST) as file:
                for member in _headers(file):
                    kind = _left_out(member)
                    if kind is None:
                        key = to_text(member.name)
                        yield f"{name}/{key}", key, member.size, container, member.offset_data
                    elif kind:
                        left_out[kind] += 1
        except Reject:
            yield name, name, None, container, 0
        except _DamagedError as error:
            yield name, name, None, container, error.position

    def begins(self, rows: pa.Table) -> Iterator[bool]:
        """Members that lie close together in one tar are read together, up to 16 MiB; a larger member alone."""
        start, end, tar = 0, 0, None
        columns = (rows[name].to_pylist() for name in ("container", "position", "size"))
        for container, position, size in zip(*columns, strict=True):
            near = container == tar and size is not None and end <= position <= end + GAP
            joins = near and position + size - start <= SPAN
            if not joins:
                start, tar = position, container if size is not None else None
            yield not joins
            end = position + (size or 0)

    def read_span(self, rows: pa.Table, max_bytes: int) -> Generator[bytes | Reject]:
        """The members' bytes, in one request."""
        positions, sizes = rows["position"].to_pylist(), rows["size"].to_pylist()
        start = positions[0]
        try:
            with self.open(rows["container"][0].as_py()) as file:
                if sizes[0] is None:
                    yield _damage(file, start)
                    return
                wanted = any(size <= max_bytes for size in sizes)  # one that is too large is alone, larger than a span
                block = file.read_at(start, positions[-1] + sizes[-1] - start) if wanted else b""
        except Reject as reject:
            yield from repeat(reject, len(rows))
        except StorageError:
            raise
        except OSError as error:
            yield from repeat(Reject("unreadable", f"{type(error).__name__}: {error}"[:300]), len(rows))
        else:
            for position, size in zip(positions, sizes, strict=True):
                data = block[position - start : position - start + size]
                if size > max_bytes:
                    yield too_large(size, max_bytes)
                elif not size:
                    yield Reject("empty", "the member has 0 bytes")
                elif len(data) != size:
                    yield Reject(
                        "truncated", f"the tar ends at byte {file.size}: {len(data)} of {size} bytes are there"
                    )
                else:
                    yield data


def _headers(file: StoredFile) -> Iterator[tarfile.TarInfo]:
    """Members of all tars in the file. Raises _DamagedError where headers end otherwise than with the end of a tar."""
    start: int | None = 0
    while start is not None:
        file.seek(start)
        offset = start
        try:
            with parsing():
                tar = tarfile.TarFile(fileobj=Bounded(file), encoding="utf-8", errors="surrogateescape")  # pyright: ignore[reportArgumentType]
            offset = tar.offset
            while (member := _next(tar)) is not None:
                yield member
                offset = tar.offset
            start = _next_start(file, tar.offset)
        except HeaderError as error:
            raise _DamagedError(offset) from error


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    """The next member. Raises HeaderError for what is none, or would end before it begins or beyond any file."""
    with parsing():
        member = tar.next()
        tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue] # it keeps all of them otherwise
        if member is not None and (member.size < 0 or not member.offset < tar.offset <= _MOST_END):
            raise tarfile.ReadError(f"{member.size} bytes at {member.offset}")
        return member


def _next_start(file: StoredFile, offset: int) -> int | None:
    """Where another tar starts behind the end marker at `offset`; tarfile takes anything for such a marker."""
    end = file.read_at(offset, _BLOCK)
    if len(end) < _BLOCK or any(end):
        raise _DamagedError(offset)
    file.seek(offset)
    while block := file.read(128 * _BLOCK):
        rest = block.lstrip(b"\0")
        if rest:
            return offset + (len(block) - len(rest)) // _BLOCK * _BLOCK
        offset += len(block)
    return None


def _left_out(member: tarfile.TarInfo) -> str | None:
    """Why a member is not listed: None if it is, "" for a folder, which is nothing to count."""
    if member.isdir() or member.issym() or member.islnk():
        return "" if member.isdir() else "links"
    if any(part.startswith(".") and part not in (".", "..") for part in member.name.split("/")):
        return "hidden"
    if not member.isreg() or not member.name.lower().endswith(IMAGE_EXTENSIONS):
        return "other members"
    if member.issparse():
        return "sparse members"
    return None


def _damage(file: StoredFile, position: int) -> Reject:
    """Why a tar's listing ended at `position`."""
    head = file.read_at(position, _BLOCK)
    packed = next((name for start, name in _PACKED.items() if position == 0 and head.startswith(start)), None)
    if packed:
        return Reject("format_not_allowed", f"compressed with {packed}; decompress it to a plain .tar")
    if len(head) < _BLOCK:
        return Reject(
            "truncated", f"the tar ends at byte {file.size} without its end marker; what was to follow is missing"
        )
    return Reject(
        "decode_error",
        f"no tar header that can be read at byte {position} of {file.size}: {head[:8]!r}; what follows is not listed",
    )
