"""What Arrow's S3 client cannot do: conditional puts, paged listings, dangling uploads, a check of the access.

Credentials come from botocore's own chain (environment, profile, instance role) and nowhere else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from icce_ray.io.locations import StorageError, UnavailableError, retried
from icce_ray.io.s3_errors import code_of, explain
from icce_ray.io.uris import S3Options, is_s3, s3_location

if TYPE_CHECKING:
    from botocore.client import BaseClient

__all__ = ["Page", "abort_uploads", "check_access", "client_of", "explain", "get_with_etag", "is_s3", "list_pages"]
__all__ += ["get_tail", "put_if"]

_log = logging.getLogger(__name__)

_PATIENT = {"connect_timeout": 5, "read_timeout": 60, "retries": {"mode": "standard", "total_max_attempts": 1}}
_QUICK = {"connect_timeout": 3, "read_timeout": 8, "retries": {"mode": "standard", "total_max_attempts": 1}}
_CHECK_PATIENCE = 10.0


class Object(NamedTuple):
    """One object of a listing; `etag` without quotes."""

    key: str
    size: int
    etag: str


class Page(NamedTuple):
    """One answer of the store, 1,000 names at most: objects and, with a delimiter, the prefixes they share."""

    objects: list[Object]
    prefixes: list[str]


def client_of(uri: str) -> tuple[BaseClient, str, str]:
    """A botocore S3 client for `uri` (one a process for equal options), the bucket and the decoded key.

    Raises LocationError for a malformed URI, StorageError where the machine's own AWS settings are broken.
    """
    place = s3_location(uri)
    return _call(uri, lambda: _client(place.options, quick=False)), place.bucket, place.key


def list_pages(uri: str, *, delimiter: str | None = None, start_after: str = "") -> Iterator[Page]:
    """Objects whose keys start with the key of `uri`, page by page in the order of their keys' bytes.

    The key is a plain prefix (`s3://b/run` also finds `run2/x`): end it in `/` for a folder. `delimiter="/"`
    lists one level. `start_after` begins behind that key. Raises StorageError as `check_access` does.
    """
    client, bucket, prefix = client_of(uri)
    request: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix}
    if delimiter is not None:
        request["Delimiter"] = delimiter
    if start_after:
        request["StartAfter"] = start_after
    while True:
        answer = _call(uri, lambda: client.list_objects_v2(**request))
        yield Page(
            [Object(item["Key"], item["Size"], item["ETag"].strip('"')) for item in answer.get("Contents", ())],
            [item["Prefix"] for item in answer.get("CommonPrefixes", ())],
        )
        if not answer["IsTruncated"]:
            return
        request["ContinuationToken"] = answer["NextContinuationToken"]


def put_if(uri: str, data: bytes, *, etag: str | None) -> str | None:
    """Write `data` only if the object is absent (`etag` None) or still has `etag`; its new ETag, or None if not.

    `data` should be unique to its writer: where an answer was lost and the request sent again, an object that
    holds `data` counts as written by this call. Raises StorageError, also for a store without conditional PUT.
    """
    client, bucket, key = client_of(uri)
    condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}  # radosgw wants the ETag without quotes
    sent = 0

    def put() -> str | None:
        nonlocal sent
        sent += 1
        try:
            return client.put_object(Bucket=bucket, Key=key, Body=data, **condition)["ETag"].strip('"')
        except client.exceptions.ClientError as error:
            if not _condition_failed(error, etag):
                raise
            sent += error.response["ResponseMetadata"].get("RetryAttempts", 0)
            return None

    written = _call(uri, put)
    if written is None and sent > 1:  # an earlier attempt may have arrived although its answer did not
        there = get_with_etag(uri)
        if there is not None and there[0] == data:
            return there[1]
    return written


def _condition_failed(error: Any, etag: str | None) -> bool:
    code, status = code_of(error), error.response["ResponseMetadata"].get("HTTPStatusCode")
    # 409: two conditional writes at once. 404: If-Match on an object that is gone.
    return status == 412 or code == "ConditionalRequestConflict" or (etag is not None and code == "NoSuchKey")


def get_with_etag(uri: str) -> tuple[bytes, str] | None:
    """The whole object and its ETag (no quotes), or None if there is none. Raises StorageError."""
    found = _get(uri)
    return None if found is None else (found[0], found[1]["ETag"].strip('"'))


def get_tail(uri: str, most: int) -> tuple[bytes, int] | None:
    """At most the last `most` bytes of the object and how many it has in all, by one request; None if there is none.

    For what is read from its end, such as Parquet: a small file is there at once. Raises StorageError.
    """
    found = _get(uri, Range=f"bytes=-{most}")
    if found is None:
        return None
    data, answer = found
    return data, int(answer["ContentRange"].rpartition("/")[2]) if "ContentRange" in answer else len(data)


def _get(uri: str, **options: Any) -> tuple[bytes, Any] | None:
    """The body that was asked for, and the answer's fields."""
    client, bucket, key = client_of(uri)

    def get() -> tuple[bytes, Any] | None:
        try:
            answer = client.get_object(Bucket=bucket, Key=key, **options)
        except client.exceptions.NoSuchKey:
            return None
        except client.exceptions.ClientError as error:
            status = error.response["ResponseMetadata"].get("HTTPStatusCode")
            if status == 416:  # a range of an object without bytes
                return b"", {"ETag": "", "ContentRange": "*/0"}
            if status != 404 or code_of(error) == "NoSuchBucket":
                raise
            # A 404 without its reason, as when the answer's body is cut: the listing knows whether it is the key.
            listed = client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1).get("Contents", [])
            if not listed or listed[0]["Key"] != key:
                return None
            raise ConnectionError(f"404 for {uri}, which the listing has") from error
        # Not `with answer["Body"]`: that is the bare stream, whose errors for a body that was cut botocore cannot name.
        with closing(answer["Body"]) as body:
            return body.read(), answer

    return _call(uri, get)


def abort_uploads(uri: str) -> int:
    """Abort the unfinished multipart uploads below the key of `uri`, which a killed writer leaves to be paid for.

    Returns how many. A store or a policy that does not let them be listed or aborted is no failure: they are
    left, a warning is logged with the reason, and the bucket's lifecycle rule has to remove them.
    """
    client, bucket, prefix = client_of(uri)
    pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
    try:
        uploads = _call(uri, lambda: [item for page in pages for item in page.get("Uploads", ())])
        for item in uploads:
            _call(uri, lambda item=item: _abort(client, bucket, item["Key"], item["UploadId"]))
    except UnavailableError:
        raise
    except StorageError as error:
        _log.warning("unfinished uploads are left where they are: %s", error)
        return 0
    return len(uploads)


def _abort(client: Any, bucket: str, key: str, upload: str) -> None:
    try:
        client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
    except client.exceptions.NoSuchUpload:  # finished or aborted meanwhile
        return


def check_access(uri: str, *, write: bool = False) -> None:
    """One listing of at most one object, answered within 30 s: StorageError with reason and remedy if it fails.

    It shows whether the endpoint, the keys, the bucket and the listing are in order. `write` only names the
    permissions that writing needs too: whether it is allowed, the first write tells (see `explain`).
    """
    place = s3_location(uri)
    client = _call(uri, lambda: _client(place.options, quick=True))
    request = {"Bucket": place.bucket, "Prefix": place.key, "MaxKeys": 1}
    _call(uri, lambda: client.list_objects_v2(**request), patience=_CHECK_PATIENCE, write=write)


def _call(uri: str, call: Callable[[], Any], *, patience: float = 60.0, write: bool = True) -> Any:
    """`call()` with patience, its errors explained."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return retried(call, patience=patience, what=uri)
    except UnavailableError as error:
        if error.__cause__ is None or not isinstance(error.__cause__, Exception):
            raise
        raise UnavailableError(f"{explain(error.__cause__, uri, write=write)} ({error})") from error.__cause__
    except (ClientError, BotoCoreError) as error:
        raise explain(error, uri, write=write) from error


@lru_cache(maxsize=64)
def _client(options: S3Options, *, quick: bool) -> Any:
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.session import Session

    path_style = options.endpoint is not None and not options.virtual
    config = Config(
        s3={"addressing_style": "path" if path_style else "virtual"},
        request_checksum_calculation="when_required",  # stores other than AWS may not know the trailing checksum
        response_checksum_validation="when_required",
        ignore_configured_endpoint_urls=True,  # `options` has it, so that Arrow and botocore ask the same server
        max_pool_connections=32,
        **({"signature_version": UNSIGNED} if options.anonymous else {}),
        **(_QUICK if quick else _PATIENT),
    )
    return Session().create_client(
        "s3",
        region_name=options.region or "us-east-1",
        endpoint_url=options.endpoint_url,
        verify=options.ca_file,
        config=config,
    )
