"""The bytes of one file or of a part of it, or why there are none."""

from __future__ import annotations

import os
import stat

import pyarrow as pa

from icce_ray.io.decode import Reject
from icce_ray.io.filenames import to_bytes
from icce_ray.io.locations import StorageError, TooLargeError, UnavailableError, answer_of, child, retried
from icce_ray.io.stores import RemoteFile, check_access, is_local, read_whole, resolve


def fetch(location: str, path: str = "", *, max_bytes: int, patience: float = 60.0) -> bytes | Reject:
    """The whole file at `path` below `location`, or the file `location` itself.

    A Reject if it is missing, forbidden, no regular file, or larger than `max_bytes`. Raises UnavailableError where the
    store does not answer for `patience` seconds, StorageError where it refuses the whole location: neither says
    anything about this file.
    """
    try:
        return retried(lambda: _whole(location, path, max_bytes), patience=patience, what=path or location)
    except Reject as reject:
        return reject
    except TooLargeError as error:
        return too_large(error.size, max_bytes)
    except UnavailableError:
        raise
    except (OSError, ValueError) as error:  # a bucket may hold keys that a client takes for no paths
        return _unreadable(location, error)


def open_file(location: str, path: str = "") -> pa.NativeFile | RemoteFile | Reject:
    """The file at `path` below `location`, or the file `location` itself, for reading at any place.

    Rejects and raises as `fetch` does.
    """
    try:
        return retried(lambda: _opened(location, path), what=path or location)
    except Reject as reject:
        return reject
    except UnavailableError:
        raise
    except (OSError, ValueError) as error:
        return _unreadable(location, error)


def too_large(size: int, max_bytes: int) -> Reject:
    """The reject of an image of more bytes than allowed."""
    return Reject("too_many_bytes", f"{size} bytes are more than the limit of {max_bytes}")


def _opened(location: str, path: str) -> pa.NativeFile | RemoteFile:
    filesystem, base = resolve(location)
    if not is_local(filesystem):
        return RemoteFile(filesystem, f"{base.rstrip('/')}/{to_bytes(path).decode()}" if path else base)
    # Bytes, for names need not be text.
    full = os.fsencode(base.rstrip("/") + "/") + to_bytes(child(path)) if path else os.fsencode(base)
    if not stat.S_ISREG(os.stat(full).st_mode):
        raise Reject("unreadable", "not a regular file")  # opening a pipe would wait for ever
    return pa.OSFile(full)  # pyright: ignore[reportArgumentType] # takes bytes too


def _whole(location: str, path: str, max_bytes: int) -> bytes:
    filesystem, base = resolve(location)
    if not is_local(filesystem):
        full = f"{base.rstrip('/')}/{to_bytes(path).decode()}" if path else base
        return read_whole(filesystem, full, most=max_bytes)
    with _opened(location, path) as file:
        size = file.size()
        if size > max_bytes:
            raise TooLargeError(size)
        data = file.read(size)
    if len(data) != size:
        raise OSError(f"unexpected end of {path or base!r}: {len(data)} of {size} bytes came")
    return data


def _unreadable(location: str, error: Exception) -> Reject:
    """A Reject for one file; StorageError if it is the store that refuses, as after credentials have expired."""
    if isinstance(error, StorageError) and answer_of(error.__cause__)[0] == 403:
        check_access(location)
    return Reject("unreadable", f"{type(error).__name__}: {error}"[:300])
