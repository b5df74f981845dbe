"""Images in a column of a Lance dataset, of one version of it; needs the extra `lance`."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import pyarrow as pa
from pyarrow import types

from icce_ray.io.decode import Reject
from icce_ray.io.locations import SourceError, is_s3, is_transient, s3_location
from icce_ray.io.sources import columns
from icce_ray.io.sources.base import TABLE_ROWS, SourceSpec
from icce_ray.io.sources.fetch import too_large
from icce_ray.io.sources.tables import RowAccess
from icce_ray.io.sources.walk import Listed
from icce_ray.io.stores import is_local, resolve

#: Rows of an export held at a time.
_WHOLE = 32
#: Schemes beside S3's that Lance opens itself, with credentials from the same environment.
_CLOUDS = ("gs://", "az://", "abfss://")


class LanceError(ValueError):
    """What the library says, in one line."""


class LanceSource(RowAccess):
    """A binary or blob column, or a struct with `bytes` (and `path`), of a Lance dataset.

    Listed is the newest version, and read is the version that was listed, whatever is appended or deleted since, until
    `cleanup_old_versions`. `container` is that version; `uri` names it too. Lance reads from stores by its own clients.
    """

    endings = (".lance",)
    lacks = "the Lance dataset has no rows"
    is_file = True
    versioned = True
    #: An image of any size that is no blob is in memory before its length is known: these rows at a time.
    span = 16

    def __init__(self, spec: SourceSpec) -> None:
        """See `TableSource`. Raises SourceError where the library is not installed."""
        self._versions: dict[int, Any] = {}
        super().__init__(spec)

    @staticmethod
    def fits(kind: pa.DataType) -> bool:
        """Bytes, a struct with `bytes`, or a blob."""
        return columns.is_image(kind) or _is_blob(pa.field("", kind))

    @cached_property
    def _newest(self) -> int:
        try:
            return self._opened(None).version
        except LanceError as error:
            raise SourceError(
                f"{self.spec.location!r} cannot be read as a Lance dataset: {error}; give the folder that holds "
                "`_versions`, or another --format"
            ) from error

    def _opened(self, version: int | None) -> Any:
        """The dataset at a version, opened once. Raises LanceError."""
        if version is None or version not in self._versions:
            library = lance_library()
            uri, options = _place(self.spec.location)
            with lance_errors():
                dataset = library.dataset(uri, version=version, storage_options=options)
            version = int(dataset.version)
            self._versions[version] = dataset
            return dataset
        return self._versions[version]

    def found(self, left_out: Counter[str]) -> Iterator[Listed]:
        """The newest version, the only container."""
        yield str(self._newest), None

    def name_of(self, path: str) -> str:
        """The dataset's name and the version."""
        return f"{super().name_of('')}/v{path}"

    def schema_of(self, container: str) -> pa.Schema:
        """See `TableSource`."""
        return self._opened(int(container)).schema

    def tables(self, container: str) -> Generator[pa.Table]:
        """Rows of the version, named by its columns `keys`; reads those only."""
        name, dataset = self.name_of(container), self._opened(int(container))
        columns.check_column(name, dataset.schema, self.column, self.fits)
        try:
            with lance_errors():
                if not self.keys:
                    yield from columns.numbered_rows(name, container, dataset.count_rows())
                    return
                first = 0
                for batch in _scanned(dataset, self.keys, TABLE_ROWS):
                    keys = [columns.as_text(batch.column(key)) for key in self.keys]
                    yield columns.numbered(name, container, first, len(batch), keys)
                    first += len(batch)
        except LanceError as error:
            raise SourceError(f"{name} in {self.spec.location!r}: its keys cannot be read: {error}") from error

    def read_span(self, rows: pa.Table, max_bytes: int) -> Generator[bytes | Reject]:
        """Some rows with one call of Lance; a blob too large is not read."""
        positions, done = rows["position"].to_pylist(), 0
        try:
            with lance_errors():
                dataset = self._opened(int(rows["container"][0].as_py()))
                columns.check_column(self.name_of(""), dataset.schema, self.column, self.fits)
                is_blob = _is_blob(dataset.schema.field(self.column))
                for value in (_blobs if is_blob else _values)(dataset, self.column, positions):
                    yield _image(value, max_bytes)
                    done += 1
        except (LanceError, SourceError) as error:
            for _ in range(done, len(rows)):
                yield Reject("unreadable", f"Lance: {error}"[:300])

    def whole_rows(self, container: str) -> Generator[pa.RecordBatch]:
        """See `TableSource`."""
        dataset = self._opened(int(container))
        try:
            with lance_errors():
                yield from _scanned(dataset, dataset.schema.names, _WHOLE)
        except LanceError as error:
            raise SourceError(f"{self.name_of(container)} cannot be read to its end: {error}") from error


def lance_library() -> Any:
    """The module `lance`. Raises SourceError if it is not installed.

    It warns of every fork from then on; Ray forks to start other programs only, which is safe.
    """
    warnings.filterwarnings("ignore", "lance is not fork-safe", UserWarning)
    try:
        import lance
    except ImportError as error:
        raise SourceError(f"Lance needs one more package: pip install 'icce-ray[lance]' ({error})") from error
    return lance


def _is_blob(field: pa.Field) -> bool:
    """Whether the images lie in files of their own, as `lance.blob_field` and the older metadata have it."""
    is_new = isinstance(field.type, pa.BaseExtensionType) and field.type.extension_name.startswith("lance.blob")
    return is_new or b"lance-encoding:blob" in (field.metadata or {})


def _blobs(dataset: Any, column: str, positions: list[int]) -> Iterator[Any]:
    """Files of blobs, None for null."""
    for file in dataset.take_blobs(column, indices=positions):
        yield file
        if file is not None:
            file.close()


def _values(dataset: Any, column: str, positions: list[int]) -> Iterator[pa.Buffer | None]:
    found = dataset.take(positions, columns=[column]).column(column).combine_chunks()
    if len(found) != len(positions):
        raise ValueError(f"{len(found)} of {len(positions)} rows came")
    for value in columns.field_of(found, "bytes") if types.is_struct(found.type) else found:
        yield value.as_buffer()


def _image(value: Any, max_bytes: int) -> bytes | Reject:
    """Of a buffer, or of the file of a blob."""
    if value is None:
        return Reject("empty", "the row has no bytes; if it has a path, that is a file elsewhere")
    is_buffer = isinstance(value, pa.Buffer)
    size = value.size if is_buffer else value.size()
    if size > max_bytes:
        return too_large(size, max_bytes)
    return (value.to_pybytes() if is_buffer else value.read()) if size else Reject("empty", "the row has 0 bytes")


def _scanned(dataset: Any, names: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    options = {"scan_in_order": True, "batch_readahead": 2, "blob_handling": "all_binary"}
    return iter(dataset.scanner(columns=names, batch_size=rows, **options).to_batches())


def _place(location: str) -> tuple[str, dict[str, str]]:
    """The location as Lance opens it, and options for its client. Raises SourceError for stores that it lacks."""
    if is_s3(location):
        path, given = s3_location(location)
        options = {
            "region": given.region,
            "aws_endpoint": given.endpoint_url,
            "allow_http": "true" if given.scheme == "http" else None,
            "virtual_hosted_style_request": "true" if given.force_virtual_addressing else None,
            "skip_signature": "true" if given.anonymous else None,
        }
        if given.tls_ca_file_path:
            raise SourceError(f"{location!r}: Lance takes no tls_ca_file_path; set SSL_CERT_FILE in the environment")
        return f"s3://{path}", {name: value for name, value in options.items() if value is not None}
    if is_local(resolve(location)[0]):
        return resolve(location)[1], {}
    if location.startswith(_CLOUDS):
        return location.partition("?")[0], {}
    raise SourceError(
        f"{location!r}: Lance reads local folders and s3://, gs://, az:// and abfss:// URIs; copy the dataset there"
    )


@contextmanager
def lance_errors() -> Iterator[None]:
    """Raises LanceError in place of the library's; transient ones, and our own, pass."""
    try:
        yield
    except SourceError:
        raise
    except (OSError, ValueError, RuntimeError, pa.ArrowException) as error:
        if isinstance(error, OSError) and is_transient(error):
            raise
        # The library adds where in its source that was, after a comma.
        raise LanceError(" ".join(str(error).split()).split(", /", 1)[0][:300]) from error
