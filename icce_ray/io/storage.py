"""Files of a run under one root URI, on a local disk or any object store that pyarrow resolves.

Names below the root are relative, POSIX style (`features/status=ok/part-000000.parquet`). A reader never
sees half a file: on a local disk a file is written under a temporary name, synced and renamed; an object
store shows an object only after its upload is complete.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from icce_ray.documents import DocumentError, check_regular
from icce_ray.io.headers import HeaderError, parsing
from icce_ray.io.locations import (
    StorageError,
    child,
    is_local,
    resolve,
    retried,
)
from icce_ray.io.s3 import get_tail, get_with_etag, is_s3

__all__ = ["FileInfo", "Storage", "StorageError"]

T = TypeVar("T")
Listing = list[tuple[str, int]]

_TEMPORARY = re.compile(r"^\..*\.tmp$")
_UNFINISHED = re.compile(r"^\.[0-9a-f]{32}\.tmp$")
_CHUNK = 8 << 20
#: No space left on the disk, or in the quota of who writes; Python names no file.
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LISTINGS = 100  # of a folder in which others delete folders; one is done in microseconds
#: Up to this many bytes a Parquet file in a bucket is one request; of a larger one only the columns asked for are read.
_WHOLE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """One file of a run as manifests record it: `rows` is None where the file is not Parquet."""

    path: str
    rows: int | None
    bytes: int
    sha256: str


def _remedy(path: str) -> str:
    return f"write {path} again"


class ColumnError(StorageError, ValueError):
    """A Parquet file without a column that it should have."""


class Storage:
    """The files below one root.

    Args:
        root: local path (made absolute), `file://`, `s3://`, `gs://`, `az://`, `abfs://` or `fsspec+PROTOCOL://`
            URI. Options of the store stay in the query, e.g. `s3://bucket/run?endpoint_override=host:9000&scheme=http`.
        remedy: what errors advise about a file, by its name below the root.

    Pickles as its root only, so that every process makes its own connections and no secret travels.
    While a store is busy or restarts, every method waits for it and tries again (up to a minute, see `retried`),
    then raises UnavailableError. A large file whose upload was cut leaves parts behind that nobody can read:
    `abort_uploads` in s3.py removes them.

    Raises LocationError for a location that cannot be resolved. Reading a file that is not there is
    FileNotFoundError; other failures are OSError.
    """

    def __init__(self, root: str | os.PathLike[str], *, remedy: Callable[[str], str] = _remedy) -> None:
        self.remedy = remedy
        given = os.fspath(root)
        self._fs, path = resolve(given)
        self._local = is_local(self._fs)
        self._path = path.rstrip("/") or path
        self.root = self._path if self._local else given

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return Storage, (self.root,)

    def __repr__(self) -> str:
        return f"Storage({self.root!r})"

    @property
    def filesystem(self) -> pafs.FileSystem:
        """The pyarrow filesystem, for Ray Data's readers and writers; use it with `full_path`."""
        return self._fs

    def full_path(self, path: str = "") -> str:
        """`path` as the `filesystem` knows it; the root's own without an argument."""
        return f"{self._path.rstrip('/')}/{child(path)}" if path else self._path

    def uri(self, path: str = "") -> str:
        """For any pyarrow reader: an absolute path on a local disk, else the root's URI + `path`."""
        if self._local:
            return self.full_path(path)
        if not path:
            return self.root
        parts = urlsplit(self.root)
        name = child(path) if parts.scheme.startswith("fsspec+") else quote(child(path), safe="/=")  # taken as it is
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))

    def exists(self, path: str) -> bool:
        """Whether `path` is a file (a folder or a prefix is not)."""
        info = self._retried(path, lambda: self._fs.get_file_info(self.full_path(path)))
        return info.type == pafs.FileType.File

    def open_input(self, path: str) -> pa.NativeFile:
        """A seekable binary file, to be closed by the caller."""
        return self._retried(path, lambda: self._open(path))

    def read_bytes(self, path: str) -> bytes:
        """The whole file, as it was at one moment, also while another process replaces it."""
        if is_s3(self.root):  # Arrow asks for the size first and then for so many bytes, of whatever is there by then
            return self._found(path, get_with_etag(self.uri(path)))[0]

        def read() -> bytes:
            with self._open(path) as file:
                data = file.read()
                self._require_whole(path, len(data), file)
                return data

        return self._retried(path, read)

    def write_bytes(self, path: str, data: bytes | pa.Buffer) -> None:
        """The whole file or what was there before: synced on a local disk, one upload on an object store."""
        full = self.full_path(path)
        if self._local:
            _write_local(full, data)
            return

        def put() -> None:
            with self._fs.open_output_stream(full, compression=None) as file:
                file.write(data)

        if self._fs.type_name.startswith("py::"):  # fsspec stores with real folders want them made first
            self._retried(path, lambda: self._fs.create_dir(full.rsplit("/", 1)[0], recursive=True))
        self._retried(path, put)

    def write_table(self, path: str, table: pa.Table) -> FileInfo:
        """Write one Parquet file (zstd), serialised in memory first so that `write_bytes` keeps it whole."""
        sink = pa.BufferOutputStream()
        # A dictionary of floats is as long as the floats: making it took most of the time of writing features.
        columns: Any = [
            _leaf(field) for field in table.schema if not _is_floating(field.type)
        ]  # the stubs know only bool
        pq.write_table(table, sink, compression="zstd", use_dictionary=columns, write_page_checksum=True)
        data = sink.getvalue()
        self.write_bytes(path, data)
        digest = hashlib.sha256(data).hexdigest()
        return FileInfo(path=path, rows=table.num_rows, bytes=data.size, sha256=digest)

    def read_table(self, path: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One Parquet file, or some of its columns; none are guessed from folder names such as `status=ok/`.

        Raises FileNotFoundError, StorageError for a file that is not Parquet, ColumnError for unknown columns.
        """

        def read() -> pa.Table:
            with self._parquet(path) as file:
                present = file.schema_arrow.names
                missing = [name for name in columns or () if name not in present]
                if not missing:
                    return file.read(columns=None if columns is None else list(columns))
            raise ColumnError(f"{self.uri(path)} has no column {missing}; it has {present}; {self.remedy(path)}")

        return self._retried(path, read)

    def list(self, prefix: str = "") -> Listing:
        """(name below the root, bytes) of every file below the folder `prefix`, sorted; [] if there is none.

        Names of unfinished writes are left out.
        """
        start = len(self._path.rstrip("/")) + 1
        selector = pafs.FileSelector(self.full_path(prefix), recursive=True, allow_not_found=True)
        found = self._retried(prefix, lambda: self._looked_through(selector))
        files = [(info.path[start:], info.size) for info in found if info.type == pafs.FileType.File]
        return sorted((name, size) for name, size in files if not _TEMPORARY.match(name.rsplit("/", 1)[-1]))

    def _looked_through(self, selector: pafs.FileSelector) -> Sequence[pafs.FileInfo]:
        """What is there now; that somebody deletes the folder meanwhile (`--redo`, a stage that begins) is no error."""
        for _ in range(_LISTINGS - 1):
            with contextlib.suppress(FileNotFoundError):
                return self._fs.get_file_info(selector)
        return self._fs.get_file_info(selector)

    def describe(self, path: str) -> FileInfo:
        """What the file holds now, its bytes hashed again; `rows` for names that end in `.parquet`."""

        def read() -> FileInfo:
            digest, size, rows = hashlib.sha256(), 0, None
            with self._open(path) as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
                self._require_whole(path, size, file)
                if path.endswith(".parquet"):
                    with self._readable(path):
                        rows = pq.ParquetFile(file).metadata.num_rows
            return FileInfo(path=path, rows=rows, bytes=size, sha256=digest.hexdigest())

        return self._retried(path, read)

    def delete(self, path: str) -> None:
        """Remove one file; none there is fine, so that a clean-up may run twice."""
        with contextlib.suppress(FileNotFoundError):
            self._retried(path, lambda: self._fs.delete_file(self.full_path(path)))

    def sweep(self) -> int:
        """Delete what killed writers left under temporary names on a local disk; returns how many files.

        Only for who alone writes here: a write that is under way loses its file.
        """
        if not self._local:
            return 0
        left = [path for path in Path(self._path).rglob(".*.tmp") if _UNFINISHED.match(path.name)]
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    def delete_tree(self, path: str) -> None:
        """Remove a folder or prefix with all it holds; none there is fine. Never the root itself."""
        full = self.full_path(child(path))

        def remove() -> None:
            if self._fs.get_file_info(full).type != pafs.FileType.NotFound:  # for gs:// such a folder is an OSError
                self._fs.delete_dir(full)

        with contextlib.suppress(FileNotFoundError):
            if self._local:
                shutil.rmtree(full)
            else:
                self._retried(path, remove)

    def _retried(self, path: str, call: Callable[[], T]) -> T:
        return retried(call, what=self.uri(path))

    def _open(self, path: str) -> pa.NativeFile:
        try:
            if self._local:
                check_regular(self.full_path(path))
            return self._fs.open_input_file(self.full_path(path))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"there is no file {self.uri(path)}") from error
        except DocumentError as error:
            raise StorageError(f"{self.uri(path)} cannot be read: {error}; {self.remedy(path)}") from error

    def _found(self, path: str, found: tuple[bytes, T] | None) -> tuple[bytes, T]:
        if found is None:
            raise FileNotFoundError(f"there is no file {self.uri(path)}")
        return found

    def _require_whole(self, path: str, read: int, file: pa.NativeFile) -> None:
        if read != file.size():  # as after a replacement between the look at its size and the read
            raise ConnectionError(f"{self.uri(path)} gave {read} of its {file.size()} bytes")

    @contextlib.contextmanager
    def _parquet(self, path: str) -> Iterator[pq.ParquetFile]:
        data, size = self._found(path, get_tail(self.uri(path), _WHOLE)) if is_s3(self.root) else (b"", -1)
        with pa.BufferReader(data) if len(data) == size else self._open(path) as file, self._readable(path):
            yield pq.ParquetFile(file, page_checksum_verification=True)

    @contextlib.contextmanager
    def _readable(self, path: str) -> Iterator[None]:
        """Errors of Arrow as the file's, not as those of the store."""
        try:
            with parsing():
                yield
        except HeaderError as error:
            raise StorageError(
                f"{self.uri(path)} is not a readable Parquet file ({error}); {self.remedy(path)}"
            ) from error


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_floating(kind: pa.DataType) -> bool:
    """Whether a column is of floats or of lists of them."""
    return pa.types.is_floating(kind.value_type if _is_list(kind) else kind)


def _leaf(field: pa.Field) -> str:
    """Parquet's name of the values of a column."""
    return f"{field.name}.list.element" if _is_list(field.type) else field.name


def _write_local(full: str, data: bytes | pa.Buffer) -> None:
    """Temporary name in the same folder, sync, rename, sync of the folder: whole or not there."""
    target = Path(full)
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(memoryview(data))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise StorageError(
                f"{full} cannot be written: {error.strerror}; free some space, and the same command goes on"
            ) from error
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
