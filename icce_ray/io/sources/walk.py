"""Every file below a location, sorted, one folder or a few pages in memory at a time."""

from __future__ import annotations

import itertools
import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

from icce_ray.io.filenames import to_text
from icce_ray.io.locations import SourceError, is_s3, retried
from icce_ray.io.stores import is_local, resolve

T = TypeVar("T")
Listed = tuple[str, int | None]
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


def walk(location: str, left_out: Counter[str]) -> Iterator[Listed]:
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
        if is_s3(location):
            files = keys_below(filesystem, base)
        elif is_local(filesystem):
            files = _tree(_Local(base, left_out).entries())
        else:
            files = _tree(_store_entries(filesystem, base, base))
        yield from ((to_text(path), size) for path, size in files)
    except (OSError, UnicodeError) as error:  # a client of fsspec may list what is no text
        raise SourceError(f"the source {location!r} cannot be listed: {error}") from error


def select(files: Iterable[Listed], endings: tuple[str, ...], left_out: Counter[str]) -> Iterator[Listed]:
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


# -- folders -------------------------------------------------------------------------------------------------------


class _Entry(NamedTuple):
    """What a folder holds: a file and its bytes, or a folder with a way to its own entries, in their order."""

    path: str
    size: int | None
    entries: Callable[[], Iterator[_Entry]] | None = None


def _tree(entries: Iterator[_Entry]) -> Iterator[Listed]:
    """The files of folders within each other, one folder and those above it in memory."""
    stack = [entries]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
        elif entry.entries is not None:
            stack.append(entry.entries())
        else:
            yield entry.path, entry.size


class _Local:
    """Folders of a local disk."""

    def __init__(self, base: str, left_out: Counter[str]) -> None:
        self._base, self._left_out = base, left_out
        self._linked: Counter[Identity] = Counter()

    def entries(
        self, relative: str = "", above: frozenset[Identity] = frozenset(), *, linked: bool = False
    ) -> Iterator[_Entry]:
        """Those of a folder; `above` are the folders that it lies in."""
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
        above |= {identity}
        for entry in entries:
            name = relative + entry.name
            if _is_folder(entry):
                yield _Entry(name, None, partial(self.entries, f"{name}/", above, linked=entry.is_symlink()))
            else:
                yield _Entry(name, _size(entry))


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


def _store_entries(filesystem: Any, base: str, folder: str) -> Iterator[_Entry]:
    """Those of a folder of a store whose client lists it at once and no page of it: gs://, az://, those of fsspec."""
    filesystem.invalidate_cache()
    listed = retried(lambda: filesystem.ls(folder, detail=True))
    named = [entry | {"name": entry["name"].rstrip("/")} for entry in listed]
    for entry in sorted(named, key=lambda entry: entry["name"] + "/" * (entry["type"] == "directory")):
        name, path = entry["name"], entry["name"][len(base.rstrip("/")) + 1 :]
        if name == folder.rstrip("/"):  # some list the folder's own marker
            continue
        if entry["type"] != "directory":
            yield _Entry(path, entry["size"])
        elif name.rpartition("/")[2].startswith("."):
            yield _Entry(path, None)
        else:
            yield _Entry(path, None, partial(_store_entries, filesystem, base, name))
