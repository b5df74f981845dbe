"""The one reader of JSON and YAML from outside: whatever it is given, it gives plain values or says what is wrong."""

import os
from contextlib import suppress
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from icce_ray.documents import (
    MOST_DEPTH,
    DocumentError,
    opened_json,
    opened_yaml,
    parse_json,
    parse_yaml,
    read_regular,
    sealed_json,
    sealed_yaml,
    shaped,
    shown,
)
from tests.failures import fails

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}, *a{i - 1}]\n" for i in range(1, 30))
DEEP = 5_000


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: {b: [1, 2.5, yes, ~, text]}", {"a": {"b": [1, 2.5, True, None, "text"]}}),
        ("1: 2\ntrue: 3", {"1": 2, "True": 3}),
        ("day: 2024-13-45", {"day": "2024-13-45"}),  # a date is text, whether there is such a day or not
        ("2024-01-05 10:00:00", "2024-01-05 10:00:00"),
        ("- =\n- <<", ["=", "<<"]),
        ("1e-3", "1e-3"),  # YAML 1.1; settings take it as a number
        ("[1.0e-3, .inf, 0x1f, 1_000, '7']", [1e-3, float("inf"), 31, 1000, "7"]),
        ('"caf\\udce9"', "caf\udce9"),  # the name of a file that is not UTF-8
        ("", None),
    ],
)
def test_yaml_is_plain_values(text, value):
    assert parse_yaml(text) == parse_yaml(text.encode()) == value


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (BOMB, ["anchors", "line 1", "column 5"]),
        ("&a [*a]", ["anchors"]),
        ("a: {<<: *b}", ["aliases"]),
        ("[" * DEEP, [MOST_DEPTH, "deep"]),
        ("- " * DEEP, [MOST_DEPTH, "deep"]),
        ("0b_", ["'0b_'", "quotes"]),
        ("n: " + "9" * 5_000, ["999", "50 digits"]),
        ("1:" * 40 + "1", ["50 digits"]),
        ("!!int ''", ["tag", "leave it out"]),
        ("!!python/object/apply:os.getcwd []", ["tag", "os.getcwd"]),
        ("a: 1\na: 2", ["'a'", "twice"]),
        ("? [a]\n: 1", ["key", "text"]),
        ("a: [", ["not YAML", "line 1"]),
        ('"\\ud800"', ["no text", "ud800"]),
        ("\x00", ["not YAML"]),
        (b"\xff\xfe\x00", ["not YAML"]),
        ("x" * 300_000, ["262,144 bytes"]),
    ],
)
def test_yaml_that_is_refused(text, parts):
    with fails(DocumentError, *parts) as caught:
        parse_yaml(text)
    message = str(caught.value)
    assert len(message) < 250
    assert message.isprintable(), "one line, and nothing that a terminal would take as a command"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[" * 100_000, ["deep"]),
        ('{"a": ' * 500 + "1" + "}" * 500, ["deep"]),
        ('{"a": 1, "a": 2}', ["'a'", "twice"]),
        ("9223372036854775808", ["9223372036854775808", "2^63"]),
        ('["\\ud800"]', ["ud800"]),
        ("{", ["not JSON"]),
        ("", ["not JSON"]),
    ],
)
def test_json_that_is_refused(text, parts):
    with fails(DocumentError, *parts) as caught:
        parse_json(text)
    assert len(str(caught.value)) < 250


def test_json_is_plain_values():
    text = '{"a": [-9223372036854775808, 1.5, null, "Gr\\u00fc\\ud83d\\ude00"]}'
    assert parse_json(text.encode()) == {"a": [-(2**63), 1.5, None, "Grü😀"]}
    with fails(DocumentError, "4 bytes"):
        parse_json("[1, 2]", most=4)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.text(alphabet="[]{}:,&*!-? \n#'\"0b_x1.e~|>%@`<=T", max_size=60)))
def test_no_content_raises_anything_else(content):
    for parse in (parse_json, parse_yaml):
        with suppress(DocumentError):
            parse(content)


def test_shapes_name_the_field_its_value_and_what_is_wrong():
    class Point(BaseModel):
        x: int
        names: list[str]

    assert shaped(Point, {"x": 3, "names": []}).x == 3
    with fails(DocumentError, "x = 'a'", "1 more"):
        shaped(Point, {"x": "a", "names": ["b", 7]})
    with fails(DocumentError, "names.1 = 7"):
        shaped(Point, {"x": 1, "names": ["b", 7]})
    with fails(DocumentError, "names", "missing"):
        shaped(Point, {"x": 1})
    with fails(DocumentError, "the whole = None"):
        shaped(Point, None)


def test_values_are_cut_short():
    assert shown("ab\x1b") == r"'ab\x1b'"
    assert len(shown("x" * 10_000)) < 100
    assert "digits" in shown([10**5000])


def test_only_files_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    os.mkfifo(tmp_path / "pipe")
    assert read_regular(tmp_path / "file") == b"12345"
    for path, parts in [
        (tmp_path / "pipe", ["a pipe"]),
        ("/dev/zero", ["a device"]),
        (tmp_path, ["a folder"]),
    ]:
        with fails(DocumentError, *parts):
            read_regular(path)
    with fails(DocumentError, "4 bytes"):
        read_regular(tmp_path / "file", most=4)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none")


@pytest.mark.parametrize(
    ("seal", "opened"), [(sealed_json, opened_json), (sealed_yaml, partial(opened_yaml, strict=True))]
)
def test_a_file_with_its_own_checksum_shows_every_flipped_byte(seal, opened):
    content = {"name": "Grüße", "of": {"version": "1.7"}}
    data = seal(content)
    assert opened(data) == content
    for place in range(len(data)):
        for bit in range(8):
            changed = data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]
            with suppress(DocumentError):
                assert set(opened(changed)) != set(content), (place, bit)
    for content_of_old in (b"{}", b'{"a": 1}'):
        assert opened(content_of_old) in ({}, {"a": 1})
