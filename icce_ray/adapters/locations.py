"""Where things lie: a URI to a pyarrow filesystem and a path in it, and when to ask a store a second time."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

T = TypeVar("T")

_ATTEMPTS = 5
# What object stores answer when the same request is worth sending again. Arrow's own client repeats a
# refused request a few times, but not a body that was cut on its way.
_TRANSIENT = re.compile(
    r"SLOW_?DOWN|SERVICE_UNAVAILABLE|THROTTL|NETWORK_CONNECTION|INTERNAL_FAILURE|REQUEST_TIMEOUT"
    r"|HTTP status (429|5\d\d)|timed? ?out|connection (reset|closed)|unexpected end",
    re.IGNORECASE,
)


class StorageError(OSError):
    """A file or a location that storage cannot serve; the message names it, the reason and the remedy."""


class LocationError(ValueError):
    """A location that nothing can be stored at or read from, whatever the store says."""


@lru_cache(maxsize=64)
def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """The pyarrow filesystem of `uri` and the path inside it.

    A plain path (`~` and relative ones included) is a local one and may hold any character. Cached, since an
    S3 client costs a look-up of the bucket's region.

    Raises LocationError for an unknown scheme, a malformed URI, or credentials inside the URI, StorageError
    where the store cannot be reached.
    """
    if not uri:
        raise LocationError("the location is empty; give a local path, file://, s3:// or gs:// URI")
    if "://" not in uri:
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    if "@" in urlsplit(uri).netloc:
        # The message leaves the URI out on purpose: it would carry the secret into logs.
        raise LocationError(
            "the URI holds credentials (user:secret@...), which would end up in run.yaml and in logs; leave "
            "them to the provider's chain (environment variables, profile or instance role)"
        )
    try:
        return pafs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, ImportError, ValueError) as error:
        raise LocationError(
            f"{uri!r} is no location that pyarrow resolves: {error}; use a local path, file://, s3://, "
            "gs:// or fsspec+PROTOCOL://, with special characters percent-encoded"
        ) from error
    except OSError as error:
        raise StorageError(f"{uri!r} cannot be reached: {error}") from error


def is_local(filesystem: pafs.FileSystem) -> bool:
    """Whether the files lie on a disk of this machine."""
    return isinstance(filesystem, pafs.LocalFileSystem)


def retried(call: Callable[[], T]) -> T:
    """`call()`, up to five times (0.1 s apart, doubling) while a store answers with an error that passes.

    Only for calls that may run twice. FileNotFoundError and errors that are not transient pass at once.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return call()
        except OSError as error:
            last = attempt == _ATTEMPTS - 1
            if last or isinstance(error, FileNotFoundError) or not _TRANSIENT.search(str(error)):
                raise
        time.sleep(0.1 * 2**attempt)
    raise AssertionError("unreachable")


def child(path: str) -> str:
    """`path` if it names something below a root; ValueError if absolute, empty, or with `.` or `..` parts."""
    parts = path.split("/")
    if "\x00" in path or any(part in ("", ".", "..") for part in parts):
        raise ValueError(
            f"{path!r} is no path below a root; give a relative one such as 'features/part-000000.parquet'"
        )
    return path
