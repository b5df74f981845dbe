"""Files of web servers, for reading: fsspec's HTTP without its habit of taking every failure for a missing file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from icce_ray.adapters.locations import StorageError

_BLOCK = 4 << 20


class WebHandler(pafs.FSSpecHandler):
    """Paths are whole URLs. FileNotFoundError for 404 and 410, PermissionError for 401 and 403, StorageError else."""

    def __init__(self) -> None:
        import aiohttp
        from fsspec.implementations.http import HTTPFileSystem

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
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
            if size and file.r.headers.get("Accept-Ranges") == "bytes":
                common = {"loop": self.fs.loop, "session": file.session, "block_size": _BLOCK, "size": size}
                return pa.PythonFile(HTTPFile(self.fs, path, **common), mode="r")
            return pa.PythonFile(io.BytesIO(file.read()), mode="r")

    def _get(self, path: str) -> Any:
        from fsspec.asyn import sync
        from fsspec.implementations.http import HTTPStreamFile

        with _told(path):
            session = sync(self.fs.loop, self.fs.set_session)
            return HTTPStreamFile(self.fs, path, loop=self.fs.loop, session=session)


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


def _size(file: Any) -> int | None:
    headers = file.r.headers
    if headers.get("Content-Encoding", "identity") != "identity":  # the length is then that of what is sent
        return None
    return int(headers["Content-Length"]) if "Content-Length" in headers else None
