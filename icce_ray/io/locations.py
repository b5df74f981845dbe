"""Where things lie: a URI to a pyarrow filesystem and a path in it, and when to ask a store a second time."""

from __future__ import annotations

import logging
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from icce_ray.io.filenames import to_text
from icce_ray.io.uris import LocationError, S3Options, refuse_secrets, s3_location

__all__ = [
    "LocationError",
    "StorageError",
    "UnavailableError",
    "check_writable",
    "child",
    "is_local",
    "refuse_secrets",
    "resolve",
]
__all__ += ["is_transient", "retried"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_LONGEST_PAUSE = 5.0
#: Seconds after which whoever waits for a store is told so, and then every so many.
SAY_AFTER, SAY_EVERY = 5.0, 15.0
# What object stores answer when the same request is worth sending again. Arrow's own client repeats a
# refused request a few times, but not a body that was cut on its way.
_TRANSIENT = re.compile(
    r"SLOW_?DOWN|SERVICE_UNAVAILABLE|THROTTL|NETWORK_CONNECTION|INTERNAL_FAILURE|REQUEST_?TIMEOUT"
    r"|HTTP status (429|50[02-9]|51\d|52\d)|UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|Server ?Busy"
    r"|reduce your request rate|timed? ?out|connection (reset|closed|aborted|refused)",
    re.IGNORECASE,
)
# A certificate that is not trusted (60) or a CA file that cannot be read (77) is that the next time too.
_LASTING = re.compile(r"curlCode: (60|77)\b")
#: Libraries with errors that are no OSError, and the errors that pass, by their names: so neither need be imported to
#: know them, and none is looked at while another thread still imports it.
_LIBRARIES = ("botocore", "aiohttp")
_TRANSIENT_NAMES = frozenset(
    [
        "EndpointConnectionError",
        "ConnectTimeoutError",
        "ReadTimeoutError",
        "ConnectionClosedError",
        "IncompleteReadError",
        "ResponseStreamingError",
        "ProxyConnectionError",
        "ServerDisconnectedError",
        "ServerTimeoutError",
        "ClientPayloadError",
        "ClientConnectorError",
        "ClientConnectorDNSError",
        "ClientOSError",
        "ConnectionTimeoutError",
        "SocketTimeoutError",
    ]
)


class StorageError(OSError):
    """A file or a location that storage cannot serve; the message names it, the reason and the remedy."""


class UnavailableError(StorageError):
    """A store that did not answer for longer than anyone waits; the same command resumes later."""


def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """The pyarrow filesystem of `uri` and the path inside it.

    A plain path (`~` and relative ones included) is a local one and may hold any character. `s3://` takes the
    options of `s3_location` in its query, `az://` needs adlfs, `http(s)://` can only be read, and
    `fsspec+PROTOCOL://` is whatever fsspec knows. URIs are cached, and S3 stores with equal options share a client.

    Raises LocationError for an unknown scheme, a malformed URI, or credentials inside the URI, StorageError
    where the store cannot be reached.
    """
    if not uri:
        raise LocationError("the location is empty; give a local path, file://, s3:// or gs:// URI")
    refuse_secrets(uri)
    if "://" not in uri:
        path = os.path.abspath(os.path.expanduser(uri))
        if any("\ud800" <= letter <= "\udfff" for letter in path):
            raise LocationError(f"the path '{to_text(path)}' is not UTF-8; rename it, or give a link to it")
        return pafs.LocalFileSystem(), path  # not cached: the working directory may change
    return _remote(uri)


@lru_cache(maxsize=64)
def _remote(uri: str) -> tuple[pafs.FileSystem, str]:
    scheme = uri.split("://", 1)[0]
    if scheme == "s3":
        return _s3(uri)
    if scheme == "az":
        return _azure(uri)
    if scheme in ("http", "https"):
        return _http(), uri
    if scheme == "gs" and "retry_limit_seconds=" not in uri:  # Arrow's own limit is 15 minutes
        uri += ("&" if "?" in uri else "?") + "retry_limit_seconds=15"
    try:
        return pafs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, ImportError, ValueError) as error:
        raise LocationError(
            f"{uri!r} is no location that pyarrow resolves: {error}; use a local path, file://, s3://, gs://, az://, "
            "abfs://, http(s):// or fsspec+PROTOCOL://, with special characters percent-encoded"
        ) from error
    except OSError as error:
        raise StorageError(f"{uri!r} cannot be reached: {error}") from error


def check_writable(uri: str) -> None:
    """Raise LocationError for a location that nobody can write to, whatever the server says."""
    if uri.startswith(("http://", "https://")):
        raise LocationError(f"{uri} can only be read; give a local path, or an s3://, gs:// or az:// URI")


def _s3(uri: str) -> tuple[pafs.FileSystem, str]:
    place = s3_location(uri)
    options = place.options
    if options.region is None:
        # Only AWS itself has regions that differ by bucket; other stores take any name.
        options = replace(options, region="us-east-1" if options.endpoint else _region(place.bucket))
    return _s3_filesystem(options), f"{place.bucket}/{place.key}".rstrip("/")


@lru_cache(maxsize=256)
def _region(bucket: str) -> str:
    def ask() -> str:
        return pafs.resolve_s3_region(bucket)

    try:
        return retried(ask, patience=10, what=f"the region of s3://{bucket}")
    except UnavailableError:
        raise
    except OSError as error:
        raise StorageError(
            f"the region of s3://{bucket} is not to be found: {error}; correct the bucket's name, or give "
            "?region=..., or ?endpoint_override=host:port for a store that is not AWS"
        ) from error


@lru_cache(maxsize=64)
def _s3_filesystem(options: S3Options) -> pafs.FileSystem:
    more = {}
    if options.endpoint:
        # Before the client is made: by default Arrow's sends a checksum as a trailer, without a length, which stores
        # other than AWS refuse (HTTP 411).
        os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
        more["endpoint_override"] = options.endpoint
    if options.ca_file:
        more["tls_ca_file_path"] = options.ca_file
    return pafs.S3FileSystem(
        region=options.region,
        scheme=options.scheme,
        anonymous=options.anonymous,
        force_virtual_addressing=options.virtual,
        # A file below the part size is then one PutObject: there or not, and no upload left unfinished.
        allow_delayed_open=True,
        # Readers that nobody can start again, such as Ray's, live on these; `retried` waits longer.
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=5),
        connect_timeout=5,
        request_timeout=60,  # the default of 3 s is less than some stores take to begin a multipart upload
        **more,
    )


def _azure(uri: str) -> tuple[pafs.FileSystem, str]:
    try:
        import adlfs  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise LocationError("an az:// location needs the package adlfs; pip install adlfs") from error
    parts = urlsplit(uri)
    options = dict(parse_qsl(parts.query))
    if unknown := sorted(set(options) - {"account_name"}):
        raise LocationError(f"unknown option {unknown} in an az:// URI; the known one is account_name")
    handler = pafs.FSSpecHandler(adlfs.AzureBlobFileSystem(**options))
    return pafs.PyFileSystem(handler), f"{parts.netloc}{unquote(parts.path)}".rstrip("/")


@lru_cache(maxsize=1)
def _http() -> pafs.FileSystem:
    from icce_ray.io.web import WebHandler

    return pafs.PyFileSystem(WebHandler())


def is_local(filesystem: pafs.FileSystem) -> bool:
    """Whether the files lie on a disk of this machine."""
    return isinstance(filesystem, pafs.LocalFileSystem)


def retried(call: Callable[[], T], *, patience: float = 60.0, what: str = "the store") -> T:
    """`call()`, again and again until `patience` seconds have passed while a store answers with errors that pass.

    Waits 0.1 s, then twice as long each time up to 5 s, with jitter. Only for calls that may run twice.
    Errors that do not pass (missing, access denied, wrong key) are raised at once.

    Raises UnavailableError, its cause the last error, once the patience is over.
    """
    begin = time.monotonic()
    attempt, say_at = 0, SAY_AFTER
    while True:
        try:
            return call()
        except Exception as error:
            if not (isinstance(error, OSError) or _of_library(error)) or not is_transient(error):
                raise
            attempt += 1
            spent = time.monotonic() - begin
            pause = min(_LONGEST_PAUSE, 0.1 * 2 ** min(attempt - 1, 10)) * random.uniform(0.5, 1.0)
            if spent + pause > patience:
                raise UnavailableError(
                    f"{what} did not answer: tried {attempt} times over {spent:.0f} s, last error: {error}; once it "
                    "is up again, the same command resumes"
                ) from error
            if spent >= say_at:
                say_at = spent + SAY_EVERY
                _log.warning("waiting for %s: tried %d times in %.0f s, until %.0f s", what, attempt, spent, patience)
        time.sleep(pause)


def is_transient(error: BaseException) -> bool:
    """Whether the same request is worth sending again: the store is busy, restarting or out of reach for a moment."""
    if isinstance(error, (UnavailableError, FileNotFoundError, PermissionError)):
        return False
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    response = getattr(error, "response", None)  # botocore's ClientError
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status == 429 or (status >= 500 and status != 501) or bool(_TRANSIENT.search(str(error)))
    status = getattr(error, "status", None)  # aiohttp's ClientResponseError
    if isinstance(status, int):
        return status == 429 or status >= 500
    if type(error).__name__ in _TRANSIENT_NAMES:
        return True
    return bool(_TRANSIENT.search(str(error))) and not _LASTING.search(str(error))


def _of_library(error: BaseException) -> bool:
    """Whether the error is one of botocore's or aiohttp's own."""
    return any(base.__module__.partition(".")[0] in _LIBRARIES for base in type(error).__mro__)


def child(path: str) -> str:
    """`path` if it names something below a root; ValueError if absolute, empty, or with `.` or `..` parts."""
    parts = path.split("/")
    if "\x00" in path or any(part in ("", ".", "..") for part in parts):
        raise ValueError(
            f"{path!r} is no path below a root; give a relative one such as 'features/part-000000.parquet'"
        )
    return path
