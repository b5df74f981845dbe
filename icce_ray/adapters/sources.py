"""The images of a folder or a bucket prefix: a sorted listing that drops nothing silently, and the bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.fs as pafs

from icce_ray.adapters.locations import StorageError, child, is_local, resolve, retried

IMAGE_EXTENSIONS = (
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
)


class SourceError(ValueError):
    """A source that is missing, unreadable, or without images."""


class ImageListing(Iterator[tuple[str, int]]):
    """Iterator over (key, bytes) in key order, which counts what it leaves out.

    Attributes:
        images: keys given so far.
        other: files left out because of their extension, or because they are no regular files.
        hidden: names with a leading dot; a hidden folder counts once and is not entered.
        undecodable: names that are not valid UTF-8 and so cannot stand in a table.

    A size is -1 for a dangling link: the image is listed, so that reading it becomes a reject with a reason.
    Raises SourceError at the end if there was no image at all.
    """

    def __init__(self, source: str, entries: Iterator[tuple[str, int | None]], extensions: tuple[str, ...]) -> None:
        self.images = self.other = self.hidden = self.undecodable = 0
        self._source, self._extensions = source, extensions
        self._last_hidden = ""
        self._entries = entries

    @property
    def ignored(self) -> int:
        """Everything seen that is not an image."""
        return self.other + self.hidden + self.undecodable

    def __next__(self) -> tuple[str, int]:
        for key, size in self._entries:
            if self._is_image(key, size):
                self.images += 1
                return key, size if size is not None else -1
        if self.images == 0:
            raise SourceError(
                f"0 images among {self.ignored} files in {self._source!r} ({self.hidden} hidden, "
                f"{self.undecodable} with names that are not UTF-8); "
                f"extensions looked for: {', '.join(self._extensions)}"
            )
        raise StopIteration

    def _is_image(self, key: str, size: int | None) -> bool:
        hidden = _hidden_part(key)
        if hidden:
            self.hidden += hidden != self._last_hidden
            self._last_hidden = hidden
            return False
        if size is None or not key.lower().endswith(self._extensions):
            self.other += 1
            return False
        try:
            key.encode()
        except UnicodeEncodeError:
            self.undecodable += 1
            return False
        return True


def list_images(source: str, extensions: Sequence[str] = IMAGE_EXTENSIONS) -> ImageListing:
    """Every image file below `source`, recursively, in the order of their keys (as their UTF-8 bytes sort).

    Args:
        source: folder or prefix: local path, `file://`, `s3://`, `gs://` URI.
        extensions: file name endings to take, in any case, with or without the dot.

    A key is the path relative to `source`, POSIX style; `read_image_bytes(source, key)` reads it. Links are
    followed. A local folder is walked as the iterator advances, so memory stays at the names of one folder
    and those above it; a bucket's listing is held whole.

    Raises SourceError at once when `source` is missing, is a file, or cannot be read, and at the end of the
    iteration when it holds no image; ValueError for a location that cannot be resolved.
    """
    endings = tuple("." + ending.lower().lstrip(".") for ending in extensions)
    if not endings or "." in endings:
        raise ValueError(f"extensions is {tuple(extensions)!r}; give file name endings such as {IMAGE_EXTENSIONS[:3]}")
    filesystem, base = resolve(source)
    try:
        kind = retried(lambda: filesystem.get_file_info(base)).type
    except OSError as error:
        raise SourceError(f"the source {source!r} cannot be read: {error}") from error
    if kind == pafs.FileType.NotFound:
        raise SourceError(f"the source {source!r} does not exist ({base}); give a folder or a prefix with images")
    if kind == pafs.FileType.File:
        raise SourceError(f"the source {source!r} is a file; give the folder or prefix that holds the images")
    entries = _walk(source, base) if is_local(filesystem) else _listing(source, filesystem, base)
    return ImageListing(source, entries, endings)


def read_image_bytes(source: str, key: str) -> bytes:
    """The bytes of one image of `list_images`.

    Raises OSError (FileNotFoundError among them) when it cannot be fetched, after a few attempts where the
    store says that it is busy; ValueError for a key that leaves a local source.
    """
    filesystem, base = resolve(source)
    path = f"{base.rstrip('/')}/{child(key) if is_local(filesystem) else key}"

    def read() -> bytes:
        with filesystem.open_input_stream(path, compression=None) as file:
            return file.read()

    try:
        return retried(read)
    except pa.ArrowInvalid as error:  # a bucket may hold keys that Arrow does not accept as paths
        raise StorageError(f"the key {key!r} of {source!r} cannot be read: {error}") from error


def _walk(source: str, base: str) -> Iterator[tuple[str, int | None]]:
    """(key, size) below a local folder in key order; size None for what is no file."""
    stack: list[tuple[str, Iterator[os.DirEntry[str]], frozenset[tuple[int, int]]]] = []

    def enter(relative: str, above: frozenset[tuple[int, int]]) -> None:
        path = os.path.join(base, relative)
        status = os.stat(path)
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            raise SourceError(f"{path} is a link to a folder that contains it; remove the link from {source!r}")
        with os.scandir(path) as found:
            # A folder sorts as "name/": the order of the walk is then the order of the full keys.
            entries = sorted(found, key=lambda entry: entry.name + "/" if _is_folder(entry) else entry.name)
        stack.append((relative, iter(entries), above | {identity}))

    try:
        enter("", frozenset())
        while stack:
            relative, entries, identities = stack[-1]
            entry = next(entries, None)
            if entry is None:
                stack.pop()
                continue
            if _is_folder(entry):
                enter(relative + entry.name + "/", identities)
            else:
                yield relative + entry.name, _size(entry)
    except OSError as error:
        raise SourceError(f"the source {source!r} cannot be listed: {error}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # A hidden folder is left closed: it is one hidden entry.
    return not entry.name.startswith(".") and entry.is_dir()


def _size(entry: os.DirEntry[str]) -> int | None:
    """Bytes of a file, -1 for a dangling link, None for sockets, pipes and hidden folders."""
    if entry.is_file():
        return entry.stat().st_size
    return -1 if entry.is_symlink() and not os.path.exists(entry.path) else None


def _listing(source: str, filesystem: pafs.FileSystem, base: str) -> Iterator[tuple[str, int | None]]:
    """(key, size) below a prefix of an object store, sorted."""
    try:
        found = retried(lambda: filesystem.get_file_info(pafs.FileSelector(base, recursive=True)))
    except OSError as error:
        raise SourceError(f"the source {source!r} cannot be listed: {error}") from error
    start = len(base.rstrip("/")) + 1
    files = [(info.path[start:], info.size) for info in found if info.type == pafs.FileType.File]
    files.sort()
    yield from files


def _hidden_part(key: str) -> str:
    """The path up to and with the first part that starts with a dot, "" if there is none."""
    if not key.startswith(".") and "/." not in key:
        return ""
    start = 0 if key.startswith(".") else key.index("/.") + 1
    end = key.find("/", start)
    return key if end < 0 else key[:end]
