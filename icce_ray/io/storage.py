"""Files of a run under one root URI, on a local disk or in any store that `resolve` knows.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

import pyarrow as pa
import pyarrow.parquet as pq

from icce_ray.documents import DocumentError, check_regular
from icce_ray.io.locations import StorageError, child, is_s3, retried
from icce_ray.io.stores import HeaderError, StoredFile, info_at, is_local, parsing, read_whole, resolve

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FileInfo", "Storage", "StorageError"]

T = TypeVar("T")
Listing = list[tuple[str, int]]

_TEMPORARY = re.compile(r"^\..*\.tmp$")
_UNFINISHED = re.compile(r"^\.[0-9a-f]{32}\.tmp$")
#: No space left on the disk, or in the quota of who writes; Python names no file.
_FULL = (errno.ENOSPC, errno.EDQUOT)
#: Up to this many bytes a Parquet file in a bucket is one request; of a larger one only the columns asked for are read.
_WHOLE = 1 << 20
_DELETE_THREADS = 16


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
        root: local path (made absolute) or a URI that `resolve` knows. Options of the store stay in the query, e.g.
            `s3://bucket/run?endpoint_override=host:9000&scheme=http`.
        remedy: what errors advise about a file, by its name below the root.

    Attributes:
        local: whether the files lie on a disk of this machine.

    Pickles as its root only, so that every process makes its own connections and no secret travels.
    While a store is busy or restarts, every method waits for it and tries again (up to a minute, see `retried`),
    then raises UnavailableError. A large file whose upload was cut leaves parts behind that nobody can read:
    `abort_uploads` removes them.

    Raises LocationError for a location that cannot be resolved. Reading a file that is not there is
    FileNotFoundError; other failures are OSError.
    """

    def __init__(self, root: str | os.PathLike[str], *, remedy: Callable[[str], str] = _remedy) -> None:
        self.remedy = remedy
        given = os.fspath(root)
        self._fs, path = resolve(given)
        self.local = is_local(self._fs)
        self._path = path.rstrip("/") or path
        self.root = self._path if self.local else given

    def __reduce__(self) -> tuple[type[Storage], tuple[Any, ...]]:
        return Storage, (self.root,)

    def __repr__(self) -> str:
        return f"Storage({self.root!r})"

    def full_path(self, path: str = "") -> str:
        """`path` as its filesystem knows it; the root's own without an argument."""
        return f"{self._path.rstrip('/')}/{child(path)}" if path else self._path

    def uri(self, path: str = "") -> str:
        """For `resolve`: an absolute path on a local disk, else the root's URI + `path`."""
        if self.local:
            return self.full_path(path)
        if not path:
            return self.root
        parts = urlsplit(self.root)
        name = child(path) if parts.scheme.startswith("fsspec+") else quote(child(path), safe="/=")  # taken as it is
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))

    def exists(self, path: str) -> bool:
        """Whether `path` is a file (a folder or a prefix is not)."""
        return self._retried(path, lambda: info_at(self._fs, self.full_path(path)))[0] == "file"

    def read_bytes(self, path: str) -> bytes:
        """The whole file, as it was at one moment, also while another process replaces it."""
        with self._reading(path):
            return self._retried(path, lambda: read_whole(self._fs, self.full_path(path)))

    def write_bytes(self, path: str, data: bytes | pa.Buffer) -> None:
        """The whole file or what was there before: synced on a local disk, one upload on an object store."""
        full = self.full_path(path)
        if self.local:
            _write_local(full, data)
            return
        content = data if isinstance(data, bytes) else data.to_pybytes()
        if not is_s3(self.root):  # stores with real folders want them made first
            self._retried(path, lambda: self._fs.makedirs(full.rsplit("/", 1)[0], exist_ok=True))
        self._retried(path, lambda: self._fs.pipe_file(full, content))

    def write_table(self, path: str, table: pa.Table) -> FileInfo:
        """Write one Parquet file (zstd), serialised in memory first so that `write_bytes` keeps it whole."""
        sink = pa.BufferOutputStream()
        # A dictionary of floats is as long as the floats: making it took most of the time of writing features.
        coded = [field for field in table.schema if not _is_floating(field.type)]
        columns: Any = [  # by Parquet's names of their values; the stubs know only bool
            f"{field.name}.list.element" if _is_list(field.type) else field.name for field in coded
        ]
        pq.write_table(table, sink, compression="zstd", use_dictionary=columns, write_page_checksum=True)
        data = sink.getvalue()
        self.write_bytes(path, data)
        return FileInfo(path=path, rows=table.num_rows, bytes=data.size, sha256=hashlib.sha256(data).hexdigest())

    def read_table(self, path: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One Parquet file, or some of its columns; none are guessed from folder names such as `status=ok/`.

        Raises FileNotFoundError, StorageError for a file that is not Parquet, ColumnError for unknown columns.
        """

        def read() -> pa.Table:
            with self._opened(path) as opened, self._parsing(path, "readable Parquet"):
                file = pq.ParquetFile(opened, page_checksum_verification=True)
                present = file.schema_arrow.names
                missing = [name for name in columns or () if name not in present]
                if not missing:
                    return file.read(columns=None if columns is None else list(columns))
            raise ColumnError(f"{self.uri(path)} has no column {missing}; it has {present}; {self.remedy(path)}")

        return self._retried(path, read)

    def write_tensors(self, path: str, tensors: Mapping[str, Tensor]) -> FileInfo:
        """Write named tensors as one safetensors file, which never executes code on reading."""
        import safetensors.torch  # here and below: importing torch takes a second, and only some files hold tensors

        data = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        self.write_bytes(path, data)
        return FileInfo(path=path, rows=None, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    def read_tensors(self, path: str) -> dict[str, Tensor]:
        """Named tensors, on the CPU. Raises FileNotFoundError, StorageError for a file that is not safetensors."""
        import safetensors.torch

        data = self.read_bytes(path)
        with self._parsing(path, "safetensors"):
            return safetensors.torch.load(data)

    def list(self, prefix: str = "") -> Listing:
        """(name below the root, bytes) of every file below the folder `prefix`, sorted; [] if there is none.

        Names of unfinished writes are left out.
        """
        start = len(self._path.rstrip("/")) + 1
        files = [(path[start:], size) for path, size in self._files_below(self.full_path(prefix))]
        return sorted((name, size) for name, size in files if not _TEMPORARY.match(name.rsplit("/", 1)[-1]))

    def _files_below(self, folder: str) -> Listing:
        """(path as the filesystem knows it, bytes); files that are deleted meanwhile are no error."""
        if self.local:
            return list(_local_files(folder))
        if is_s3(self.root):
            pages: Any = self._fs
            bucket = folder.partition("/")[0]
            keys = (item for page in pages.pages(f"{folder}/") for item in page.objects)
            return [(f"{bucket}/{key}", size) for key, size in keys if not key.endswith("/")]
        self._fs.invalidate_cache()
        files: dict[str, Any] = self._retried("", lambda: self._fs.find(folder, detail=True))
        return [(path, details["size"]) for path, details in files.items()]

    def describe(self, path: str) -> FileInfo:
        """What the file holds now, its bytes hashed again; `rows` for names that end in `.parquet`."""
        file: Any
        with self._reading(path), self._open(path) if self.local else pa.BufferReader(self.read_bytes(path)) as file:
            digest, rows = hashlib.file_digest(file, "sha256").hexdigest(), None
            if path.endswith(".parquet"):
                with self._parsing(path, "readable Parquet"):
                    rows = pq.ParquetFile(file).metadata.num_rows
            return FileInfo(path=path, rows=rows, bytes=file.size(), sha256=digest)

    def delete(self, path: str) -> None:
        """Remove one file; none there is fine, so that a clean-up may run twice."""
        with contextlib.suppress(FileNotFoundError):
            if self.local:
                os.unlink(self.full_path(path))
            else:
                self._retried(path, lambda: self._fs.rm_file(self.full_path(path)))

    def sweep(self) -> int:
        """Delete what killed writers left under temporary names on a local disk; returns how many files.

        Only for the one process that writes here: a write that is under way loses its file.
        """
        if not self.local:
            return 0
        left = [path for path in Path(self._path).rglob(".*.tmp") if _UNFINISHED.match(path.name)]
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    def delete_tree(self, path: str) -> None:
        """Remove a folder or prefix with all it holds; none there is fine. Never the root itself."""
        full = self.full_path(child(path))
        with contextlib.suppress(FileNotFoundError):
            if self.local:
                shutil.rmtree(full)
                return
            with ThreadPoolExecutor(_DELETE_THREADS) as pool:
                files = [name for name, _ in self._files_below(full)]
                list(pool.map(lambda name: self._retried(path, lambda: self._fs.rm_file(name)), files))

    def _retried(self, path: str, call: Callable[[], T]) -> T:
        return retried(call, what=self.uri(path))

    def _open(self, path: str) -> pa.OSFile:
        """A local file."""
        check_regular(self.full_path(path))
        return pa.OSFile(self.full_path(path))

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[pa.NativeFile | StoredFile]:
        with self._reading(path):
            if self.local:
                with self._open(path) as file:
                    yield file
            else:
                with StoredFile(self._fs, self.full_path(path), tail=_WHOLE) as file:
                    yield pa.BufferReader(file.tail) if len(file.tail) == file.size else file

    @contextlib.contextmanager
    def _reading(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(f"there is no file {self.uri(path)}") from error
        except DocumentError as error:
            raise StorageError(f"{self.uri(path)} cannot be read: {error}; {self.remedy(path)}") from error

    @contextlib.contextmanager
    def _parsing(self, path: str, form: str) -> Iterator[None]:
        """Errors of a library as the file's, not the store's; too little memory says nothing about the file."""
        try:
            with parsing():
                yield
        except HeaderError as error:
            if isinstance(error.__cause__, MemoryError):
                raise MemoryError(f"{self.uri(path)}: {error}") from error
            raise StorageError(f"{self.uri(path)} is not a {form} file ({error}); {self.remedy(path)}") from error


def _is_floating(kind: pa.DataType) -> bool:
    """Whether a column is of floats or of lists of them."""
    return pa.types.is_floating(kind.value_type if _is_list(kind) else kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _local_files(folder: str) -> Iterator[tuple[str, int]]:
    """(path, bytes) of the files below a folder; what disappears meanwhile is left out."""

    def failed(error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise error

    for parent, _, names in os.walk(folder, onerror=failed):
        for name in names:
            path = os.path.join(parent, name)
            with contextlib.suppress(FileNotFoundError):
                yield path, os.stat(path).st_size


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
