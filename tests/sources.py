"""What a source of images or features gives, read back by tests."""

from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import pyarrow as pa
import pyarrow.parquet as pq

from icce_ray.io.sources.base import LISTED

LIMIT = 1 << 20


def listed(source):
    """All rows of its listing."""
    tables = list(source.listing())
    assert all(table.schema == LISTED for table in tables)
    return pa.concat_tables(tables)


def bytes_of(source, rows=None, limit=LIMIT):
    """The bytes or the Reject of some rows, by default of all."""
    return list(read(source, listed(source) if rows is None else rows, limit))


def read(source, rows, limit=LIMIT):
    """`bytes_of`, each as it is asked for."""
    return chain.from_iterable(source.read_spans(rows, max_bytes=limit))


def write_parquet(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return path


def rows_give_their_bytes(source, rows, images, chosen):
    """Some rows, in any order and repeated, together and by spans that threads read."""
    some = rows.take(chosen)
    assert bytes_of(source, some) == [images[row] for row in chosen]
    spans = source.spans(some)
    assert [row for begin, end in spans for row in range(begin, end)] == list(range(len(chosen)))
    with ThreadPoolExecutor(4) as pool:
        parts = pool.map(lambda span: bytes_of(source, some.slice(span[0], span[1] - span[0])), spans)
        assert [found for part in parts for found in part] == [images[row] for row in chosen]
