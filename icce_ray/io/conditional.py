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
from typing import cast

import pyarrow.fs as pafs
from fsspec.spec import AbstractFileSystem

from icce_ray.documents import DocumentError, read_regular
from icce_ray.io import s3
from icce_ray.io.locations import StorageError, is_local, resolve, retried
from icce_ray.io.storage import Storage

#: Seconds after a write on a store without conditional writes until it counts.
SETTLE = 2.0
#: A small file: one that is larger is none of ours.
MOST_BYTES = 1 << 20


def current(uri: str) -> tuple[bytes, str] | None:
    """Content and version of the file, None if there is none. Raises StorageError where it cannot be read."""
    if s3.is_s3(uri):
        return s3.get_with_etag(uri)
    filesystem, path = resolve(uri)
    try:
        return _read_local(Path(path)) if is_local(filesystem) else _read_other(filesystem, path)
    except OSError as error:
        raise _unusable(uri, "read", error) from error


def swap(uri: str, data: bytes, version: str | None) -> str | None:
    """Write `data` if the file still has this version, or with None: only if there is none.

    Returns the new version, or None if the condition failed. Folders above the file are made. Raises StorageError
    where it cannot be written; it may then have been written or not.
    """
    if s3.is_s3(uri):
        return s3.put_if(uri, data, etag=version)
    filesystem, path = resolve(uri)
    try:
        if is_local(filesystem):
            return _swap_local(Path(path), data, version)
        return _swap_other(filesystem, path, data, version)
    except OSError as error:
        raise _unusable(uri, "written", error) from error


def remove(uri: str, version: str) -> bool:
    """Delete the file if it still has this version; whether it had.

    On S3 the store decides where it knows conditional deletes; where it does not, and on stores other than S3 and
    local disks, somebody may write between the look and the deletion. Raises StorageError as `swap` does.
    """
    if s3.is_s3(uri):
        return _remove_s3(uri, version)
    filesystem, path = resolve(uri)
    try:
        if is_local(filesystem):
            return _remove_local(Path(path), version)
        found = _read_other(filesystem, path)
        if found is None or found[1] != version:
            return False
        retried(lambda: filesystem.delete_file(path))
    except OSError as error:
        raise _unusable(uri, "removed", error) from error
    return True


def _unusable(uri: str, what: str, error: OSError) -> OSError:
    """An error of the system with the file's name, the reason and what to do; storage's own say that already."""
    if isinstance(error, StorageError):
        return error
    where = f" ({error.filename})" if error.filename is not None else ""
    return StorageError(
        f"{uri} cannot be {what}: {error.strerror or error}{where}; give a place where you may create files"
    )


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
        found = _read_local(path)
        if (None if found is None else found[1]) != version:
            return None
        Storage(path.parent).write_bytes(path.name, data)
    return _digest(data)


def _remove_local(path: Path, version: str) -> bool:
    if not path.exists():
        return False
    with _guarded(path):
        found = _read_local(path)
        if found is None or found[1] != version:
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
                continue  # removed by the one that held it: whoever comes now locks another file
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


# -- S3 ------------------------------------------------------------------------------------------------------------


def _remove_s3(uri: str, version: str) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    found = s3.get_with_etag(uri)
    if found is None or found[1] != version:
        return False
    client, bucket, key = s3.client_of(uri)

    def delete() -> bool:
        try:
            client.delete_object(Bucket=bucket, Key=key, IfMatch=version)
        except ClientError as error:
            status = error.response["ResponseMetadata"].get("HTTPStatusCode")
            if status in (404, 409, 412):  # somebody else wrote or removed it since
                return False
            if status != 501:
                raise
            client.delete_object(Bucket=bucket, Key=key)  # the store knows no conditional delete
        return True

    try:
        return retried(delete, what=uri)
    except (ClientError, BotoCoreError) as error:
        raise s3.explain(error, uri) from error


# -- other stores --------------------------------------------------------------------------------------------------


def _read_other(filesystem: pafs.FileSystem, path: str) -> tuple[bytes, str] | None:
    store = _fsspec_store(filesystem)

    def read() -> bytes:
        if store is not None:  # one request; and fsspec's store in memory gives all readers one open file to share
            return cast(bytes, store.cat_file(path))  # without a range of bytes it never returns str
        with filesystem.open_input_file(path) as file:
            return file.read()

    end = time.monotonic() + SETTLE
    try:
        # A store that is no object store shows a file, empty, as soon as somebody begins to write it.
        while not (data := retried(read)) and time.monotonic() < end:
            time.sleep(SETTLE / 20)
    except FileNotFoundError:
        return None
    return data, _digest(data)


def _swap_other(filesystem: pafs.FileSystem, path: str, data: bytes, version: str | None) -> str | None:
    found = _read_other(filesystem, path)
    if (None if found is None else found[1]) != version:
        return None
    if version is None:
        _create(filesystem, path, data)
    else:
        retried(lambda: _write(filesystem, path, data))
    time.sleep(SETTLE)
    found = _read_other(filesystem, path)
    return _digest(data) if found is not None and found[0] == data else None


def _create(filesystem: pafs.FileSystem, path: str, data: bytes) -> None:
    """Write a file that should not be there; through fsspec Google's and Azure's stores see to it themselves."""
    store = _fsspec_store(filesystem)
    if store is None:
        retried(lambda: _write(filesystem, path, data))
        return
    filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)  # some fsspec stores have real folders
    with contextlib.suppress(FileExistsError):  # what stands then tells whose it is, another's or ours of before
        retried(lambda: store.pipe_file(path, data, mode="create"))


def _fsspec_store(filesystem: pafs.FileSystem) -> AbstractFileSystem | None:
    handler = filesystem.handler if isinstance(filesystem, pafs.PyFileSystem) else None
    # Not a class of ours, which names the errors of its library.
    return handler.fs if type(handler) is pafs.FSSpecHandler else None


def _write(filesystem: pafs.FileSystem, path: str, data: bytes) -> None:
    with filesystem.open_output_stream(path, compression=None) as file:
        file.write(data)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
