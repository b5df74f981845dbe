"""Files of web servers, for reading: fsspec's HTTP without its habit of taking every failure for a missing file."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from icce_ray.io.locations import StorageError

_BLOCK = 4 << 20
#: Seconds that a server has for its answer, and bytes for each of which it has a second more.
PATIENCE, PER_SECOND = 30.0, 100_000
_MOST_REDIRECTS = 5


class WebHandler(pafs.FSSpecHandler):
    """Paths are whole URLs. FileNotFoundError for 404 and 410, PermissionError for 401 and 403, StorageError else.

    A server has `PATIENCE` seconds and a second more for each `PER_SECOND` bytes that came, then it is a TimeoutError.
    Redirects are followed to hosts below the same name, such as www.example.com of example.com.
    """

    def __init__(self) -> None:
        import aiohttp
        from fsspec.implementations.http import HTTPFileSystem

        timeout = aiohttp.ClientTimeout(total=300, sock_connect=10, sock_read=60)
        super().__init__(HTTPFileSystem(client_kwargs={"timeout": timeout}))

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        """Type and size, None where the server does not tell one."""
        infos = []
        for path in paths:
            try:
                with self._get(path) as file:
                    infos.append(pafs.FileInfo(path, pafs.FileType.File, size=_size(file)))
            except FileNotFoundError:
                infos.append(pafs.FileInfo(path, pafs.FileType.NotFound))
        return infos

    def open_input_stream(self, path: str) -> pa.PythonFile:
        """The body as it comes."""
        return pa.PythonFile(self._get(path), mode="r")

    def open_input_file(self, path: str) -> pa.PythonFile:
        """Blocks on demand where the server knows ranges, else the whole file in memory."""
        from fsspec.implementations.http import HTTPFile

        with self._get(path) as file:
            size = _size(file)
            if size and file.response.headers.get("Accept-Ranges") == "bytes":
                common = {"loop": self.fs.loop, "session": self.fs._session, "block_size": _BLOCK, "size": size}
                return pa.PythonFile(HTTPFile(self.fs, str(file.response.url), **common), mode="r")
            return pa.PythonFile(io.BytesIO(b"".join(iter(lambda: file.read(_BLOCK), b""))), mode="r")

    def _get(self, path: str) -> _Body:
        from fsspec.asyn import sync

        begin = time.monotonic()
        with _told(path):
            session = sync(self.fs.loop, self.fs.set_session)
            url = self.fs.encode_url(path)
            response = sync(self.fs.loop, _answer, session, url, timeout=PATIENCE)
            return _Body(path, response, self.fs.loop, begin)


async def _answer(session: Any, url: Any) -> Any:
    """The response that a URL leads to. Raises StorageError for a redirect to another host."""
    import aiohttp

    limits = aiohttp.ClientTimeout(total=None, sock_connect=10)
    for _ in range(_MOST_REDIRECTS + 1):
        response = await session.get(url, allow_redirects=False, timeout=limits)
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


class _Body(io.RawIOBase):
    """The body of a response, while it comes fast enough."""

    def __init__(self, url: str, response: Any, loop: Any, begin: float) -> None:
        super().__init__()
        self.response = response
        self._url, self._loop, self._begin, self._came = url, loop, begin, 0

    def readable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Bytes that came."""
        return self._came

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes, as many as are there. Raises TimeoutError."""
        from fsspec.asyn import sync

        left = PATIENCE + self._came / PER_SECOND - (time.monotonic() - self._begin)
        with _told(self._url):
            if left <= 0:
                raise TimeoutError
            data: bytes = sync(self._loop, self.response.content.read, size, timeout=left) or b""
        self._came += len(data)
        return data

    def close(self) -> None:
        """Close the connection too."""
        if not self.closed:
            self._loop.call_soon_threadsafe(self.response.close)
        super().close()


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Errors of aiohttp, which are no OSError, as such."""
    import aiohttp

    try:
        yield
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
        raise TimeoutError(f"{url}: slower than {PATIENCE:g} s and {PER_SECOND:,} bytes per second") from error


def _size(file: _Body) -> int | None:
    headers = file.response.headers
    if headers.get("Content-Encoding", "identity") != "identity":  # the length is then that of what is sent
        return None
    length = headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 19 else None
