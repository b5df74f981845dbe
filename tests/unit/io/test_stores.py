"""Files of stores and disks read as plain files; what a library raises over their bytes is one error."""

import csv
import io
import random
import struct
import tarfile
import tokenize

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from icce_ray.io.locations import StorageError, UnavailableError
from icce_ray.io.stores import MOST_HEADER as MOST
from icce_ray.io.stores import Bounded, HeaderError, StoredFile, parsing, resolve
from tests.failures import fails


@pytest.mark.parametrize(
    "error",
    [
        *(
            ValueError,
            TypeError,
            KeyError,
            IndexError,
            AttributeError,
            OverflowError,
            ZeroDivisionError,
            AssertionError,
        ),
        *(EOFError, SyntaxError, MemoryError, RecursionError, OSError, UnicodeError),
        *(struct.error, tokenize.TokenError, tarfile.ReadError, csv.Error, pa.ArrowInvalid, SafetensorError),
    ],
)
def test_whatever_a_library_raises_is_a_header_error_of_one_short_line(error):
    with fails(HeaderError, "in the second line", "characters)") as caught, parsing():
        raise error("a fault\n  in the second line " + "x" * 5000)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_an_error_without_words_is_named():
    with fails(HeaderError, "MemoryError"), parsing():
        raise MemoryError


@pytest.mark.parametrize(
    "error", [StorageError("refused"), UnavailableError("gone"), ConnectionResetError("cut"), TimeoutError("late")]
)
def test_errors_of_the_store_pass(error):
    with pytest.raises(type(error)) as caught, parsing():
        raise error
    assert caught.value is error


def test_faults_of_the_program_pass():
    with pytest.raises(KeyboardInterrupt), parsing():
        raise KeyboardInterrupt


@pytest.mark.parametrize("size", [-1, MOST + 1, 2**40])
def test_a_header_is_read_up_to_a_mebibyte(size):
    file = Bounded(io.BytesIO(bytes(2 * MOST)))
    with fails(HeaderError, f"{MOST:,}"):
        file.read(size)
    assert file.tell() == 0
    assert len(file.read(MOST)) == MOST


DATA = random.Random(0).randbytes(3000)


@pytest.fixture(scope="module", params=["disk", "memory"])
def store(request, tmp_path_factory):
    """Where a file with `DATA` lies: its filesystem and its path there."""
    folder = tmp_path_factory.mktemp("plain")
    filesystem, path = resolve(f"{folder}/a" if request.param == "disk" else f"fsspec+memory://{folder.name}/a")
    filesystem.pipe_file(path, DATA)
    return filesystem, path


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 3200), st.integers(-1, 700)), max_size=20),
    st.integers(0, 100),
    st.integers(0, 4000),
    st.integers(0, 4000),
)
def test_reads_are_those_of_a_plain_file(store, reads, least, most, tail):
    plain, file = io.BytesIO(DATA), StoredFile(*store, least=least, most=most, tail=tail)
    for position, size in reads:
        assert file.seek(position) == plain.seek(position)
        assert file.read(size) == plain.read(size)
        assert file.tell() == plain.tell()
        assert file.read_at(position, abs(size)) == DATA[position : position + abs(size)]
        assert file.read(7) == plain.read(7)
    assert file.seek(-5, io.SEEK_END) == 2995
    assert io.BufferedReader(file).read() == DATA[-5:]
    assert file.closed
