"""Pictures of a chunk come in blocks of bounded size, each span is read once, and no block depends on who read it."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from icce_ray.backbones import describe_backbone
from icce_ray.io.decode import Reject
from icce_ray.settings import EmbedSettings
from icce_ray.stages import stream as streams
from icce_ray.stages.reading import READ_TWICE, pieces, read
from icce_ray.stages.stream import Stream, packed, unpacked
from icce_ray.store.artifacts import FEATURES, REJECTS
from tests.pictures import encode, scene

SIDE = 32
#: Spans of a thousand rows, and how many tasks read them in blocks of 64.
SPANS = {
    "files": (1, 16),
    "small row groups": (100, 6),
    "large row groups": (250, 4),
    "one file": (1000, 1),
}


@pytest.mark.parametrize(("group", "tasks"), SPANS.values(), ids=SPANS)
def test_tasks_share_a_chunk_at_the_edges_of_blocks_and_read_little_twice(group, tasks):
    found = list(pieces([(row, min(row + group, 1000)) for row in range(0, 1000, group)], 64))
    assert list(itertools.chain.from_iterable(itertools.starmap(range, found))) == list(range(1000))
    assert all(begin % 64 == 0 for begin, _ in found)
    assert sum(begin % group for begin, _ in found) <= READ_TWICE * 1000
    assert len(found) == tasks


class Fake:
    """A source of pictures whose spans are of `group` rows, and what was read of it."""

    def __init__(self, group, rows):
        self.group, self.rows, self.opened, self.given = group, rows, [], 0

    def spans(self, rows):
        return [(start, min(start + self.group, len(rows))) for start in range(0, len(rows), self.group)]

    def read_spans(self, rows, *, max_bytes):
        for begin, end in self.spans(rows):
            yield self.read_span(rows["key"].to_pylist()[begin:end])

    def read_span(self, names):
        self.opened.append(names[0])
        for name in names:
            self.given += 1
            yield Reject("empty", name) if int(name) % 7 == 0 else encode(scene(40, int(name) + 8), "PNG")


def stream_of(source, batch):
    embed = EmbedSettings(backbone="hog", features="hog")
    info = describe_backbone("hog", "hog", image_size=SIDE)
    return Stream(source=source, root="", embed=embed, info=info, accepted=FEATURES, rejected=REJECTS, batch=batch)


def rows_of(count):
    names = {name: [f"{number}" for number in range(count)] for name in ("uri", "key")}
    return pa.table({name: range(count) for name in ("chunk", "chunk_rows", "image_id")} | names)


@pytest.mark.parametrize("group", [1, 5, 50])
def test_blocks_hold_the_same_pictures_whatever_their_size_and_never_more(group, monkeypatch):
    rows = rows_of(50)
    (whole,) = read(packed(rows), stream=stream_of(Fake(group, rows), batch=64))
    (whole,) = unpacked(whole)
    assert whole["reason"].null_count == 50 - 8
    monkeypatch.setattr(streams, "BLOCK_BYTES", 9 * SIDE * SIDE * 3)
    source, made = Fake(group, rows), []
    for block in read(packed(rows), stream=stream_of(source, batch=4)):
        assert len(block) == 1, "Ray Data cuts between rows"
        assert block.nbytes <= streams.BLOCK_BYTES + 1024
        made += unpacked(block)
        assert source.given == sum(map(len, made)), "no more is read than has been asked for"
    assert [len(block) for block in made] == [8] * 6 + [2]
    assert pa.concat_tables(made).equals(whole)
    assert len(source.opened) == len(source.spans(rows)), "each span is opened once"


def test_a_block_is_of_whole_batches_and_bounded_whatever_the_chunk():
    info = describe_backbone("hog", "hog", image_size=224)
    for batch, rows in ((64, 256), (100, 200), (1, 278), (512, 512), (4096, 4096)):
        made = Stream(
            source=Fake(1, None),
            root="",
            embed=EmbedSettings(backbone="hog", rows_per_shard=2**31 - 1),
            info=info,
            accepted=FEATURES,
            rejected=REJECTS,
            batch=batch,
        )
        assert made.block_rows == rows
        assert made.block_rows * made.input_bytes <= max(streams.BLOCK_BYTES, batch * np.prod((224, 224, 3)))
