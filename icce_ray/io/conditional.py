"""Compare-and-swap of one small file: what several processes on several machines can agree through.

A version is what `current` and `swap` return and nothing else: an ETag on S3, a digest of the content elsewhere.
Every content should be unique to its writer and its moment (hold a token and a counter): a version then never comes
back, and a write whose answer was lost is recognised as one's own.

- Local disk: a guard file beside it under `flock`, which the system releases with the process that held it.
- S3: conditional PUT (`If-None-Match`, `If-Match`).
- Other stores: read, write, wait `SETTLE` seconds, read again, so that of two writers the earlier one sees that it
  lost. Weaker: it holds as long as nobody takes more than `SETTLE` seconds between reading and writing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from icce_ray.documents import DocumentError, read_regular
from icce_ray.io.locations import StorageError, is_s3, retried
from icce_ray.io.storage import Storage
from icce_ray.io.stores import Store, is_local, resolve

#: Seconds after a write on a store without conditional writes until it counts.
SETTLE = 2.0
#: A small file: one that is larger is none of ours.
MOST_BYTES = 1 << 20


def current(uri: str) -> tuple[bytes, str] | None:
    """Content and version of the file, None if there is none. Raises StorageError where it cannot be read."""
    filesystem, path = resolve(uri)
    with _usable(uri, "read"):
        if is_s3(uri):
            return filesystem.get_with_etag(path)
        return _read_local(Path(path)) if is_local(filesystem) else _read_other(filesystem, path)


def swap(uri: str, data: bytes, version: str | None) -> str | None:
    """Write `data` if the file still has this version, or with None: only if there is none.

    Returns the new version, or None if the condition failed. Folders above the file are made. Raises StorageError
    where it cannot be written; it may then have been written or not.
    """
    filesystem, path = resolve(uri)
    with _usable(uri, "written"):
        if is_s3(uri):
            return filesystem.put_if(path, data, etag=version)
        if is_local(filesystem):
            return _swap_local(Path(path), data, version)
        return _swap_other(filesystem, path, data, version)


def remove(uri: str, version: str) -> bool:
    """Delete the file if it still has this version; whether it had.

    On S3 the store decides where it supports conditional deletes; where it does not, and on stores other than S3 and
    local disks, somebody may write between the look and the deletion. Raises StorageError as `swap` does.
    """
    filesystem, path = resolve(uri)
    with _usable(uri, "removed"):
        if is_s3(uri):
            return filesystem.delete_if(path, version)
        if is_local(filesystem):
            return _remove_local(Path(path), version)
        there = _read_other(filesystem, path)
        if there is None or there[1] != version:
            return False
        retried(lambda: filesystem.rm_file(path))
        return True


@contextlib.contextmanager
def _usable(uri: str, what: str) -> Iterator[None]:
    """Errors of the system with the file's name, the reason and what to do; storage's own say that already."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        where = f" ({error.filename})" if error.filename is not None else ""
        raise StorageError(
            f"{uri} cannot be {what}: {error.strerror or error}{where}; give a place where you may create files"
        ) from error


# -- local disk ----------------------------------------------------------------------------------------------------


def _read_local(path: Path) -> tuple[bytes, str] | None:
    try:
        data = read_regular(path, most=MOST_BYTES)
    except FileNotFoundError:
        return None
    except DocumentError as error:
        raise StorageError(f"{path} cannot be used: {error}; remove it") from error
    return data, _digest(data)


def _swap_local(path: Path, data: bytes, version: str | None) -> str | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _guarded(path):
        there = _read_local(path)
        if (None if there is None else there[1]) != version:
            return None
        Storage(path.parent).write_bytes(path.name, data)
    return _digest(data)


def _remove_local(path: Path, version: str) -> bool:
    if not path.exists():
        return False
    with _guarded(path):
        there = _read_local(path)
        if there is None or there[1] != version:
            return False
        path.unlink()
    return True


@contextlib.contextmanager
def _guarded(path: Path) -> Iterator[None]:
    """The only process that reads and writes `path` for a moment; its guard goes when the file is gone.

    Another file than `path` itself, since every write puts a new file in its place.
    """
    import fcntl  # not on every system that icce_ray can be imported on

    guard = path.with_name(f".{path.name}.guard.tmp")
    while True:
        descriptor = os.open(guard, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not _is_still(guard, descriptor):
                continue  # its holder removed it: later processes lock another file
            try:
                yield
            finally:
                if not path.exists():
                    guard.unlink()
            return
        finally:
            os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


# -- other stores --------------------------------------------------------------------------------------------------


def _read_other(store: Store, path: str) -> tuple[bytes, str] | None:
    end = time.monotonic() + SETTLE
    try:
        # A store that is no object store shows a file, empty, as soon as somebody begins to write it.
        while not (data := retried(lambda: store.cat_file(path))) and time.monotonic() < end:
            time.sleep(SETTLE / 20)
    except FileNotFoundError:
        return None
    return data, _digest(data)


def _swap_other(store: Store, path: str, data: bytes, version: str | None) -> str | None:
    there = _read_other(store, path)
    if (None if there is None else there[1]) != version:
        return None
    if version is None:
        store.makedirs(path.rsplit("/", 1)[0], exist_ok=True)  # some stores have real folders
        # Google's and Azure's stores see to it themselves that only one creates it. What stands then shows whose it is.
        with contextlib.suppress(FileExistsError):
            retried(lambda: store.pipe_file(path, data, mode="create"))
    else:
        retried(lambda: store.pipe_file(path, data))
    time.sleep(SETTLE)
    there = _read_other(store, path)
    return _digest(data) if there is not None and there[0] == data else None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
