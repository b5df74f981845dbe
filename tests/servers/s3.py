"""One S3 server as tests see it: an endpoint, URIs below it and a client to look behind the scenes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.session import Session

from icce_ray.io import stores

ACCESS_KEY, SECRET_KEY = "testkey", "testsecret"
_bucket = itertools.count()
_CHECKSUMS = (("request", "calculation"), ("response", "validation"))


class S3Server:
    """A running server whose keys stand in the environment; `kind` is moto or radosgw, `gateway` the latter's own."""

    def __init__(self, kind: str, endpoint: str, gateway: Any = None) -> None:
        self.kind, self.endpoint, self.gateway = kind, endpoint, gateway
        self.port = int(endpoint.rsplit(":", 1)[1])
        checksums = {f"{name}_checksum_{what}": "when_required" for name, what in _CHECKSUMS}
        config = Config(s3={"addressing_style": "path"}, max_pool_connections=32, **checksums)
        options: Any = {"region_name": "us-east-1", "endpoint_url": f"http://{endpoint}", "config": config}
        self.client: Any = Session().create_client("s3", **options)

    def uri(self, path: str, *, port: int | None = None) -> str:
        """`bucket/key`, percent-encoded, as an s3:// URI at this server, or at a proxy's port before it."""
        endpoint = self.endpoint if port is None else f"127.0.0.1:{port}"
        return f"s3://{path}?endpoint_override={endpoint}&scheme=http"

    def bucket(self) -> str:
        """The name of a new, empty bucket."""
        name = f"bucket-{next(_bucket)}"
        self.client.create_bucket(Bucket=name)
        return name

    def filled(self, folder: Path) -> str:
        """The name of a new bucket with the files of a folder under `in/`."""
        name = self.bucket()

        def put(file: Path) -> None:
            key = f"in/{file.relative_to(folder).as_posix()}"
            self.client.put_object(Bucket=name, Key=key, Body=file.read_bytes())

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(put, [file for file in sorted(folder.rglob("*")) if file.is_file()]))
        return name


@contextmanager
def aws_environment() -> Iterator[None]:
    """AWS_* variables with the keys of the test servers and nothing of this machine's own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        forget_clients()
        yield
    forget_clients()


def forget_clients() -> None:
    """Let the next call make new connections, with the credentials that the environment has then."""
    stores._remote.cache_clear()
    stores._s3_store.cache_clear()
