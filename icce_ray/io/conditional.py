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

Version = tuple[bytes, str]
#: Seconds after a write on a store without conditional writes until it counts.
SETTLE = 2.0
#: A small file: one that is larger is none of ours.
MOST_BYTES = 1 << 20


def current(uri: str) -> Version | None:
    """Content and version of the file, None if there is none. Raises StorageError where it cannot be read."""
    filesystem, path = resolve(uri)
    with _usable(uri, "read"):
        return filesystem.get_with_etag(path) if is_s3(uri) else _read(filesystem, path)


def swap(uri: str, data: bytes, version: str | None) -> str | None:
    """Write `data` if the file still has this version, or with None: only if there is none.

    Returns the new version, or None if the condition failed. Folders above the file are made. Raises StorageError
    where it cannot be written; it may then have been written or not.
    """
    filesystem, path = resolve(uri)
    with _usable(uri, "written"):
        if is_s3(uri):
            return filesystem.put_if(path, data, etag=version)
        if version is None or is_local(filesystem):
            filesystem.makedirs(os.path.dirname(path), exist_ok=True)  # some stores have real folders
        with _guarded(filesystem, path):
            if not _has(filesystem, path, version):
                return None
            if is_local(filesystem):
                Storage(os.path.dirname(path)).write_bytes(os.path.basename(path), data)
                return _digest(data)
            # Google's and Azure's stores see to it themselves that only one creates it; what stands then shows whose.
            mode = {"mode": "create"} if version is None else {}
            with contextlib.suppress(FileExistsError):
                retried(lambda: filesystem.pipe_file(path, data, **mode))
            time.sleep(SETTLE)
            return _digest(data) if _has(filesystem, path, _digest(data)) else None


def remove(uri: str, version: str) -> bool:
    """Delete the file if it still has this version; whether it had.

    On S3 the store decides where it supports conditional deletes; where it does not, and on stores other than S3 and
    local disks, somebody may write between the look and the deletion. Raises StorageError as `swap` does.
    """
    filesystem, path = resolve(uri)
    with _usable(uri, "removed"):
        if is_s3(uri):
            return filesystem.delete_if(path, version)
        if is_local(filesystem) and not os.path.exists(path):  # and perhaps no folder for a guard
            return False
        with _guarded(filesystem, path):
            has = _has(filesystem, path, version)
            if has:
                retried(lambda: filesystem.rm_file(path))
            return has


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


def _read(filesystem: Store, path: str) -> Version | None:
    end = time.monotonic() + SETTLE
    try:
        if is_local(filesystem):
            data = read_regular(path, most=MOST_BYTES)
        else:
            # A store that is no object store shows a file, empty, as soon as somebody begins to write it.
            while not (data := retried(lambda: filesystem.cat_file(path))) and time.monotonic() < end:
                time.sleep(SETTLE / 20)
    except FileNotFoundError:
        return None
    except DocumentError as error:
        raise StorageError(f"{path} cannot be used: {error}; remove it") from error
    return data, _digest(data)


def _has(filesystem: Store, path: str, version: str | None) -> bool:
    there = _read(filesystem, path)
    return (None if there is None else there[1]) == version


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def _guarded(filesystem: Store, path: str) -> Iterator[None]:
    """On a local disk: the only process that reads and writes `path` for a moment.

    The guard is another file, since every write puts a new one in the place of `path`, and goes when that is gone.
    """
    if not is_local(filesystem):
        yield
        return
    import fcntl  # not on every system that icce_ray can be imported on

    guard = Path(path).with_name(f".{os.path.basename(path)}.guard.tmp")
    while True:
        descriptor = os.open(guard, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not _is_still(guard, descriptor):
                continue  # its holder removed it: later processes lock another file
            try:
                yield
            finally:
                if not os.path.exists(path):
                    guard.unlink()
            return
        finally:
            os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
