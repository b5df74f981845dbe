"""The bytes of one file or of a part of it, or why there are none."""

from __future__ import annotations

import os
import stat

import pyarrow as pa
import pyarrow.fs as pafs

from icce_ray.io.decode import Reject
from icce_ray.io.filenames import to_bytes
from icce_ray.io.locations import UnavailableError, child, is_local, resolve, retried
from icce_ray.io.s3 import check_access, is_s3

_BLOCK = 1 << 20


def fetch(location: str, path: str = "", *, max_bytes: int, patience: float = 60.0) -> bytes | Reject:
    """The whole file at `path` below `location`, or the file `location` itself.

    A Reject if it is missing, forbidden, no regular file, or larger than `max_bytes`. Raises UnavailableError where the
    store does not answer for `patience` seconds, StorageError where it refuses the whole location: neither says
    anything about this file.
    """
    try:
        filesystem, full = _full(location, path)
        return retried(lambda: _whole(filesystem, full, max_bytes), patience=patience, what=path or location)
    except Reject as reject:
        return reject
    except UnavailableError:
        raise
    except (OSError, ValueError, pa.ArrowInvalid) as error:  # a bucket may hold keys that Arrow takes for no paths
        return _unreadable(location, error)


def open_file(location: str, path: str = "") -> pa.NativeFile | Reject:
    """The file at `path` below `location`, or the file `location` itself, for reading at any place.

    Rejects and raises as `fetch` does.
    """
    try:
        filesystem, full = _full(location, path)
        return retried(lambda: _opened(filesystem, full))
    except Reject as reject:
        return reject
    except UnavailableError:
        raise
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        return _unreadable(location, error)


def too_large(size: int, max_bytes: int) -> Reject:
    """The reject of an image of more bytes than allowed."""
    return Reject("too_many_bytes", f"{size} bytes are more than the limit of {max_bytes}")


def _full(location: str, path: str) -> tuple[pafs.FileSystem, str | bytes]:
    """The filesystem and the path in it; bytes on a local disk, where names need be no text."""
    filesystem, base = resolve(location)
    local = is_local(filesystem)
    if not path:
        return filesystem, os.fsencode(base) if local else base
    if local:
        return filesystem, os.fsencode(base.rstrip("/") + "/") + to_bytes(child(path))
    return filesystem, f"{base.rstrip('/')}/{to_bytes(path).decode()}"


def _opened(filesystem: pafs.FileSystem, full: str | bytes) -> pa.NativeFile:
    if isinstance(full, str):
        return filesystem.open_input_file(full)
    if not stat.S_ISREG(os.stat(full).st_mode):
        raise Reject("unreadable", "not a regular file")  # opening a pipe would wait for ever
    return pa.OSFile(full)  # pyright: ignore[reportArgumentType] # takes bytes, unlike a filesystem


def _whole(filesystem: pafs.FileSystem, full: str | bytes, max_bytes: int) -> bytes:
    if isinstance(full, str) and filesystem.type_name.startswith("py::"):  # web servers may not know a size at first
        return _to_the_end(filesystem, full, max_bytes)
    with _opened(filesystem, full) as file:
        size = file.size()
        if size > max_bytes:
            raise too_large(size, max_bytes)
        data = file.read(size)
    if len(data) != size:
        raise OSError(f"unexpected end of {full!r}: {len(data)} of {size} bytes came")
    return data


def _to_the_end(filesystem: pafs.FileSystem, full: str, max_bytes: int) -> bytes:
    blocks, size = [], 0
    with filesystem.open_input_stream(full, compression=None) as file:
        while block := file.read(_BLOCK):
            blocks.append(block)
            size += len(block)
            if size > max_bytes:
                raise too_large(size, max_bytes)
    return b"".join(blocks)


def _unreadable(location: str, error: Exception) -> Reject:
    """A Reject for one file; StorageError if it is the store that refuses, as after credentials have expired."""
    if is_s3(location) and "ACCESS_DENIED" in str(error):
        check_access(location)
    return Reject("unreadable", f"{type(error).__name__}: {error}"[:300])
