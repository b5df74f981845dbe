"""A location to its store and the path in it; reading files there, whole or at any place, and what is no such file."""

from __future__ import annotations

import csv
import io
import os
import stat
import struct
import tarfile
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa
from fsspec import get_filesystem_class
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from safetensors import SafetensorError

from icce_ray.documents import check_regular, shown
from icce_ray.io.filenames import to_text
from icce_ray.io.locations import (
    LocationError,
    StorageError,
    TooLargeError,
    is_s3,
    is_transient,
    refuse_secrets,
    retried,
    s3_location,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: A filesystem of fsspec; untyped, as its methods are typed for all modes at once (`bytes | str`).
Store = Any
Info = tuple[Literal["file", "directory", "other"] | None, int | None]
#: Options in the query of a URI, by scheme, and the extra of the package that brings the client.
_OPTIONS = {"gs": ("endpoint_override", "scheme"), "az": ("account_name",), "abfs": (), "abfss": ()}
_EXTRA = {"gs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}
#: A jump forward up to this far goes on reading ahead; a longer one starts again with a small read. About what a store
#: sends in the time that it takes to answer.
_NEAR = 1 << 20
#: Bytes of a header, at most: NumPy's have a hundred, tar's a name's length or what `xattr` holds.
MOST_HEADER = 1 << 20
#: tarfile, NumPy, Arrow and safetensors raise more than they say.
_LIBRARY_ERRORS = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, EOFError),
    *(SyntaxError, MemoryError, RecursionError, struct.error, tokenize.TokenError),
    *(tarfile.TarError, csv.Error, pa.ArrowException, SafetensorError),
)


def resolve(uri: str) -> tuple[Store, str]:
    """The fsspec filesystem of `uri` and the path inside it.

    A plain path (`~` and relative ones included) is a local one and may hold any character. `s3://` takes the options
    of `s3_location` in its query, `gs://` needs gcsfs, `az://` and `abfs://` need adlfs, `http(s)://` can only be read,
    and `fsspec+PROTOCOL://` is whatever fsspec knows. URIs are cached, and S3 stores with equal options share a client.

    Raises LocationError for an unknown scheme, a malformed URI, or credentials inside the URI.
    """
    if not uri:
        raise LocationError("the location is empty; give a local path, file://, s3:// or gs:// URI")
    refuse_secrets(uri)
    if "://" not in uri:
        path = os.path.abspath(os.path.expanduser(uri))
        if any("\ud800" <= letter <= "\udfff" for letter in path):
            raise LocationError(f"the path '{to_text(path)}' is not UTF-8; rename it, or give a link to it")
        return LocalFileSystem(), path  # not cached: the working directory may change
    return _remote(uri, os.getpid())


@lru_cache(maxsize=64)
def _remote(uri: str, process: int) -> tuple[Store, str]:
    """`process` is the one that asks: after a fork the threads of the clients are gone."""
    scheme = uri.split("://", 1)[0]
    if scheme == "s3":
        path, options = s3_location(uri)
        return _s3_store(options, process), path
    if scheme in ("http", "https"):
        return _web(process), uri
    parts = urlsplit(uri)
    if scheme == "file" and parts.netloc in ("", "localhost"):
        return LocalFileSystem(), os.path.abspath(unquote(parts.path))
    try:
        if scheme in _OPTIONS:
            return _cloud(uri, scheme), f"{_container(parts.netloc)}{unquote(parts.path)}".rstrip("/")
        if scheme.startswith("fsspec+"):
            return url_to_fs(uri.removeprefix("fsspec+"))
    except (ImportError, ValueError) as error:
        raise LocationError(f"{uri!r} is no location that fsspec opens: {error}") from error
    raise LocationError(
        f"no store is known for {scheme}://, as in {uri!r}; use a local path, file://, s3://, gs://, az://, abfs://, "
        "http(s):// or fsspec+PROTOCOL://, with special characters percent-encoded"
    )


@lru_cache(maxsize=64)
def _s3_store(options: Any, process: int) -> Store:
    from icce_ray.io.s3 import S3Store  # takes half a second, which not every command has to spend

    return S3Store(options)


@lru_cache(maxsize=1)
def _web(process: int) -> Store:
    from icce_ray.io.web import WebStore  # likewise

    return WebStore()


def _cloud(uri: str, scheme: str) -> Store:
    """The client of Google's or Azure's store, with the options of the URI."""
    parts = urlsplit(uri)
    options = dict(parse_qsl(parts.query))
    if unknown := sorted(set(options) - set(_OPTIONS[scheme])):
        raise LocationError(
            f"unknown option {unknown} in {scheme}:// URI; it takes {', '.join(_OPTIONS[scheme]) or 'none'}"
        )
    try:
        client = get_filesystem_class(scheme)
    except ImportError as error:
        raise LocationError(f"{scheme}:// needs one more package; pip install 'icce-ray[{_EXTRA[scheme]}]'") from error
    if scheme == "gs":
        if endpoint := options.pop("endpoint_override", None):
            options["endpoint_url"] = f"{options.pop('scheme', 'https')}://{endpoint}"
        if parts.netloc.startswith("anonymous@"):
            options["token"] = "anon"
    elif scheme != "az":  # abfs://container@account.dfs.core.windows.net
        options = {"account_name": parts.netloc.rpartition("@")[2].partition(".")[0], "anon": False}
    return client(**options, skip_instance_cache=True, use_listings_cache=False)


def _container(netloc: str) -> str:
    """Bucket or container in the host's place: anonymous@BUCKET of gs://, CONTAINER@account of abfs://."""
    user, _, host = netloc.rpartition("@")
    return host if user in ("", "anonymous") else user


def is_local(filesystem: Store) -> bool:
    """Whether the files lie on a disk of this machine."""
    return isinstance(filesystem, LocalFileSystem)


def check_access(uri: str) -> None:
    """Of S3 within 30 s: StorageError with reason and remedy if key, secret, bucket or permission are wrong."""
    if is_s3(uri):
        store, path = resolve(uri)
        store.check_access(path)


def abort_uploads(uri: str) -> int:
    """Abort what killed writers left unfinished below an S3 folder; how many uploads."""
    if not is_s3(uri):
        return 0
    store, path = resolve(uri)
    return store.abort_uploads(f"{path}/")


def info(location: str) -> Info:
    """What lies there, and the bytes of a file where the store says how many; (None, None) for nothing."""
    return info_at(*resolve(location))


def info_at(filesystem: Store, path: str) -> Info:
    """`info` of a path in a filesystem."""
    try:
        if is_local(filesystem):  # by the system itself: a pipe or a device is neither file nor folder
            status = os.stat(path)
            if stat.S_ISDIR(status.st_mode):
                return "directory", None
            return ("file", status.st_size) if stat.S_ISREG(status.st_mode) else ("other", None)
        filesystem.invalidate_cache()
        there = filesystem.info(path)
    except (FileNotFoundError, NotADirectoryError):
        return None, None
    return ("file", there["size"]) if there["type"] == "file" else ("directory", None)


def read_whole(filesystem: Store, path: str, *, most: int | None = None) -> bytes:
    """A file, of a store by one request if it can say how long its answer is. Raises TooLargeError for more bytes.

    Raises DocumentError for a local path that is no regular file: a pipe would be waited for, a device never ends.
    """
    if getattr(filesystem, "bounded", False):  # one of ours, which looks at the length of the answer
        return filesystem.cat_file(path, most=most)
    if is_local(filesystem):
        with StoredFile(filesystem, path) as file:
            size = file.size
            data = file.read_at(0, size) if most is None or size <= most else b""
    else:
        size = filesystem.info(path)["size"]
        data = filesystem.cat_file(path) if most is None or size <= most else b""
    if most is not None and size > most:
        raise TooLargeError(size)
    if len(data) != size:
        raise ConnectionError(f"{path!r} gave {len(data)} of its {size} bytes")
    return data


class StoredFile(io.RawIOBase):
    """A file for reading at any place. Requests that fail and may pass are repeated.

    Reads ahead at least `least` bytes; while reads follow each other closely, twice as many each time up to `most`. So
    members of an archive that are small come with few large requests, and large ones are jumped over.

    Args:
        filesystem: where it lies, as `resolve` gives it.
        path: in that filesystem; a local name that is not UTF-8 as Python shows it (`surrogateescape`).
        least: bytes to read ahead; 0 for none.
        most: bytes to read ahead in the end.
        tail: how many of the last bytes of a file of a store are asked for at once and kept.

    Attributes:
        size: bytes of the file.
        tail: the last bytes that are kept, all of a file that has no more.
    """

    def __init__(self, filesystem: Store, path: str, *, least: int = 0, most: int = 0, tail: int = 0) -> None:
        super().__init__()
        self._filesystem, self._path, self._local, self.tail = filesystem, path, None, b""
        self._least = self._ahead = least
        self._most = most
        self._position = self._start = 0
        self._block = b""
        if is_local(filesystem):
            check_regular(path)
            self._local = io.FileIO(path)
            self.size = os.fstat(self._local.fileno()).st_size
        elif tail and hasattr(filesystem, "last_bytes"):
            self.tail, self.size = filesystem.last_bytes(path, tail)
        else:
            there = filesystem.info(path)
            self.size = there["size"]
            # A server without ranges sends all of it anyway.
            if self.size is None or self.size <= tail or not there.get("ranges", True):
                self.tail = filesystem.cat_file(path)
                self.size = len(self.tail)

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
        end = min(position + size, self.size)
        first = self.size - len(self.tail)
        if end <= position:
            return b""
        if self._local is not None:
            return os.pread(self._local.fileno(), end - position, position)
        if position >= first:
            return self.tail[position - first : end - first]
        data = retried(lambda: self._filesystem.cat_file(self._path, start=position, end=end), what=self._path)
        if len(data) != end - position:
            raise StorageError(f"{self._path} changed while it was read: {len(data)} of {end - position} bytes came")
        return data

    def close(self) -> None:
        """Close it, and let go of what it holds."""
        if self._local is not None:
            self._local.close()
        self._block = self.tail = b""
        super().close()


class HeaderError(ValueError):
    """Bytes that are not what they should be; the message is one line, which does not name the file."""


class Bounded:
    """A file as a library reads its header: however long that says it is, it is not read into memory."""

    def __init__(self, file: io.RawIOBase) -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """As of any file. Raises HeaderError for more than `MOST_HEADER` bytes."""
        if not 0 <= size <= MOST_HEADER:
            raise HeaderError(f"a header of {size:,} bytes; {MOST_HEADER:,} are read at most")
        return self._file.read(size) or b""


@contextmanager
def parsing() -> Iterator[None]:
    """Raises HeaderError in place of a library's errors; errors of the store under it pass."""
    try:
        yield
    except StorageError:
        raise
    except _LIBRARY_ERRORS as error:
        if isinstance(error, OSError) and is_transient(error):
            raise
        raise HeaderError(shown(" ".join(str(error).split()) or type(error).__name__, 300, plain=True)) from error
