"""Every file below a location, sorted, one folder or a few pages in memory at a time."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator

import pyarrow.fs as pafs

from icce_ray.io.filenames import to_text
from icce_ray.io.locations import is_local, resolve, retried
from icce_ray.io.s3 import is_s3
from icce_ray.io.sources.base import SourceError
from icce_ray.io.sources.bucket import keys_below

Found = tuple[str, int | None]
Identity = tuple[int, int]

#: Links that lead to one folder and are followed. Thirty folders of two links each would list one file a billion times.
LINKS = 16


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
            yield from ((to_text(key), size) for key, size in keys_below(location))
        else:
            yield from ((to_text(path), size) for path, size in _store(filesystem, base))
    except (OSError, UnicodeError) as error:  # a client of fsspec may list what is no text
        raise SourceError(f"the source {location!r} cannot be listed: {error}") from error


def select(found: Iterable[Found], endings: tuple[str, ...], left_out: Counter[str]) -> Iterator[Found]:
    """Files whose names end as wanted, in any case; what else there was is counted in `left_out`.

    Kinds: `hidden` (names with a leading dot; a hidden folder counts once) and `other files`.
    """
    last_hidden = ""
    for path, size in found:
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
            with os.scandir(path) as found:
                # A folder sorts as "name/": the order of the walk is then the order of the full paths.
                entries = sorted(found, key=lambda entry: to_text(entry.name) + "/" * _is_folder(entry))
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


def _store(filesystem: pafs.FileSystem, base: str) -> Iterator[Found]:
    """Stores whose client lists a folder at once and no page of it: gs://, az:// and those of fsspec."""
    start = len(base.rstrip("/")) + 1

    def names(folder: str) -> Iterator[pafs.FileInfo]:
        found = retried(lambda: filesystem.get_file_info(pafs.FileSelector(folder)))
        folders = pafs.FileType.Directory
        return iter(sorted(found, key=lambda info: info.path + "/" if info.type == folders else info.path))

    stack = [names(base)]
    while stack:
        info = next(stack[-1], None)
        if info is None:
            stack.pop()
        elif info.type == pafs.FileType.Directory:
            if not info.base_name.startswith("."):
                stack.append(names(info.path))
            else:
                yield info.path[start:], None
        else:
            yield info.path[start:], info.size
