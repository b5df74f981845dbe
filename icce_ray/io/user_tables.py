"""Tables that people write, as CSV or Parquet, and text of a CSV that no spreadsheet takes for a formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from icce_ray.documents import shown
from icce_ray.io.locations import StorageError, retried
from icce_ray.io.stores import HeaderError, info, parsing, read_whole, resolve

#: How spreadsheets tell a formula (OWASP, "CSV Injection"), behind any apostrophes that were there before.
_FORMULA = r"'*[=+\-@\t\r\n＝＋－＠]"


def without_formulas(text: str) -> str:
    """`text` for a cell of a CSV: with an apostrophe before it where a spreadsheet would run it. See `as_it_was`."""
    return f"'{text}" if re.match(_FORMULA, text) else text


def column_without_formulas(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """`without_formulas` of each."""
    return pc.call_function("replace_substring_regex", [texts], _replace(rf"\A({_FORMULA})", r"'\1"))


def column_as_it_was(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """What `without_formulas` was given: without the apostrophe before what looks like a formula, and only there."""
    return pc.call_function("replace_substring_regex", [texts], _replace(rf"\A'({_FORMULA})", r"\1"))


def _replace(pattern: str, replacement: str) -> pc.ReplaceSubstringOptions:
    return pc.ReplaceSubstringOptions(pattern, replacement, max_replacements=1)


def read_user_table(
    what: str, location: str, needs: Sequence[str], one_of: Sequence[str] = (), also: Sequence[str] = ()
) -> pa.Table:
    """The columns `needs`, the first of `one_of` that is there, those of `also` that are: CSV in UTF-8 (by its name) or
    Parquet.

    Columns of a CSV are text as `column_as_it_was`; those of Parquet have their own type, categories the type of what
    they stand for. Any text is large_string. `what` is the option or setting that gave the location.

    Raises StorageError, which names `what`, the location and the remedy, for anything else: no regular file, neither
    format, text that is not UTF-8, a missing column, one that is there twice.
    """
    who = f"{what} {shown(location, 300, plain=True)}"
    path = resolve(location)[1]
    try:
        with parsing():
            data = retried(lambda: _content(who, location), what=who)
            if path.lower().endswith(".csv"):
                table = _of_csv(data, lambda names: _wanted(who, names, needs, one_of, also))
            else:
                file = pq.ParquetFile(pa.BufferReader(data))
                table = file.read(_wanted(who, file.schema_arrow.names, needs, one_of, also))
            table = pa.table({name: _plain(table[name]) for name in table.column_names})
            table.validate(full=True)
    except HeaderError as error:
        raise StorageError(f"{who} is neither CSV in UTF-8 (by its name) nor Parquet: {error}") from error
    return table


def _content(who: str, location: str) -> bytes:
    kind, _ = info(location)
    if kind is None:
        raise StorageError(f"{who}: no such file; give CSV or Parquet")
    if kind != "file":  # a pipe would be waited for, a device never ends
        raise StorageError(f"{who} is a folder, a pipe or a device, not a file; give CSV or Parquet")
    return read_whole(*resolve(location))


def _wanted(who: str, names: list[str], needs: Sequence[str], one_of: Sequence[str], also: Sequence[str]) -> list[str]:
    wanted = [*needs, *[name for name in one_of if name in names][:1]]
    if len(wanted) < len(needs) + bool(one_of) or not set(wanted) <= set(names):
        more = f" and one of {', '.join(one_of)}" if one_of else ""
        raise StorageError(f"{who} has columns {shown(names, 300)}; needs {', '.join(needs)}{more}")
    wanted += [name for name in also if name in names]
    for name in wanted:
        if names.count(name) > 1:
            raise StorageError(f"{who} has {names.count(name)} columns {name}; leave one of them")
    return wanted


def _of_csv(data: bytes, wanted: Callable[[list[str]], list[str]]) -> pa.Table:
    """Some columns, as text. A line break may stand within quotes."""
    names = wanted(next(csv.reader(io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline="")), []))
    parse = pa_csv.ParseOptions(newlines_in_values=True)
    convert = pa_csv.ConvertOptions(include_columns=names, column_types=dict.fromkeys(names, pa.large_string()))
    table = pa_csv.read_csv(pa.BufferReader(data), parse_options=parse, convert_options=convert)
    return pa.table({name: column_as_it_was(table[name]) for name in names})


def _plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Categories as the values they stand for, any text as large_string."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    is_text = pa.types.is_string(values.type) or pa.types.is_string_view(values.type)
    return values.cast(pa.large_string()) if is_text else values
