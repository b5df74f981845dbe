"""Headers of files from outside: whatever a library raises over bytes that it cannot parse is one error.

tarfile, NumPy, Arrow and safetensors raise more than they say.
"""

from __future__ import annotations

import csv
import io
import struct
import tarfile
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
from safetensors import SafetensorError

from icce_ray.documents import shown
from icce_ray.io.locations import StorageError, is_transient

_LIBRARY_ERRORS = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, EOFError),
    *(SyntaxError, MemoryError, RecursionError, struct.error, tokenize.TokenError),
    *(tarfile.TarError, csv.Error, pa.ArrowException, SafetensorError),
)

#: Bytes of a header, at most: NumPy's have a hundred, tar's a name's length or what `xattr` holds.
MOST = 1 << 20


class HeaderError(ValueError):
    """Bytes that are not what they should be; the message is one line, which does not name the file."""


class Bounded:
    """A file as a library reads its header: however long that says it is, it is not read into memory."""

    def __init__(self, file: io.RawIOBase) -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """As of any file. Raises HeaderError for more than `MOST` bytes."""
        if not 0 <= size <= MOST:
            raise HeaderError(f"a header of {size:,} bytes; {MOST:,} are read at most")
        return self._file.read(size) or b""


@contextmanager
def parsing() -> Iterator[None]:
    """Raises HeaderError in place of a library's errors; errors of the store under it pass."""
    try:
        yield
    except StorageError:
        raise
    except _LIBRARY_ERRORS as error:
        if isinstance(error, OSError) and is_transient(error):
            raise
        raise HeaderError(shown(" ".join(str(error).split()) or type(error).__name__, 300, plain=True)) from error
