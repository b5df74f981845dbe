"""What an S3 store's refusal means and what to do about it."""

from __future__ import annotations

from typing import Any

from icce_ray.io.locations import StorageError
from icce_ray.io.uris import s3_location

_KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or an instance role"
#: What an S3 store's error code means and what to do about it.
_REASONS = {
    "InvalidAccessKeyId": f"the store does not know the access key; {_KEYS}",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key; set AWS_SECRET_ACCESS_KEY to its own",
    "ExpiredToken": "the session token has expired; log in again, or renew AWS_SESSION_TOKEN with both keys",
    "InvalidToken": "the session token is not valid; renew AWS_SESSION_TOKEN, or unset it for long-lived keys",
    "NoSuchBucket": "there is no such bucket; create it, or correct its name, region or endpoint",
    "404": "there is no such bucket, or what answers there is no S3 store; correct the bucket or endpoint_override",
    "AccessDenied": "access is denied to these credentials; grant {needs}, or use others",
    "RequestTimeTooSkewed": "this machine's clock differs too much from the store's; set it by NTP",
    "PermanentRedirect": "the bucket lies in another region; add ?region=... or correct it",
    "AuthorizationHeaderMalformed": "the bucket lies in another region; add ?region=... or correct it",
    "IllegalLocationConstraintException": "the bucket lies in another region; add ?region=... or correct it",
    "NotImplemented": "the store does not know conditional PUT (If-None-Match, If-Match); use one that does",
    "500": "the server failed, or what answers there is no S3 store; look at the server, or correct endpoint_override",
    "QuotaExceeded": "the store's quota is used up; free space or raise the quota",
}
_REASONS |= {"403": _REASONS["AccessDenied"], "301": _REASONS["PermanentRedirect"]}
_REASONS |= {"AllAccessDisabled": _REASONS["AccessDenied"], "ExpiredTokenException": _REASONS["ExpiredToken"]}

_READ = "s3:ListBucket and s3:GetObject"
_WRITE = "s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject"


def explain(error: Exception, uri: str, *, write: bool = True) -> StorageError:
    """An error of botocore as one that names the location, the reason and the remedy, and holds no secret."""
    place = s3_location(uri)
    where = place.options.endpoint_url or "AWS"
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        code = code_of(error)
        reason = _REASONS.get(code, f"the store answers {code or 'without a code'}")
        return StorageError(f"{uri} at {where}: {reason.format(needs=_WRITE if write else _READ)} [{code}]")
    return StorageError(f"{uri} at {where}: {_without_answer(error)}")


def _without_answer(error: Exception) -> str:
    from botocore import exceptions as known

    kinds: list[tuple[tuple[type[Exception], ...], str]] = [
        (
            (known.NoCredentialsError, known.PartialCredentialsError),
            f"no credentials found; {_KEYS} (or ?anonymous=true for a public bucket)",
        ),
        (
            (known.TokenRetrievalError, known.SSOTokenLoadError, known.UnauthorizedSSOTokenError),
            "the login of the AWS profile has expired; run `aws sso login` again",
        ),
        (
            (known.ProfileNotFound, known.CredentialRetrievalError, known.ConfigParseError),
            f"the AWS profile cannot be used; correct AWS_PROFILE, or {_KEYS}",
        ),
        (
            (known.SSLError,),
            "the server's TLS certificate is not trusted; give its CA as ?tls_ca_file_path=, or ?scheme=http",
        ),
        (
            (known.ParamValidationError,),
            "bucket or key are not valid names; a bucket has 3 to 63 letters, digits, dots and hyphens",
        ),
        (
            (known.HTTPClientError, known.EndpointConnectionError),
            "the endpoint cannot be reached; look at the network and endpoint_override, or start the store",
        ),
    ]
    for kind, reason in kinds:
        if isinstance(error, kind):
            return f"{reason} [{type(error).__name__}]"
    return f"the endpoint does not answer as an S3 store does; correct endpoint_override [{type(error).__name__}]"


def code_of(error: Any) -> str:
    """The store's own word for what is wrong, such as AccessDenied, in a ClientError of botocore."""
    return str(error.response.get("Error", {}).get("Code", ""))
