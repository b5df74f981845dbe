"""Locations and what may go wrong with them: no secret in a URI, the options of S3, which errors are tried again."""

from __future__ import annotations

import logging
import os
import random
import re
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import BaseModel, ValidationError

T = TypeVar("T")

_log = logging.getLogger(__name__)

_LONGEST_PAUSE = 5.0
#: Seconds of waiting for a store until a warning is logged, and between the warnings that follow.
SAY_AFTER, SAY_EVERY = 5.0, 15.0
#: Libraries of the stores: most of their errors are no OSError.
_LIBRARIES = ("aiohttp", "azure", "botocore", "gcsfs")
#: Of those errors without an HTTP status the transient ones, by name: so no library is imported to compare with.
_TRANSIENT_NAMES = frozenset(
    [
        *("ClientConnectorDNSError", "ClientConnectorError", "ClientOSError", "ClientPayloadError"),
        *("ConnectTimeoutError", "ConnectionClosedError", "ConnectionTimeoutError", "EndpointConnectionError"),
        *("IncompleteReadError", "ProxyConnectionError", "ReadTimeoutError", "ResponseStreamingError"),
        *("ServerDisconnectedError", "ServerTimeoutError", "ServiceRequestError", "ServiceResponseError"),
        "SocketTimeoutError",
    ]
)
#: Error codes of S3 that are transient whatever their HTTP status.
_TRANSIENT_CODES = ("RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "OperationAborted")

_PROVIDERS = "leave them to the provider's chain (environment variables, profile or instance role)"
_SECRET = re.compile(
    r"\w*access_?(key_?)?id|\w*secret\w*|\w*token|sig|sas|\w*signature|\w*credentials?|key_pair_id|hmac|jwt|bearer"
    r"|\w*(access|account|api|app|auth|client|function|license|master|private|service|shared|subscription)_?key"
    r"|(\w+_)?pass(phrase|code)?|\w*password|\w*passwd|\w*pwd|(\w+_)?auth|\w*authorization|\w*session_?id"
)
# Secrets whatever they are called: keys of Google, AWS, GitHub, Slack, Hugging Face, and JSON web tokens.
_SECRET_VALUE = re.compile(
    r"AIza[\w-]{20,}|A[KS]IA[A-Z0-9]{12,}|gh[a-z]_\w{20,}|xox[a-z]-.+|hf_\w{20,}|eyJ[\w-]+\.[\w.-]+"
)
# A `key` without a dot or a slash, as services number their customers: no file's name.
_OPAQUE = re.compile(r"[\w-]{24,}")
# One slash, or the wrong ones: taken for a path, it would go into every table with what stands before its `@`.
_MALFORMED = re.compile(r"(https?|s3|gs|az|abfss?|ftp):(?!//)[/\\]", re.IGNORECASE)
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._/-]*)?")
_NO_URI_CHARACTER = re.compile(r"[\s\x00-\x1f\x7f<>\"\\^`{|}]|%(?![0-9A-Fa-f]{2})")


class LocationError(ValueError):
    """A location that nothing can be stored at or read from, whatever the store says."""


class StorageError(OSError):
    """A file or a location that storage cannot serve; the message names it, the reason and the remedy."""


class SourceError(ValueError):
    """A source that is missing, unreadable, or without images."""


class UnavailableError(StorageError):
    """A store that did not answer for as long as `retried` waits; the same command resumes later."""


class TooLargeError(ValueError):
    """A file of more bytes than were asked for; `size` is how many it has at least."""

    def __init__(self, size: int) -> None:
        super().__init__(f"{size} bytes")
        self.size = size


def refuse_secrets(uri: str) -> str:
    """`uri` itself; LocationError, which does not repeat it, if it holds a credential of any kind.

    Credentials before the host and query items such as access_key, token or X-Amz-Signature are refused: the
    URI stands in a run's settings, its tables and its logs.
    """
    if _MALFORMED.match(uri):
        raise LocationError("the location has a scheme without '//'; write it as in https://host/path")
    if "://" not in uri:
        return uri
    try:
        parts = urlsplit(uri)
    except ValueError:  # such as an unclosed [
        # Not `from` the reason, which may quote a secret.
        raise LocationError("the location is no URI; its part before the path cannot be read") from None
    user = parts.netloc.rpartition("@")[0]
    # abfs://container@account and gs://anonymous@bucket are no secrets. A secret may hold a "/", which then ends the
    # host early.
    harmless = (parts.scheme in ("abfs", "abfss") and ":" not in user) or (parts.scheme, user) == ("gs", "anonymous")
    bucket_with_port = parts.scheme in ("s3", "gs") and ":" in parts.netloc
    if bucket_with_port or (user and not harmless):
        raise LocationError(f"the URI holds credentials (user:secret@...), which would end up in logs; {_PROVIDERS}")
    for name, value in parse_qsl(parts.query, keep_blank_values=True) + parse_qsl(parts.fragment):
        plain = name.lower().replace("-", "_")
        if _SECRET_VALUE.fullmatch(value) or (plain == "key" and _OPAQUE.fullmatch(value)):
            raise LocationError(f"the URI's query holds a key by its looks, which would end up in logs; {_PROVIDERS}")
        if _SECRET.fullmatch(plain) or (name == "endpoint_override" and "@" in value):
            # Only names of the list are shown, and none of them is a secret itself.
            raise LocationError(
                f"the URI's query holds credentials ({name}=...), which would end up in logs; {_PROVIDERS}"
            )
    return uri


class S3Options(BaseModel, frozen=True, extra="forbid"):
    """How to talk to one S3 store, as a URI's query names it. Equal options share one client; none is a secret."""

    region: str | None = None
    scheme: Literal["http", "https"] = "https"
    endpoint_override: str | None = None
    """host:port of a store that is not AWS's own."""
    force_virtual_addressing: bool = False
    """Bucket in the host's name even at an endpoint of one's own; at AWS always."""
    tls_ca_file_path: str | None = None
    anonymous: bool = False

    @property
    def endpoint_url(self) -> str | None:
        """Such as `http://host:port`; None for AWS itself."""
        return self.endpoint_override and f"{self.scheme}://{self.endpoint_override}"


def is_s3(uri: str) -> bool:
    """Whether `uri` is an `s3://` one."""
    return uri.startswith("s3://")


def s3_location(uri: str) -> tuple[str, S3Options]:
    """(bucket/key, decoded; options) of `s3://bucket/key?option=value`.

    The endpoint may be AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL too. Raises LocationError for credentials, characters
    that must be percent-encoded, and unknown options.
    """
    refuse_secrets(uri)
    parts = urlsplit(uri)
    if bad := _NO_URI_CHARACTER.search(uri):
        raise LocationError(f"{uri!r} holds {bad.group()!r}; percent-encode it, as in s3://bucket/a%20b")
    if parts.scheme != "s3" or len(parts.netloc) < 3:
        raise LocationError(f"{uri!r} is not s3://BUCKET/KEY with a bucket of 3 letters or more")
    if parts.fragment or uri.endswith("#"):
        raise LocationError(f"{uri!r} holds a '#'; in a key write %23")
    return f"{parts.netloc}{unquote(parts.path)}".rstrip("/"), _options(parts.query)


def _options(query: str) -> S3Options:
    given = dict(parse_qsl(query))
    named = {"endpoint_override": given.get("endpoint_override")}
    named |= {name: os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")}
    origin, endpoint = next(((name, value) for name, value in named.items() if value), ("", None))
    if endpoint and "://" in endpoint:
        given["scheme"], endpoint = endpoint.rstrip("/").split("://", 1)
    if endpoint and not _HOST.fullmatch(endpoint):  # not repeated: it may hold a secret
        raise LocationError(
            f"{origin} of an s3:// URI is no host:port; give HOST:PORT or http(s)://HOST:PORT, and no "
            f"credentials; {_PROVIDERS}"
        )
    try:
        return S3Options.model_validate(given | {"endpoint_override": endpoint})
    except ValidationError as error:
        (name, *_), problem = error.errors()[0]["loc"], error.errors()[0]["msg"]
        known = ", ".join(S3Options.model_fields)
        raise LocationError(f"option {name!r} of an s3:// URI: {problem}; the options are {known}") from None


def check_writable(uri: str) -> None:
    """Raise LocationError for a location that nobody can write to, whatever the server says."""
    if uri.startswith(("http://", "https://")):
        raise LocationError(f"{uri} can only be read; give a local path, or an s3://, gs:// or az:// URI")


def child(path: str) -> str:
    """`path` if it names something below a root; ValueError if absolute, empty, or with `.` or `..` parts."""
    if "\x00" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError(
            f"{path!r} is no path below a root; give a relative one such as 'features/part-000000.parquet'"
        )
    return path


def retried(call: Callable[[], T], *, patience: float = 60.0, what: str = "the store") -> T:
    """`call()`, repeated until `patience` seconds have passed while its errors are transient.

    Waits 0.1 s, then twice as long each time up to 5 s, with jitter; from `SAY_AFTER` seconds on a warning says so.
    Only for calls that may run twice. Other errors (missing, access denied, wrong key) are raised at once.

    Raises UnavailableError, its cause the last error, once the patience is over.
    """
    begin = time.monotonic()
    attempt, say_at = 0, SAY_AFTER
    while True:
        try:
            return call()
        except Exception as error:  # the clients' errors have no base class of their own: `is_transient` decides
            if not is_transient(error):
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
    """Whether the same request is worth repeating: the store is busy, restarting or out of reach for a moment."""
    if isinstance(error, (UnavailableError, FileNotFoundError, PermissionError)):
        return False
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    if isinstance(error, StorageError) and error.__cause__ is not None:  # such as one of botocore, explained
        return is_transient(error.__cause__)
    if not any(base.__module__.partition(".")[0] in _LIBRARIES for base in type(error).__mro__):
        return False
    status, code = answer_of(error)
    if status:
        return status == 429 or (status >= 500 and status != 501) or code in _TRANSIENT_CODES
    return type(error).__name__ in _TRANSIENT_NAMES


def answer_of(error: Any) -> tuple[int, str]:
    """HTTP status and the store's error code that an error of a client carries; 0 and "" where it has none."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's ClientError
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status, str(response.get("Error", {}).get("Code", ""))
    statuses = (getattr(error, name, None) for name in ("status", "status_code", "code"))  # aiohttp, azure, gcsfs
    return next((status for status in statuses if isinstance(status, int)), 0), ""
