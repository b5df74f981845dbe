"""The bytes of one file of a source, or why there are none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from icce_ray.io.decode import Reject
from icce_ray.io.filenames import to_bytes
from icce_ray.io.locations import StorageError, TooLargeError, UnavailableError, answer_of, child, retried
from icce_ray.io.stores import Store, StoredFile, check_access, is_local, read_whole, resolve

#: Bytes to read ahead on a local disk, at most: the system does it itself.
_LOCAL_AHEAD = 1 << 14


def fetch(location: str, path: str = "", *, max_bytes: int, patience: float = 60.0) -> bytes | Reject:
    """The whole file at `path` below `location`, or the file `location` itself.

    A Reject if it is missing, forbidden, no regular file, or larger than `max_bytes`. Raises UnavailableError where the
    store does not answer for `patience` seconds, StorageError where it refuses the whole location: neither says
    anything about this file.
    """
    try:
        with _rejecting(location, max_bytes):
            return retried(
                lambda: read_whole(*_place(location, path), most=max_bytes), patience=patience, what=path or location
            )
    except Reject as reject:
        return reject


def open_file(location: str, path: str = "", *, least: int = 0, most: int = 0) -> StoredFile:
    """The file that `fetch` would read, for reading at any place; see `StoredFile` for `least` and `most`.

    Raises Reject where `fetch` returns it, and what `fetch` raises.
    """
    with _rejecting(location):
        filesystem, full = _place(location, path)
        if is_local(filesystem):
            least, most = min(least, _LOCAL_AHEAD), min(most, _LOCAL_AHEAD)
        return retried(lambda: StoredFile(filesystem, full, least=least, most=most), what=path or location)


def too_large(size: int, max_bytes: int) -> Reject:
    """The reject of an image of more bytes than allowed."""
    return Reject("too_many_bytes", f"{size} bytes are more than the limit of {max_bytes}")


def _place(location: str, path: str) -> tuple[Store, str]:
    filesystem, base = resolve(location)
    if not path:
        return filesystem, base
    if is_local(filesystem):
        return filesystem, f"{base.rstrip('/')}/{os.fsdecode(to_bytes(child(path)))}"
    return filesystem, f"{base.rstrip('/')}/{to_bytes(path).decode()}"


@contextmanager
def _rejecting(location: str, max_bytes: int = 0) -> Iterator[None]:
    """Raises a Reject for what is wrong with one file; other errors are those of the store."""
    try:
        yield
    except UnavailableError:
        raise
    except TooLargeError as error:
        raise too_large(error.size, max_bytes) from error
    except (OSError, ValueError) as error:  # a bucket may hold keys that a client takes for no paths
        if isinstance(error, StorageError) and answer_of(error.__cause__)[0] == 403:
            check_access(location)  # raises if it is the store that refuses, as after credentials have expired
        raise Reject("unreadable", f"{type(error).__name__}: {error}"[:300]) from error
