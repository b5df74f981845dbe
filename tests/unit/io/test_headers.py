"""Headers of files from outside: what a library raises is one error, what the store raises stays its own."""

import csv
import io
import struct
import tarfile
import tokenize

import pyarrow as pa
import pytest
from safetensors import SafetensorError

from icce_ray.io.headers import MOST, Bounded, HeaderError, parsing
from icce_ray.io.locations import StorageError, UnavailableError
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
