"""Files of web servers, for reading: fsspec's HTTP with a deadline, bounds, and errors that say what happened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from fsspec.implementations.http import HTTPFileSystem

from icce_ray.io.locations import StorageError, TooLargeError

_BLOCK = 1 << 20
#: Seconds that a server has for its answer, and bytes for each of which it has one more second.
PATIENCE, PER_SECOND = 30.0, 100_000
_MOST_REDIRECTS = 5


class WebStore(HTTPFileSystem):
    """Paths are whole URLs. FileNotFoundError for 404 and 410, PermissionError for 401 and 403, StorageError else.

    A server has `PATIENCE` seconds and one more for each `PER_SECOND` bytes that came, then it is a transient error.
    Redirects are followed to hosts below the same name, such as www.example.com of example.com.
    """

    bounded = True  # `cat_file` takes `most`
    cachable = False

    def __init__(self) -> None:
        super().__init__(use_listings_cache=False)

    async def _cat_file(
        self, url: str, start: int | None = None, end: int | None = None, most: int | None = None, **_: Any
    ) -> bytes:
        """The body, of a range where the server supports ranges. Raises TooLargeError for more than `most` bytes."""
        fields = (
            {"Accept-Encoding": "identity", "Range": f"bytes={start}-{end - 1}"} if end and start is not None else {}
        )
        clock = asyncio.get_running_loop().time
        begin, blocks, came = clock(), [], 0
        async with self._answered(url, fields) as response:
            while True:
                left = PATIENCE + came / PER_SECOND - (clock() - begin)
                block = await asyncio.wait_for(response.content.read(_BLOCK), max(left, 0))
                if not block:
                    break
                blocks.append(block)
                came += len(block)
                if most is not None and came > most:
                    raise TooLargeError(came)
            data = b"".join(blocks)
            return data[start:end] if fields and response.status != 206 else data

    async def _info(self, url: str, **_: Any) -> dict[str, Any]:
        """Size (None where the server does not say), and whether it supports ranges."""
        async with self._answered(url, {}) as response:
            fields = response.headers
            length = fields.get("Content-Length", "")
            if fields.get("Content-Encoding", "identity") != "identity":  # the length is then that of what is sent
                length = ""
            size = int(length) if length.isascii() and length.isdigit() and len(length) < 19 else None
            ranges = fields.get("Accept-Ranges") == "bytes" and bool(size)
            return {"name": url, "type": "file", "size": size, "ranges": ranges}

    @asynccontextmanager
    async def _answered(self, url: str, fields: dict[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response of a URL and its redirects; errors of aiohttp, which are no OSError, as such."""
        try:
            session = await self.set_session()
            response = await asyncio.wait_for(_followed(session, self.encode_url(url), fields), PATIENCE)
            try:
                yield response
            finally:
                response.close()
        except aiohttp.ClientResponseError as error:
            if error.status in (404, 410):
                raise FileNotFoundError(url) from error
            if error.status in (401, 403):
                raise PermissionError(f"{url}: access is denied (HTTP status {error.status})") from error
            raise StorageError(f"{url}: HTTP status {error.status}") from error
        except aiohttp.InvalidURL as error:
            raise StorageError(f"{url} is no URL that a web server can be asked for") from error
        except aiohttp.ClientSSLError as error:
            raise StorageError(f"{url}: the server's TLS certificate is not trusted") from error
        except aiohttp.ClientError as error:
            raise ConnectionError(f"{url}: {error}") from error
        except TimeoutError as error:
            raise StorageError(f"{url}: slower than {PATIENCE:g} s and {PER_SECOND:,} bytes per second") from error


async def _followed(session: aiohttp.ClientSession, url: Any, fields: dict[str, str]) -> aiohttp.ClientResponse:
    """The response that a URL leads to. Raises StorageError for a redirect to another host."""
    limits = aiohttp.ClientTimeout(total=None, sock_connect=10)
    for _ in range(_MOST_REDIRECTS + 1):
        response = await session.get(url, allow_redirects=False, timeout=limits, headers=fields)
        response.raise_for_status()
        if "Location" not in response.headers or response.status not in (301, 302, 303, 307, 308):
            return response
        response.close()
        try:
            target = url.join(type(url)(response.headers["Location"]))
        except ValueError as error:
            raise StorageError(f"{url} redirects to what is no URL") from error
        hosts = f".{url.host}", f".{target.host}"
        if target.scheme not in ("http", "https") or not (hosts[0].endswith(hosts[1]) or hosts[1].endswith(hosts[0])):
            raise StorageError(f"{url} redirects to another host, {target.host}; give the address that it leads to")
        url = target
    raise StorageError(f"{url} redirects more than {_MOST_REDIRECTS} times")
