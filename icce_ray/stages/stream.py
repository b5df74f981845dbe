"""What every task and actor of one pass over the images has to know, and how blocks and errors travel between them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
from ray.exceptions import UserCodeException

from icce_ray.backbones import BackboneInfo
from icce_ray.io.sources import FeatureSource, Source
from icce_ray.settings import EmbedSettings
from icce_ray.stages.spans import spans_of
from icce_ray.store import RunError
from icce_ray.store.artifacts import Table

#: A block of decoded pictures has at most so many bytes and rows, unless one batch of the backbone has more.
BLOCK_BYTES, BLOCK_ROWS = 40 << 20, 512


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One pass over the images.

    Attributes:
        source: of the images, as it was listed.
        root: of the run or prediction that holds the manifest and gets the shards.
        embed: how images are read and embedded.
        info: what the backbone gives; of a source of features, which needs none, what it holds.
        accepted: table of the rows with a result.
        rejected: table of the rows with a reason.
        batch: images of one forward pass, at most.
        classifier: root of the run that labels the features; None writes the features themselves.
    """

    source: Source
    root: str
    embed: EmbedSettings
    info: BackboneInfo
    accepted: Table
    rejected: Table
    batch: int
    classifier: str | None = None

    @property
    def precomputed(self) -> bool:
        """Whether the source holds features, and no image is read."""
        return isinstance(self.source, FeatureSource)

    @property
    def measures(self) -> bool:
        """Whether figures of the pictures are kept: beside their features, not beside labels."""
        return not self.precomputed and self.classifier is None

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Columns of the features of each feature space."""
        return list(spans_of(self.info).values()) or [(0, self.info.dim)]

    @property
    def on_gpu(self) -> bool:
        """Whether there is anything to compute that a GPU is for."""
        return not self.precomputed and any(model.name != "hog" for model in self.info.models)

    @property
    def input_bytes(self) -> int:
        """Bytes of what is known of one image before the backbone: its pixels, or float32 features."""
        return 4 * self.info.dim if self.precomputed else self.info.input_bytes

    @property
    def block_rows(self) -> int:
        """Rows of a block, a multiple of `batch`: so the size of a block changes no batch, and no feature."""
        return max(1, min(BLOCK_ROWS, BLOCK_BYTES // self.input_bytes) // self.batch) * self.batch


def packed(table: pa.Table) -> pa.Table:
    """A block for Ray Data: one row that holds the table, so that it is neither cut nor joined with another."""
    rows = table.combine_chunks().to_struct_array().combine_chunks()
    return pa.table({"rows": pa.ListArray.from_arrays(pa.array([0, len(table)], pa.int32()), rows)})


def unpacked(block: pa.Table) -> list[pa.Table]:
    """The tables that `packed` has made rows of, without a copy."""
    return [pa.Table.from_struct_array(cell.values) for cell in block["rows"]]


class TaskError(RunError, UserCodeException):
    """An error of a task whose `message` the user should see; Ray Data adds words of its own to `args` on the way."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@contextlib.contextmanager
def errors_for_the_driver() -> Iterator[None]:
    """Errors of this package, which say what to do, as TaskError; any other as a fault of the program."""
    try:
        yield
    except Exception as error:
        ours = type(error).__module__.startswith("icce_ray.")
        raise TaskError(str(error)) if ours else UserCodeException(f"{type(error).__name__}: {error}") from error
