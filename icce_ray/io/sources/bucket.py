"""Keys of an S3 bucket in order, listed by several prefixes at a time, a few pages of each in memory."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple
from urllib.parse import quote, urlsplit, urlunsplit

from icce_ray.io.s3 import Page, client_of, list_pages

#: Prefixes listed at the same time. A page of 1,000 keys takes a store 20 to 100 ms, and the next one waits for it.
WIDTH = 16
#: Pages of one prefix that wait for those before it.
PAGES_AHEAD = 4
#: Levels of folders that may be looked through to find prefixes to share out.
LEVELS = 4

Key = tuple[str, int]


class _Segment(NamedTuple):
    """A stretch of the listing: keys that are known already, or a prefix still to be listed."""

    prefix: str
    keys: list[Key] | None = None
    #: Whether one level below may be split further: it was not seen to hold more than a page.
    divisible: bool = True


def keys_below(uri: str) -> Iterator[Key]:
    """(key below `uri`, bytes) of every object there, in the order of the keys' UTF-8 bytes.

    Objects that stand for folders (keys that end in `/`) are left out. Raises StorageError.
    """
    _, _, root = client_of(uri)
    root = f"{root.rstrip('/')}/" if root else ""
    segments = [_Segment(root)]
    for _ in range(LEVELS):
        if sum(segment.keys is None for segment in segments) >= WIDTH:
            break
        segments = [part for segment in segments for part in _divided(uri, segment)]
    for key, size in _in_order(uri, segments):
        if not key.endswith("/"):
            yield key[len(root) :], size


def _with_key(uri: str, key: str) -> str:
    return urlunsplit(urlsplit(uri)._replace(path="/" + quote(key)))


def _divided(uri: str, segment: _Segment) -> list[_Segment]:
    """A prefix as the keys and prefixes one level below, itself if they are more than a page of them."""
    if segment.keys is not None or not segment.divisible:
        return [segment]
    pages = list(itertools.islice(list_pages(_with_key(uri, segment.prefix), delimiter="/"), 2))
    if len(pages) > 1:
        return [segment._replace(divisible=False)]
    # A prefix "a/" stands for keys that all sort where "a/" does.
    found: list[tuple[str, Key | None]] = [(item.key, (item.key, item.size)) for item in pages[0].objects]
    found += [(prefix, None) for prefix in pages[0].prefixes]
    parts = []
    for is_key, group in itertools.groupby(
        sorted(found, key=lambda pair: pair[0]), key=lambda pair: pair[1] is not None
    ):
        if is_key:
            parts.append(_Segment("", [key for _, key in group if key is not None]))
        else:
            parts += [_Segment(prefix) for prefix, _ in group]
    return parts


def _in_order(uri: str, segments: list[_Segment]) -> Iterator[Key]:
    """All keys, segment after segment, while those that follow are being listed."""
    stop, todo = threading.Event(), iter(segments)
    with ThreadPoolExecutor(WIDTH, thread_name_prefix="prefix") as pool:
        running: deque[_Segment | _Pages] = deque()

        def start() -> None:
            for segment in itertools.islice(todo, 1):
                if segment.keys is not None:
                    running.append(segment)
                else:
                    pages = _Pages(stop)
                    running.append(pages)
                    pool.submit(pages.fill, _with_key(uri, segment.prefix)).add_done_callback(pages.end)

        try:
            for _ in range(2 * WIDTH):
                start()
            while running:
                first = running.popleft()
                yield from (first.keys or []) if isinstance(first, _Segment) else first.taken()
                start()
        finally:
            stop.set()  # whoever listens no more must not leave threads that wait for a place


class _Pages:
    """Pages of one prefix on their way from the thread that lists it to the one that reads."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._pages: queue.Queue[Page | BaseException | None] = queue.Queue(PAGES_AHEAD)

    def fill(self, uri: str) -> None:
        """List the prefix; waits while the reader is behind."""
        for page in list_pages(uri):
            self._put(page)
            if self._stop.is_set():
                return

    def end(self, done: Future[None]) -> None:
        """After the last page, or with what went wrong."""
        self._put(done.exception())

    def taken(self) -> Iterator[Key]:
        """Keys of the pages. Raises what listing them raised."""
        while (page := self._pages.get()) is not None:
            if isinstance(page, BaseException):
                raise page
            for item in page.objects:
                yield item.key, item.size

    def _put(self, page: Page | BaseException | None) -> None:
        placed = False
        while not placed and not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._pages.put(page, timeout=0.1)
                placed = True
