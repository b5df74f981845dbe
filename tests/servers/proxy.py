"""An HTTP proxy before an object store that answers 503 and cuts bodies, by a seed or at a chosen request.

The request's head goes on unchanged, so that its signature stays valid.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from asyncio import StreamReader, StreamWriter
from collections import Counter
from collections.abc import Callable
from typing import Literal, NamedTuple

Fault = Literal["busy", "broken", "cut_up", "cut_down"]

_BODY = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>On purpose.</Message></Error>'
_ANSWERS = {"busy": (503, "SlowDown"), "broken": (500, "InternalError")}
_BLOCK = 65536


class Cut(ConnectionError):
    """The proxy itself ends the connection here."""


class Head(NamedTuple):
    """First line and fields of a request or an answer, as bytes and taken apart (names in lower case)."""

    raw: bytes
    line: list[str]
    fields: dict[str, str]

    @property
    def length(self) -> int:
        return int(self.fields.get("content-length", 0))

    @property
    def chunked(self) -> bool:
        return "chunked" in self.fields.get("transfer-encoding", "")


class FaultProxy:
    """A proxy on a free port of 127.0.0.1, in a thread of its own between `start` and `stop`.

    `busy` and `broken` are the shares of requests answered with 503 SlowDown and 500 InternalError, `cut_up` and
    `cut_down` those whose body is cut on its way to and from the store. `on_request(method, path)` is called
    before each request is passed on, in a thread where it may block, and may return the fault of this request: one
    of these, or the status and code to refuse it with. An answer without a body that is cut does not arrive at all.
    `done` counts requests, faults, and requests for which the store was `away`. All may be changed while it runs.
    """

    def __init__(
        self,
        upstream: int,
        *,
        busy: float = 0,
        broken: float = 0,
        cut_up: float = 0,
        cut_down: float = 0,
        seed: int = 0,
    ) -> None:
        self.upstream = upstream
        self.shares: dict[Fault, float] = {"busy": busy, "broken": broken, "cut_up": cut_up, "cut_down": cut_down}
        self.on_request: Callable[[str, str], Fault | tuple[int, str] | None] | None = None
        self.done: Counter[str] = Counter()
        self.port = 0
        self._random = random.Random(seed)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True, name="fault proxy")

    def start(self) -> FaultProxy:
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("the proxy did not start within 10 s")
        return self

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)

    def __enter__(self) -> FaultProxy:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=1 << 20)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # either side disconnected, which is what this proxy is for
        except asyncio.CancelledError:
            pass  # stop()
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _exchange(self, reader: StreamReader, writer: StreamWriter) -> bool:
        """One request and its answer; whether the connection can take another."""
        request = await _head(reader)
        method, path = request.line[0], request.line[1]
        self.done["requests"] += 1
        fault = await asyncio.to_thread(self.on_request, method, path) if self.on_request else None
        fault = fault or self._draw(request)
        refusal = fault if isinstance(fault, tuple) else _ANSWERS.get(str(fault))
        if refusal is not None:
            self.done[str(fault)] += 1
            await self._refuse(*refusal, request, reader, writer)
            return False
        try:
            store_reader, store_writer = await asyncio.open_connection("127.0.0.1", self.upstream, limit=1 << 20)
        except ConnectionError:
            self.done["away"] += 1
            raise
        try:
            store_writer.write(request.raw)
            limit = self._random.randrange(request.length) if fault == "cut_up" and request.length > 1 else None
            upload = asyncio.create_task(_pass_body(request, reader, store_writer, limit))
            try:
                return await self._answer(request, upload, store_reader, writer, cut=fault == "cut_down")
            except Cut:
                self.done[str(fault)] += 1
                raise
            finally:
                upload.cancel()
                with contextlib.suppress(asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError):
                    await upload
        finally:
            store_writer.transport.abort()

    def _draw(self, request: Head) -> Fault | None:
        for fault, share in self.shares.items():
            fits = {"cut_up": request.length > 1, "cut_down": request.line[0] == "GET"}.get(fault, True)
            if fits and self._random.random() < share:
                return fault
        return None

    async def _refuse(self, status: int, code: str, request: Head, reader: StreamReader, writer: StreamWriter) -> None:
        if "100-continue" not in request.fields.get("expect", ""):
            await _pass_body(request, reader, None, None)  # else the client is still sending and sees a reset
        body = b"" if request.line[0] == "HEAD" else _BODY.format(code).encode()
        head = f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.write_eof()
        await reader.read(_BLOCK)  # until the client has read the answer and closed

    async def _answer(
        self, request: Head, upload: asyncio.Task[None], reader: StreamReader, writer: StreamWriter, *, cut: bool
    ) -> bool:
        answer = await self._answer_head(upload, reader)
        while answer.line[1] == "100":
            writer.write(answer.raw)
            answer = await self._answer_head(upload, reader)
        if cut and not answer.length and not answer.chunked:
            raise Cut
        writer.write(answer.raw)
        if request.line[0] != "HEAD" and answer.line[1] not in ("204", "304"):
            limit = self._random.randrange(max(answer.length, 1)) if cut else None
            await _pass_body(answer, reader, writer, limit)
        await writer.drain()
        complete = upload.done()  # a refusal may come before the whole body went up; the rest of it is in the way
        return complete and answer.fields.get("connection", "").lower() != "close"

    @staticmethod
    async def _answer_head(upload: asyncio.Task[None], reader: StreamReader) -> Head:
        """The next head of the store, unless the upload fails before."""
        head = asyncio.create_task(_head(reader))
        await asyncio.wait({head, upload}, return_when=asyncio.FIRST_COMPLETED)
        if not head.done() and upload.done() and upload.exception() is not None:
            head.cancel()
            await upload
        return await head


async def _head(reader: StreamReader) -> Head:
    raw = await reader.readuntil(b"\r\n\r\n")
    first, *rest = raw.decode("latin-1").strip().split("\r\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    return Head(raw, first.split(" "), fields)


async def _pass_body(head: Head, reader: StreamReader, writer: StreamWriter | None, limit: int | None) -> None:
    """The body that belongs to `head`; raises Cut before the byte `limit`."""

    async def send(data: bytes) -> None:
        nonlocal limit
        if writer is None:
            return
        if limit is not None and len(data) > limit:
            writer.write(data[:limit])
            await writer.drain()
            await asyncio.sleep(0.01)  # so that the bytes leave before the reset that follows
            raise Cut
        limit = None if limit is None else limit - len(data)
        writer.write(data)
        await writer.drain()

    if head.chunked:
        size = 1
        while size:
            line = await reader.readline()
            size = int(line.split(b";")[0], 16)
            await send(line + await reader.readexactly(size + 2))
        return
    left = head.length
    while left:
        block = await reader.read(min(left, _BLOCK))
        if not block:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(block)
        await send(block)
