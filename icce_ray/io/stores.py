"""A location to its store and the path in it, and reading files there: whole, or at any place."""

from __future__ import annotations

import io
import os
import stat
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from fsspec import get_filesystem_class
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from icce_ray.io.filenames import to_text
from icce_ray.io.locations import (
    LocationError,
    StorageError,
    TooLargeError,
    is_s3,
    refuse_secrets,
    retried,
    s3_location,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: A filesystem of fsspec; untyped, as its methods are typed for all modes at once (`bytes | str`).
Store = Any
#: Options in the query of a URI, by scheme, and the extra of the package that brings the client.
_OPTIONS = {"gs": ("endpoint_override", "scheme"), "az": ("account_name",), "abfs": (), "abfss": ()}
_EXTRA = {"gs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}


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
        place = s3_location(uri)
        return _s3_store(place.options, process), f"{place.bucket}/{place.key}".rstrip("/")
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


def info(location: str) -> tuple[Literal["file", "directory", "other"] | None, int | None]:
    """What lies there, and the bytes of a file where the store says how many; (None, None) for nothing."""
    filesystem, path = resolve(location)
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
    """A remote file, asked for once. Raises TooLargeError for one of more than `most` bytes."""
    if getattr(filesystem, "bounded", False):  # one of ours, which looks at the length of the answer
        return filesystem.cat_file(path, most=most)
    size = filesystem.info(path)["size"]
    if most is not None and size > most:
        raise TooLargeError(size)
    data = filesystem.cat_file(path)
    if len(data) != size:
        raise ConnectionError(f"{path} gave {len(data)} of its {size} bytes")
    return data


class RemoteFile(io.RawIOBase):
    """A remote file for reading at any place; each read is one request, but for the last bytes, which are kept.

    Attributes:
        tail: the last bytes, all of them if the file has at most as many as were asked for.
    """

    def __init__(self, filesystem: Store, path: str, *, tail: int = 0) -> None:
        super().__init__()
        self._filesystem, self._path, self._position = filesystem, path, 0
        if tail and hasattr(filesystem, "last_bytes"):
            self.tail, self._size = filesystem.last_bytes(path, tail)
        else:
            there = filesystem.info(path)
            self._size, self.tail = there["size"], b""
            # A server without ranges sends all of it anyway.
            if self._size is None or self._size <= tail or not there.get("ranges", True):
                self.tail = filesystem.cat_file(path)
                self._size = len(self.tail)

    def size(self) -> int:
        """Bytes of the file."""
        return self._size

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
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def readinto(self, buffer: Buffer, /) -> int:
        """As of any file."""
        view = memoryview(buffer)
        data = self.read_at(len(view), self._position)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def read_at(self, count: int, position: int) -> bytes:
        """`count` bytes from `position` on, fewer at the end of the file; the next `read` is not moved by it."""
        end = min(position + count, self._size)
        if end <= position:
            return b""
        first = self._size - len(self.tail)
        if position >= first:
            return self.tail[position - first : end - first]
        data = retried(lambda: self._filesystem.cat_file(self._path, start=position, end=end), what=self._path)
        if len(data) != end - position:
            raise StorageError(f"{self._path} changed while it was read: {len(data)} of {end - position} bytes came")
        return data
