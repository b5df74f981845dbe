"""S3 through s3fs: errors with reason and remedy, one request a read, conditional writes, listings page by page.

Credentials come from botocore's own chain (environment, profile, instance role) and nowhere else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partialmethod
from typing import Any, NamedTuple

from aiohttp import ClientError as HttpError
from aiohttp.http_exceptions import HttpProcessingError
from botocore import exceptions as boto
from fsspec.asyn import sync
from s3fs import S3FileSystem

from icce_ray.io.locations import S3Options, StorageError, TooLargeError, UnavailableError, answer_of, retried

_log = logging.getLogger(__name__)
_sync: Any = sync  # typed as if it returned nothing

_KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or an instance role"
_LOGIN = "the login of the AWS profile has expired; run `aws sso login` again"
_PROFILE = f"the AWS profile cannot be used; correct AWS_PROFILE, or {_KEYS}"
_NO_KEYS = f"no credentials found; {_KEYS} (or ?anonymous=true for a public bucket)"
_NOBODY = "the endpoint cannot be reached; look at the network and endpoint_override, or start the store"
_REGION = "the bucket lies in another region; add ?region=... or correct it"
_DENIED = (
    "access is denied to these credentials; grant s3:ListBucket and s3:GetObject, to write also s3:PutObject and "
    "s3:DeleteObject, or use others"
)
_EXPIRED = "the session token has expired; log in again, or renew AWS_SESSION_TOKEN with both keys"
#: What an S3 store's error code means, or a client's error without an answer, and what to do about it.
_REASONS = {
    "InvalidAccessKeyId": f"the store does not know the access key; {_KEYS}",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key; set AWS_SECRET_ACCESS_KEY to its own",
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "InvalidToken": "the session token is not valid; renew AWS_SESSION_TOKEN, or unset it for long-lived keys",
    "NoSuchBucket": "there is no such bucket; create it, or correct its name, region or endpoint",
    "404": "there is no such bucket, or what answers there is no S3 store; correct the bucket or endpoint_override",
    "AccessDenied": _DENIED,
    "AllAccessDisabled": _DENIED,
    "403": _DENIED,
    "RequestTimeTooSkewed": "this machine's clock differs too much from the store's; set it by NTP",
    "PermanentRedirect": _REGION,
    "301": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "NotImplemented": "the store does not know conditional PUT (If-None-Match, If-Match); use one that does",
    "500": "the server failed, or what answers there is no S3 store; look at the server, or correct endpoint_override",
    "QuotaExceeded": "the store's quota is used up; free space or raise the quota",
    "NoCredentialsError": _NO_KEYS,
    "PartialCredentialsError": _NO_KEYS,
    "TokenRetrievalError": _LOGIN,
    "SSOTokenLoadError": _LOGIN,
    "UnauthorizedSSOTokenError": _LOGIN,
    "ProfileNotFound": _PROFILE,
    "CredentialRetrievalError": _PROFILE,
    "ConfigParseError": _PROFILE,
    "SSLError": "the server's TLS certificate is not trusted; give its CA as ?tls_ca_file_path=, or ?scheme=http",
    "ParamValidationError": "bucket or key are not valid; a bucket has 3 to 63 letters, digits, dots and hyphens",
    "HTTPClientError": _NOBODY,
    "EndpointConnectionError": _NOBODY,
    "ConnectTimeoutError": _NOBODY,
    "ClientError": _NOBODY,  # of aiohttp: those of botocore have a status
    "TimeoutError": _NOBODY,
}
#: Bytes of the parts in which a file of twice as many or more is uploaded.
_PART = 8 << 20
_CHECK_PATIENCE, _CHECK_TIMEOUT = 10.0, 8.0


def _place(path: str, name: str = "Key") -> dict[str, Any]:
    """The fields of a request that say where `bucket/key` is."""
    bucket, _, key = path.partition("/")
    return {"Bucket": bucket, name: key}


def _origin(error: Exception) -> BaseException:
    """What s3fs or botocore made an error of its own of. Not a parser's, whose `code` is no answer of the store."""
    cause = error.__cause__
    return error if cause is None or isinstance(cause, HttpProcessingError) else cause


class Page(NamedTuple):
    """One answer of a listing, 1,000 names at most: (key, bytes) and, with a delimiter, the prefixes they share."""

    objects: list[tuple[str, int]]
    prefixes: list[str]


class S3Store(S3FileSystem):
    """One S3 store. Paths are `bucket/key`; keys are taken to the letter.

    Of s3fs's methods `cat_file`, `info`, `pipe_file` and `rm_file` are used. Nothing is repeated here: `retried` does
    that, and says so. Raises FileNotFoundError for a missing object, StorageError with reason and remedy for all else.
    """

    bounded = True  # `cat_file` takes `most`
    retries = 1
    cachable = False  # fsspec would keep a store with the credentials of before

    def __init__(self, options: S3Options) -> None:
        self._at = options.endpoint_url or "AWS"
        path_style = options.endpoint_url is not None and not options.force_virtual_addressing
        config = {
            "s3": {"addressing_style": "path" if path_style else "virtual"},
            "connect_timeout": 5,
            "read_timeout": 60,
            "retries": {"mode": "standard", "total_max_attempts": 1},
            "request_checksum_calculation": "when_required",  # not every store supports the trailing checksum
            "response_checksum_validation": "when_required",
            "ignore_configured_endpoint_urls": True,  # `options` has it
            "max_pool_connections": 32,
        }
        client: dict[str, Any] = {"region_name": options.region or "us-east-1"}
        if options.tls_ca_file_path:
            client["verify"] = options.tls_ca_file_path
        super().__init__(
            anon=options.anonymous,
            endpoint_url=options.endpoint_url,
            config_kwargs=config,
            client_kwargs=client,
            use_listings_cache=False,
        )

    # -- requests ------------------------------------------------------------------------------------------------

    async def _call_s3(self, method: str, *more: Any, **request: Any) -> Any:
        try:
            return await super()._call_s3(method, *more, **request)
        except (OSError, boto.BotoCoreError, boto.ClientError, HttpError) as error:
            raise self._explained(error, method, request) from _origin(error)

    def _explained(self, error: Exception, method: str, request: dict[str, Any]) -> OSError:
        """The error with location, reason and remedy, and without a secret; FileNotFoundError for a missing object."""
        where = self._where(request)
        status, code = answer_of(_origin(error))
        of_object = method in ("get_object", "head_object") and code != "NoSuchBucket"
        if code == "NoSuchKey" or (status == 404 and of_object):
            return FileNotFoundError(f"there is no object {where}")
        if status:
            return StorageError(f"{where}: {_REASONS.get(code, f'the store answers {code or status}')} [{code}]")
        name = next((base.__name__ for base in type(error).__mro__ if base.__name__ in _REASONS), "")
        reason = _REASONS.get(name, "the endpoint does not answer as an S3 store does; correct endpoint_override")
        return StorageError(f"{where}: {reason} [{type(error).__name__}]")

    def _call(self, method: str, **request: Any) -> Any:
        """What a request answers, in the end."""
        return retried(lambda: _sync(self.loop, self._call_s3, method, **request), what=self._where(request))

    def _where(self, request: dict[str, Any]) -> str:
        return f"s3://{request.get('Bucket', '')}/{request.get('Key', request.get('Prefix', ''))} at {self._at}"

    # -- reading -------------------------------------------------------------------------------------------------

    async def _object(self, path: str, *, most: int | None = None, **request: Any) -> tuple[bytes, Any]:
        """The body of one GetObject and the answer's fields. Raises TooLargeError for more than `most` bytes."""
        place = _place(path)
        answer = await self._call_s3("get_object", **place, **request)
        body = answer["Body"]
        try:
            if most is not None and answer["ContentLength"] > most:
                raise TooLargeError(answer["ContentLength"])
            return await body.read(), answer
        except (boto.BotoCoreError, HttpError) as error:  # the body was cut
            raise self._explained(error, "get_object", place) from error
        finally:
            body.close()

    async def _cat_file(
        self,
        path: str,
        version_id: str | None = None,
        start: int | None = None,
        end: int | None = None,
        chunksize: int | None = None,
        max_concurrency: int | None = None,
        *,
        most: int | None = None,
    ) -> bytes:
        """One request, where s3fs asks for the size first; raises TooLargeError for more than `most` bytes."""
        ranged = start is not None or end is not None
        limits = {"Range": await self._process_limits(path, start, end)} if ranged else {}
        return (await self._object(path, most=most, **limits))[0]

    def get_with_etag(self, path: str) -> tuple[bytes, str] | None:
        """The whole object and its ETag (no quotes), or None if there is none."""
        try:
            data, answer = retried(lambda: _sync(self.loop, self._object, path), what=f"s3://{path} at {self._at}")
        except FileNotFoundError:
            return None
        return data, answer["ETag"].strip('"')

    def last_bytes(self, path: str, most: int) -> tuple[bytes, int]:
        """At most the last `most` bytes of the object and how many it has in all, by one request.

        For what is read from its end, such as Parquet: a small file is there at once.
        """
        try:
            data, answer = _sync(self.loop, self._object, path, Range=f"bytes=-{most}")
        except StorageError as error:
            if answer_of(error.__cause__)[0] == 416:  # a range of an object without bytes
                return b"", 0
            raise
        return data, int(answer["ContentRange"].rpartition("/")[2]) if "ContentRange" in answer else len(data)

    def pages(self, path: str, *, delimiter: str = "") -> Iterator[Page]:
        """Objects whose keys start with the key of `path`, page by page in the order of their keys' bytes.

        The key is a plain prefix (`b/run` also finds `run2/x`): end it in `/` for a folder. `delimiter="/"` lists one
        level.
        """
        request = _place(path, "Prefix") | {"Delimiter": delimiter}
        while True:
            answer = self._call("list_objects_v2", **request)
            yield Page(
                [(item["Key"], item["Size"]) for item in answer.get("Contents", ())],
                [item["Prefix"] for item in answer.get("CommonPrefixes", ())],
            )
            if not answer["IsTruncated"]:
                return
            request["ContinuationToken"] = answer["NextContinuationToken"]

    # -- writing -------------------------------------------------------------------------------------------------

    _pipe_file = partialmethod(S3FileSystem._pipe_file, chunksize=_PART)  # pyright: ignore[reportAssignmentType]

    def put_if(self, path: str, data: bytes, *, etag: str | None) -> str | None:
        """Write `data` only if the object is absent (`etag` None) or still has `etag`; its new ETag, or None if not.

        `data` should be unique to its writer: where an answer was lost and the request sent again, which aiohttp does
        by itself too, an object that holds `data` counts as written by this call.
        """
        # radosgw wants the ETag without quotes.
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        try:
            return self._call("put_object", **_place(path), Body=data, **condition)["ETag"].strip('"')
        except OSError as error:
            if not _condition_failed(error, etag):
                raise
        there = self.get_with_etag(path)
        return there[1] if there is not None and there[0] == data else None

    def delete_if(self, path: str, etag: str) -> bool:
        """Delete the object if it still has `etag`; whether it had. Not atomic where the store cannot."""
        there = self.get_with_etag(path)
        if there is None or there[1] != etag:
            return False
        try:
            self._call("delete_object", **_place(path), IfMatch=etag)
        except OSError as error:
            if _condition_failed(error, etag):  # somebody else wrote or removed it since
                return False
            if answer_of(error.__cause__)[0] != 501:
                raise
            self._call("delete_object", **_place(path))  # this store does not support the condition
        return True

    def abort_uploads(self, path: str) -> int:
        """Abort the unfinished multipart uploads below the key of `path`, which a killed writer leaves to be paid for.

        Returns how many. A store or a policy that does not let them be listed or aborted is no failure: they are left,
        a warning is logged with the reason, and the bucket's lifecycle rule has to remove them.
        """
        place, count, marker = _place(path, "Prefix"), 0, {}
        try:
            while True:
                answer = self._call("list_multipart_uploads", **place, **marker)
                for item in answer.get("Uploads", ()):
                    self._abort(Bucket=place["Bucket"], Key=item["Key"], UploadId=item["UploadId"])
                    count += 1
                if not answer.get("IsTruncated"):
                    return count
                marker = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}
        except UnavailableError:
            raise
        except StorageError as error:
            _log.warning("unfinished uploads are left where they are: %s", error)
            return count

    def _abort(self, **upload: str) -> None:
        try:
            self._call("abort_multipart_upload", **upload)
        except StorageError as error:
            if answer_of(error.__cause__)[1] != "NoSuchUpload":  # finished or aborted meanwhile
                raise

    def check_access(self, path: str) -> None:
        """One listing of at most one object, answered within 30 s: StorageError with reason and remedy if it fails.

        It shows whether the endpoint, the keys, the bucket and the listing are in order. Whether writing is allowed,
        the first write shows.
        """
        request = _place(path, "Prefix") | {"MaxKeys": 1}

        def listed() -> None:
            try:
                _sync(self.loop, self._call_s3, "list_objects_v2", timeout=_CHECK_TIMEOUT, **request)
            except TimeoutError as error:
                raise self._explained(error, "list_objects_v2", request) from error

        retried(listed, patience=_CHECK_PATIENCE, what=f"s3://{path} at {self._at}")


def _condition_failed(error: OSError, etag: str | None) -> bool:
    status, code = answer_of(error.__cause__)
    # 409: two conditional writes at once. 404: If-Match on an object that is gone.
    return status == 412 or code == "ConditionalRequestConflict" or (etag is not None and status == 404)
