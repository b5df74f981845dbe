"""Images named one by one: a text file with a URI a line, or a column of URIs in Parquet files."""

from __future__ import annotations

import io
import os
import posixpath
import re
from collections.abc import Generator, Iterator
from functools import cached_property
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from icce_ray.io.decode import Reject
from icce_ray.io.filenames import to_text
from icce_ray.io.locations import LocationError, SourceError, UnavailableError, refuse_secrets, s3_location
from icce_ray.io.sources import columns, tables
from icce_ray.io.sources.base import Row, tables_of
from icce_ray.io.sources.fetch import fetch
from icce_ray.io.stores import is_local, resolve

#: What an entry with `://` may start with.
SCHEMES = ("file", "s3", "gs", "az", "abfs", "abfss", "http", "https")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
#: Bytes of a line, at most: a longer one is no URI.
_LONGEST = 16 << 10
_READ_AHEAD = 1 << 20
#: Seconds that a web server is asked again.
_WEB_PATIENCE = 5.0
_FOREIGN = "a list from the web names no files of this machine; download the list and give it as a file"


class UriList(tables.ParquetRows):
    """Images in the order of a list. `uri` and `key` are the entry as it stands there, `size` is not known.

    A text file holds one entry a line, in UTF-8; white space around it and blank lines do not count, every other
    character does. Parquet files, one or all below a folder, hold them in the column `spec.column`, with keys in
    `spec.key_column` if that is given. An entry is a URI, percent-encoded as URIs are (file, s3, gs, az, http, https),
    an absolute path, or a path relative to the folder of the list, both of these literally; for a Parquet file further
    down, `uri` counts from the source. A Parquet row without an entry is listed by file and row, and rejected when it
    is read.
    """

    usual = ("uri", "url", "path", "file", "file_name", "image", "image_path")
    fits = staticmethod(columns.is_text)
    lacks = "the list has no entries"

    def find_column(self) -> None:
        """That of a Parquet list; a text file has none, whatever its ending."""
        is_text = self.spec.location.partition("?")[0].lower().endswith((".txt", ".lst"))
        if not is_text and self.name_of(self.first()).lower().endswith(self.endings):
            super().find_column()

    @cached_property
    def keys(self) -> list[str]:
        """`spec.key_column`: an entry names itself."""
        return [] if self.spec.key_column is None else [self.spec.key_column]

    def tables(self, container: str) -> Generator[pa.Table]:
        """One row an entry. Raises SourceError for an entry that cannot be one; it names the line."""
        yield from tables_of(self._lines(container) if self.spec.column is None else self._rows(container))

    def _lines(self, container: str) -> Iterator[Row]:
        name = self.name_of(container)
        file = self.required(container, ahead=_READ_AHEAD)
        with file, io.BufferedReader(file, 1 << 16) as lines:
            number = 0
            while line := lines.readline(_LONGEST + 1):
                number += 1
                where = f"line {number} of {name}"
                entry = _decoded(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, where).strip()
                if entry:
                    self._check(entry, where)
                    uri = _uri(entry)
                    yield uri, uri, None, None, None

    def _rows(self, container: str) -> Iterator[Row]:
        name, folder = self.name_of(container), posixpath.dirname(container)
        with self.opened(container) as parquet:
            self.check(name, parquet)
            columns.the_key_column(self.spec, name, parquet.schema_arrow)
            for first, batch in columns.batches(parquet, name, [*dict.fromkeys([self.column, *self.keys])]):
                keys: list[str | None] = [None] * len(batch)
                for column in self.keys:
                    keys = columns.text_column(batch, column, name, first).to_pylist()
                entries = columns.as_bytes(batch.column(self.column))
                for row, (data, key) in enumerate(zip(entries, keys, strict=True), first):
                    if not data:
                        yield f"{name}/{row}", key or f"{name}/{row}", None, container, row
                        continue
                    where = f"row {row} of {name}"
                    entry = _decoded(data, where)
                    self._check(entry, where)
                    uri = _uri(entry) if _is_absolute(entry) else posixpath.join(folder, _uri(entry))
                    yield uri, key or _uri(entry), None, None, None

    def _check(self, entry: str, where: str) -> None:
        """Raises SourceError for an entry that no store can have; without the entry, which may hold a secret."""
        match = _URI.match(entry)
        try:
            if match is None:
                self._check_path(entry)
            elif match[1].lower() not in SCHEMES:
                raise LocationError(
                    f"no store is known for {match[1]}://; an entry may start with {', '.join(SCHEMES)}"
                )
            else:
                _check_uri(entry)
                location, path = _place(entry)
                if location == "/" and _is_web(self.spec.location):
                    raise LocationError(_FOREIGN)
                if not path:
                    raise LocationError("the URI names no file")
                if not _is_web(location):
                    resolve(location)  # once a store and bucket
        except ValueError as error:
            raise SourceError(f"{where} in {self.spec.location!r}: {error}") from error

    def _check_path(self, entry: str) -> None:
        refuse_secrets(entry)
        if entry.startswith("/") and _is_web(self.spec.location):
            raise LocationError(_FOREIGN)
        remote = not entry.startswith("/") and "://" in self.spec.location
        if remote and any(part in ("", ".", "..") for part in entry.split("/")):
            raise LocationError(
                "a relative path in a list that lies in a store has no empty, '.' or '..' parts; write the whole URI"
            )

    def read_span(self, rows: pa.Table, max_bytes: int) -> Generator[bytes | Reject]:
        """The file's bytes, in one request; stores with equal options share a client.

        A web server that does not answer is a Reject after some seconds: on the web that is the fate of single images,
        not of the source.
        """
        for uri, container in zip(rows["uri"].to_pylist(), rows["container"].to_pylist(), strict=True):
            if container is not None:
                yield Reject("unreadable", "the list has no URI in this row")
                continue
            if _URI.match(uri):
                location, path = _place(uri)
            elif uri.startswith("/") or is_local(resolve(self._base)[0]):
                location, path = "/", os.path.abspath(os.path.join(resolve(self._base)[1], uri)).lstrip("/")
            else:
                location, path = self._base, uri
            if not _is_web(location):
                yield fetch(location, path, max_bytes=max_bytes)
                continue
            try:
                yield fetch(location, path, max_bytes=max_bytes, patience=_WEB_PATIENCE)
            except UnavailableError as error:
                yield Reject("unreadable", str(error)[:300])

    @cached_property
    def _base(self) -> str:
        """The folder that relative paths count from: that of the list, or the source itself if it is a folder."""
        location, mark, query = self.spec.location.partition("?")
        if "://" not in location:
            location, mark, query = resolve(self.spec.location)[1], "", ""
        is_file = location.lower().endswith((".txt", ".lst")) or self.first() == ""
        return (location.rpartition("/")[0] or "/" if is_file else location) + mark + query


def _decoded(entry: bytes, where: str) -> str:
    if len(entry) > _LONGEST:
        raise SourceError(f"{where} is longer than {_LONGEST} bytes; a list holds one URI a line or row")
    try:
        return entry.decode()
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{where} is not UTF-8: {error.reason} at its byte {error.start}; write the list in UTF-8"
        ) from error


def _is_web(location: str) -> bool:
    return location.startswith(("http://", "https://"))


def _uri(entry: str) -> str:
    """What a table says of an entry: itself, but of a local path as of all names of files."""
    return entry if _URI.match(entry) else to_text(entry)


def _is_absolute(entry: str) -> bool:
    return entry.startswith("/") or _URI.match(entry) is not None


def _check_uri(uri: str) -> None:
    """Raises LocationError for secrets, and for characters that would make it another file's name."""
    refuse_secrets(uri)
    parts = urlsplit(uri)
    if parts.scheme == "s3":
        s3_location(uri)
    elif parts.scheme not in ("http", "https") and ("#" in uri or _CONTROL.search(uri)):
        raise LocationError("it holds a '#' or a control character; percent-encode it (%23)")
    if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
        raise LocationError("a file:// URI has three slashes and an absolute path: file:///folder/name.jpg")


def _place(uri: str) -> tuple[str, str]:
    """A URI as (location, path below it): the same location for all of a bucket, so that they share its client."""
    parts = urlsplit(uri)
    path = to_text(unquote(parts.path.removeprefix("/"), errors="surrogateescape"))
    if parts.scheme == "file":
        return "/", path
    if parts.scheme in ("http", "https"):  # where the query is part of the name
        return f"{parts.scheme}://{parts.netloc}", to_text(uri.split("/", 3)[3]) if uri.count("/") > 2 else ""
    return f"{parts.scheme}://{parts.netloc}" + (f"?{parts.query}" if parts.query else ""), path
