"""Every file below a location, sorted, one folder or a few pages in memory at a time."""

from __future__ import annotations

import itertools
import os
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from icce_ray.io.filenames import to_text
from icce_ray.io.locations import is_s3, retried
from icce_ray.io.sources.base import SourceError
from icce_ray.io.stores import is_local, resolve

T = TypeVar("T")
Found = tuple[str, int | None]
Key = tuple[str, int]
Identity = tuple[int, int]

#: Links that lead to one folder and are followed. Thirty folders of two links each would list one file a billion times.
LINKS = 16
#: Prefixes of a bucket listed at the same time. A page of 1,000 keys takes a store 20 to 100 ms.
PREFIXES = 16
#: Levels of folders of a bucket that may be looked through to find prefixes to list in parallel.
LEVELS = 4
#: Streams of which `one_ahead` reads at the same time.
WIDTH = 8


def walk(location: str, left_out: Counter[str]) -> Iterator[Found]:
    """(path below `location`, bytes) of everything there, in the order of the paths' UTF-8 bytes.

    Paths are text as `filenames.to_text` makes it. Bytes are None for what is no regular file (a pipe, a hidden folder,
    which is not entered), -1 for a dangling link. Links are followed, `LINKS` times to the same folder. Counted in
    `left_out` and not entered are further `repeated links`, `link loops` (to a folder above) and `forbidden folders`.
    Keys of S3 are listed by several prefixes at a time; memory stays at some pages, elsewhere at one folder and those
    above it.

    Raises SourceError where something cannot be listed.
    """
    filesystem, base = resolve(location)
    try:
        if is_local(filesystem):
            yield from _Local(base, left_out).files()
        elif is_s3(location):
            yield from ((to_text(key), size) for key, size in keys_below(filesystem, base))
        else:
            yield from ((to_text(path), size) for path, size in _store(filesystem, base))
    except (OSError, UnicodeError) as error:  # a client of fsspec may list what is no text
        raise SourceError(f"the source {location!r} cannot be listed: {error}") from error


def select(files: Iterable[Found], endings: tuple[str, ...], left_out: Counter[str]) -> Iterator[Found]:
    """Files whose names end as wanted, in any case; what else there was is counted in `left_out`.

    Kinds: `hidden` (names with a leading dot; a hidden folder counts once) and `other files`.
    """
    last_hidden = ""
    for path, size in files:
        hidden = _hidden_part(path)
        if hidden:
            left_out["hidden"] += hidden != last_hidden
            last_hidden = hidden
        elif size is None or not path.lower().endswith(endings):
            left_out["other files"] += 1
        else:
            yield path, size if size >= 0 else None


def _hidden_part(path: str) -> str:
    """The path up to and with the first part that starts with a dot, "" if there is none."""
    if not path.startswith(".") and "/." not in path:
        return ""
    start = 0 if path.startswith(".") else path.index("/.") + 1
    end = path.find("/", start)
    return path if end < 0 else path[:end]


def one_ahead(streams: Iterable[Generator[T]], width: int = WIDTH) -> Iterator[T]:
    """The items of all streams, stream after stream; each of the next `width` streams is one item ahead in a thread.

    So the order is that of the streams, and at most `width` items wait. Items must not be None.
    """
    coming = iter(streams)
    waiting: deque[tuple[Generator[T], Future[T | None]]] = deque()
    with ThreadPoolExecutor(width, thread_name_prefix="listing") as pool:
        try:
            while True:
                for stream in itertools.islice(coming, width - len(waiting)):
                    waiting.append((stream, pool.submit(next, stream, None)))
                if not waiting:
                    return
                stream, future = waiting[0]
                item = future.result()
                if item is None:
                    waiting.popleft()
                else:
                    waiting[0] = (stream, pool.submit(next, stream, None))
                    yield item
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for stream, _ in waiting:
                stream.close()


# -- S3 ------------------------------------------------------------------------------------------------------------


class _Segment(NamedTuple):
    """A part of the listing: keys that are listed already, or a prefix still to be listed."""

    prefix: str
    keys: list[Key] | None = None
    #: Whether it may be divided one level below: it was not seen to hold more than a page.
    divisible: bool = True


def keys_below(store: Any, path: str) -> Iterator[Key]:
    """(key below `path`, bytes) of every object there, in the order of the keys' UTF-8 bytes.

    Objects that stand for folders (keys that end in `/`) are left out. Raises StorageError.
    """
    bucket, _, root = path.partition("/")
    root = f"{root.rstrip('/')}/" if root else ""
    segments = [_Segment(root)]
    for _ in range(LEVELS):
        if sum(segment.keys is None for segment in segments) >= PREFIXES:
            break
        segments = [part for segment in segments for part in _divided(store, bucket, segment)]
    pages = one_ahead((_pages(store, bucket, segment) for segment in segments), PREFIXES)
    for key, size in itertools.chain.from_iterable(pages):
        if not key.endswith("/"):
            yield key[len(root) :], size


def _pages(store: Any, bucket: str, segment: _Segment) -> Generator[list[Key]]:
    if segment.keys is not None:
        yield segment.keys
    else:
        yield from (page.objects for page in store.pages(f"{bucket}/{segment.prefix}"))


def _divided(store: Any, bucket: str, segment: _Segment) -> list[_Segment]:
    """A prefix as the keys and prefixes one level below, itself if they are more than a page of them."""
    if segment.keys is not None or not segment.divisible:
        return [segment]
    pages = list(itertools.islice(store.pages(f"{bucket}/{segment.prefix}", delimiter="/"), 2))
    if len(pages) > 1:
        return [segment._replace(divisible=False)]
    # A prefix "a/" stands for keys that all sort where "a/" does.
    names: list[tuple[str, Key | None]] = [(item[0], item) for item in pages[0].objects]
    names += [(prefix, None) for prefix in pages[0].prefixes]
    parts = []
    for is_key, group in itertools.groupby(
        sorted(names, key=lambda pair: pair[0]), key=lambda pair: pair[1] is not None
    ):
        if is_key:
            parts.append(_Segment("", [key for _, key in group if key is not None]))
        else:
            parts += [_Segment(prefix) for prefix, _ in group]
    return parts


# -- local disk ----------------------------------------------------------------------------------------------------


class _Local:
    """The walk of a local folder."""

    def __init__(self, base: str, left_out: Counter[str]) -> None:
        self._base, self._left_out = base, left_out
        self._linked: Counter[Identity] = Counter()
        self._stack: list[tuple[str, Iterator[os.DirEntry[str]], frozenset[Identity]]] = []

    def files(self) -> Iterator[Found]:
        """See `walk`."""
        self._enter("", frozenset(), linked=False)
        while self._stack:
            relative, entries, above = self._stack[-1]
            entry = next(entries, None)
            if entry is None:
                self._stack.pop()
            elif _is_folder(entry):
                self._enter(f"{relative}{entry.name}/", above, linked=entry.is_symlink())
            else:
                yield to_text(relative + entry.name), _size(entry)

    def _enter(self, relative: str, above: frozenset[Identity], *, linked: bool) -> None:
        path = os.path.join(self._base, relative)
        try:
            status = os.stat(path)
            identity = (status.st_dev, status.st_ino)
            self._linked[identity] += linked
            if identity in above:
                self._left_out["link loops"] += 1
                return
            if linked and self._linked[identity] > LINKS:
                self._left_out["repeated links"] += 1
                return
            with os.scandir(path) as listed:
                # A folder sorts as "name/": the order of the walk is then the order of the full paths.
                entries = sorted(listed, key=lambda entry: to_text(entry.name) + "/" * _is_folder(entry))
        except PermissionError:
            if not relative:
                raise
            self._left_out["forbidden folders"] += 1
            return
        self._stack.append((relative, iter(entries), above | {identity}))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # A hidden folder is left closed: it is one hidden entry.
    try:
        return not entry.name.startswith(".") and entry.is_dir()
    except OSError:  # a link to itself
        return False


def _size(entry: os.DirEntry[str]) -> int | None:
    """Bytes of a file, -1 for a link that leads nowhere, None for sockets, pipes and hidden folders."""
    try:
        if entry.is_file():
            return entry.stat().st_size
    except OSError:  # a link to itself: listed, so that reading it becomes a reject
        return -1
    return -1 if entry.is_symlink() and not os.path.exists(entry.path) else None


# -- other stores --------------------------------------------------------------------------------------------------


def _store(filesystem: Any, base: str) -> Iterator[Found]:
    """Stores whose client lists a folder at once and no page of it: gs://, az:// and those of fsspec."""
    start = len(base.rstrip("/")) + 1

    def entries(folder: str) -> Iterator[dict[str, Any]]:
        filesystem.invalidate_cache()
        listed = retried(lambda: filesystem.ls(folder, detail=True))
        named = (entry | {"name": entry["name"].rstrip("/")} for entry in listed)
        below = [entry for entry in named if entry["name"] != folder.rstrip("/")]  # some list the folder's own marker
        return iter(sorted(below, key=lambda entry: entry["name"] + "/" * (entry["type"] == "directory")))

    stack = [entries(base)]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
        elif entry["type"] != "directory":
            yield entry["name"][start:], entry["size"]
        elif entry["name"].rpartition("/")[2].startswith("."):
            yield entry["name"][start:], None
        else:
            stack.append(entries(entry["name"]))
