"""What a URI may say: no secret ever, and for S3 a bucket, a key and a short list of options."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

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
_OPTIONS = ("region", "scheme", "endpoint_override", "force_virtual_addressing", "tls_ca_file_path", "anonymous")
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._/-]*)?")
_NO_URI_CHARACTER = re.compile(r"[\s\x00-\x1f\x7f<>\"\\^`{|}]|%(?![0-9A-Fa-f]{2})")


class LocationError(ValueError):
    """A location that nothing can be stored at or read from, whatever the store says."""


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


@dataclass(frozen=True, kw_only=True)
class S3Options:
    """How to talk to one S3 store. Equal options share one client; none of them is a secret."""

    region: str | None = None
    scheme: str = "https"
    endpoint: str | None = None
    """host:port of a store that is not AWS's own."""
    virtual: bool = False
    """Bucket in the host's name even at an endpoint of one's own; at AWS always."""
    ca_file: str | None = None
    anonymous: bool = False

    @property
    def endpoint_url(self) -> str | None:
        """Such as `http://host:port`; None for AWS itself."""
        return None if self.endpoint is None else f"{self.scheme}://{self.endpoint}"


@dataclass(frozen=True, kw_only=True)
class S3Location:
    """A place in a bucket; `key` is decoded and may be empty."""

    bucket: str
    key: str
    options: S3Options = field(default_factory=S3Options)


def is_s3(uri: str) -> bool:
    """Whether `uri` is an `s3://` one."""
    return uri.startswith("s3://")


def s3_location(uri: str) -> S3Location:
    """`s3://bucket/key?option=value` taken apart; the endpoint may be AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL too.

    Raises LocationError for credentials, characters that must be percent-encoded, and unknown options.
    """
    refuse_secrets(uri)
    parts = urlsplit(uri)
    if bad := _NO_URI_CHARACTER.search(uri):
        raise LocationError(f"{uri!r} holds {bad.group()!r}; percent-encode it, as in s3://bucket/a%20b")
    if parts.scheme != "s3" or len(parts.netloc) < 3:
        raise LocationError(f"{uri!r} is not s3://BUCKET/KEY with a bucket of 3 letters or more")
    if parts.fragment or uri.endswith("#"):
        raise LocationError(f"{uri!r} holds a '#'; in a key write %23")
    return S3Location(bucket=parts.netloc, key=unquote(parts.path.removeprefix("/")), options=_options(parts.query))


def _options(query: str) -> S3Options:
    given = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(given) - set(_OPTIONS))
    if unknown:
        raise LocationError(f"unknown option {unknown} in an s3:// URI; known ones are {', '.join(_OPTIONS)}")
    named = {"endpoint_override": given.get("endpoint_override")}
    named |= {name: os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")}
    origin, endpoint = next(((name, value) for name, value in named.items() if value), ("", None))
    scheme = given.get("scheme", "https")
    if endpoint and "://" in endpoint:
        scheme, endpoint = endpoint.rstrip("/").split("://", 1)
    if endpoint and not _HOST.fullmatch(endpoint):  # not repeated: it may hold a secret
        raise LocationError(
            f"{origin} of an s3:// URI is no host:port; give HOST:PORT or http(s)://HOST:PORT, and no "
            f"credentials; {_PROVIDERS}"
        )
    if scheme not in ("http", "https"):
        raise LocationError("option scheme of an s3:// URI must be http or https")
    return S3Options(
        region=given.get("region") or None,
        scheme=scheme,
        endpoint=endpoint,
        virtual=_flag(given, "force_virtual_addressing"),
        ca_file=given.get("tls_ca_file_path") or None,
        anonymous=_flag(given, "anonymous"),
    )


def _flag(given: dict[str, str], name: str) -> bool:
    value = given.get(name, "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise LocationError(f"option {name} of an s3:// URI must be true or false")
    return value in ("true", "1")
