"""The images of a run or of a prediction, read from its own source."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

from icce_ray.io.decode import Reject
from icce_ray.io.filenames import to_bytes
from icce_ray.io.sources import FeatureSource, SourceError, find_source, found_source
from icce_ray.io.sources.folder import FolderSource
from icce_ray.io.sources.walk import one_ahead
from icce_ray.io.stores import is_local, resolve
from icce_ray.store import RunError, Store

#: Shards of the manifest read at the same time.
_SHARDS = 8


class RunImages:
    """The images of a run, or of what `icce predict` has written, by image_id.

    Attributes:
        has_pixels: False for a source of features, whose images have no bytes.
        embed: how the run read its images: `max_bytes`, `max_pixels`.
    """

    def __init__(self, store: Store) -> None:
        """Looks for the source, at its first level only.

        Raises RunError if `store` is neither a run nor a prediction, or its images are not listed yet; SourceError if
        the source is not there any more; OSError where its store does not answer.
        """
        location, self.embed = store.images()
        marker = store.require("list")
        self._store, self._files = store, marker.files
        self._ends = np.cumsum([0, *(info.rows or 0 for info in marker.files)])
        try:
            self._source = find_source(found_source(location, marker.summary))
        except SourceError as error:
            raise SourceError(
                f"the images of {store.root} cannot be read any more: {error}. A relative path counts from the folder "
                "of this command; images that were moved must be put back"
            ) from error
        self.has_pixels = not isinstance(self._source, FeatureSource)
        self._filesystem, self._base = resolve(location)

    def __len__(self) -> int:
        """Images that were listed."""
        return int(self._ends[-1])

    @property
    def can_link(self) -> bool:
        """Whether each image is a file of its own below a local folder."""
        return isinstance(self._source, FolderSource) and is_local(self._filesystem)

    def rows(self, image_ids: np.ndarray) -> pa.Table:
        """Rows of the manifest (image_id, uri, key, size, container, position) of int64 ids [n], in the order asked.

        Reads the shards that hold them, some at a time. Raises RunError for an id that is not listed.
        """
        ids = np.asarray(image_ids, np.int64)
        wrong = ids[(ids < 0) | (ids >= len(self))]
        if len(wrong):
            raise RunError(f"image_id {wrong[0]} is not listed in {self._store.root}: ids are 0 to {len(self) - 1}")
        shard_of = np.searchsorted(self._ends, ids, side="right") - 1
        shards = np.unique(shard_of)
        if not len(shards):
            return self._store.storage.read_table(self._files[0].path).slice(0, 0)
        order = np.argsort(shard_of, kind="stable")
        parts = np.split(ids[order], np.searchsorted(shard_of[order], shards[1:]))
        with ThreadPoolExecutor(_SHARDS) as pool:
            table = pa.concat_tables(pool.map(self._of_shard, shards, parts))
        return table.take(pa.array(np.argsort(order, kind="stable")))

    def _of_shard(self, shard: int, ids: np.ndarray) -> pa.Table:
        table = self._store.storage.read_table(self._files[shard].path)
        return table.take(pa.array(ids - self._ends[shard]))

    def read(self, image_ids: np.ndarray, *, threads: int = 8) -> Iterator[tuple[int, bytes | Reject]]:
        """(image_id, bytes of the file) of int64 ids [n], in ascending order, each as it is asked for.

        A Reject in the place of bytes that cannot be read any more, or of which there are not as many as were listed:
        then the file has been replaced since. In memory are some images a thread. Raises RunError for features, and
        OSError where the store itself does not answer.
        """
        if not self.has_pixels:
            raise RunError(f"{self._source.spec.location} holds features: it has no images to read")
        rows = self.rows(np.sort(np.asarray(image_ids, np.int64)))  # what lies together is read together
        spans = self._source.read_spans(rows, max_bytes=self.embed.max_bytes)
        columns = rows["image_id"].to_pylist(), rows["size"].to_pylist()
        for image_id, size, data in zip(*columns, one_ahead(spans, threads), strict=True):
            changed = not isinstance(data, Reject) and _replaced(len(data), size)
            yield image_id, changed or data

    def link(self, image_ids: np.ndarray) -> Iterator[tuple[int, Path | Reject]]:
        """(image_id, absolute path) as `read` gives bytes, and with the same Rejects; only where `can_link`."""
        rows = self.rows(np.sort(np.asarray(image_ids, np.int64)))
        for image_id, uri, size in zip(*(rows[name].to_pylist() for name in ("image_id", "uri", "size")), strict=True):
            path = Path(self._base) / os.fsdecode(to_bytes(uri))
            if path.is_file():
                yield image_id, _replaced(path.stat().st_size, size) or path
            else:
                yield image_id, Reject("unreadable", f"there is no file {path} any more")


def _replaced(now: int, listed: int | None) -> Reject | None:
    """The reject of an image of another number of bytes than when it was listed, if that is known."""
    if listed is None or now == listed:
        return None
    return Reject("unreadable", f"{now} bytes now, {listed} when it was listed: replaced")
