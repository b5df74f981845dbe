"""The images of a run or of a prediction, read from its own source, and each with its label."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from icce_ray.export.names import safe_name
from icce_ray.io.decode import Reject
from icce_ray.io.filenames import to_bytes
from icce_ray.io.sources import FeatureSource, SourceError, find_source, found_source
from icce_ray.io.sources.folder import FolderSource
from icce_ray.io.sources.walk import one_ahead
from icce_ray.io.stores import is_local, resolve
from icce_ray.io.user_tables import without_formulas
from icce_ray.progress import Progress
from icce_ray.store import RunError, Store
from icce_ray.store.updates import Generation

FIELDS = ("uri", "key", "label", "confidence")
#: File in an export that names the images it had to leave out.
UNREADABLE = "unreadable.csv"
#: Bytes of a file that show its format.
HEAD = 16
# First bytes of the formats of io.decode, and the endings they go by, the usual one first.
_STARTS: tuple[tuple[re.Pattern[bytes], tuple[str, ...]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), (".jpg", ".jpeg")),
    (re.compile(rb"\x89PNG"), (".png",)),
    (re.compile(rb"GIF8"), (".gif",)),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), (".webp",)),
    (re.compile(rb"BM"), (".bmp",)),
    (re.compile(rb"II\*\0|MM\0\*|II\+\0|MM\0\+"), (".tif", ".tiff")),
    (re.compile(rb"P[14]"), (".pbm", ".pnm", ".ppm")),
    (re.compile(rb"P[25]"), (".pgm", ".pnm", ".ppm")),
    (re.compile(rb"P[36]"), (".ppm", ".pnm")),
    (re.compile(rb"P[fF]"), (".pnm", ".ppm")),
)
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


@dataclass(frozen=True)
class Sample:
    """One image and its label. `data` are the bytes of its file, or its path where files are linked."""

    number: str
    uri: str
    key: str
    label: int
    confidence: float
    data: bytes | Path
    ending: str

    @property
    def file_name(self) -> str:
        """Unlike that of any other image, also without its ending: the number, and the stem of the key's last part."""
        name = to_bytes(self.key).decode("utf-8", "surrogateescape")  # its backslashes are none of `to_text`
        last = name.replace("\\", "/").rpartition("/")[2]
        stem = safe_name(last.rsplit(".", 1)[0].replace(".", "_"))
        return f"{self.number}-{stem}{self.ending}" if stem else f"{self.number}{self.ending}"

    def place(self, path: Path) -> None:
        """Write the file, unchanged, or a link to it."""
        if isinstance(self.data, Path):
            path.symlink_to(self.data)
        else:
            path.write_bytes(self.data)


@dataclass
class Exported:
    """What has been written: how many images, how many are of rejected classes, how many unreadable, by reason."""

    images: int = 0
    rejected: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)


def samples(
    found: Sequence[Generation], folder: Path, progress: Progress, done: Exported, *, link: bool = False
) -> Iterator[Sample]:
    """Every image with a prediction, by image_id; those that cannot be read go to UNREADABLE in `folder`.

    Counts into `done`. One shard of the predictions is in memory at a time, with some images. Raises RunError for a
    source of features, for `link` where the source is no local folder, and at the end if no image could be read.
    """
    sources = [RunImages(one.store) for one in found]
    for one, images in zip(found, sources, strict=True):
        if not images.has_pixels:
            raise RunError(f"{one.store.root} was made from features and has no images; use --format csv or parquet")
        if link and not images.can_link:
            raise RunError("--link: links lead to files of a local folder, which the source is not; export without it")
    for one, images in zip(found, sources, strict=True):
        yield from _samples(one, images, folder, progress, done, link=link)
    if not done.images:
        raise RunError(f"none of the images of {found[0].store.root} can be read any more: {dict(done.unreadable)}")


def _samples(
    one: Generation, images: RunImages, folder: Path, progress: Progress, done: Exported, *, link: bool
) -> Iterator[Sample]:
    """Those of the run, or of one update, whose numbers begin with its own."""
    width, update = max(6, len(str(len(images) - 1))), f"u{one.number}-" if one.number else ""
    for info in one.files:
        table = one.table(info, ("image_id", *FIELDS)).sort_by("image_id")
        # As short as float32 needs: 0.7, not 0.699999988079071.
        confidence = map(float, table["confidence"].to_numpy().astype(np.float32).astype(str))
        rows = zip(*(table[name].to_pylist() for name in FIELDS[:-1]), confidence, strict=True)
        ids = table["image_id"].to_numpy()
        for row, (image_id, data) in zip(rows, images.link(ids) if link else images.read(ids), strict=True):
            uri, key, label, probability = row
            try:
                ending = ending_of(_head(data), key)
            except Reject as reject:
                done.unreadable[reject.reason] += 1
                _list_unreadable(folder / UNREADABLE, uri, key, label, reject)
            else:
                assert not isinstance(data, Reject)
                yield Sample(f"{update}{image_id:0{width}d}", uri, key, label, probability, data, ending)
                done.images += 1
            gone = done.unreadable.total()
            progress.update(done.images + gone, **({"unreadable": gone} if gone else {}))


def ending_of(head: bytes, key: str) -> str:
    """The ending for an image that starts with `head`: that of `key` in small letters if it is one of its format.

    Raises Reject for bytes that are no image: a file that was replaced after it had been labelled.
    """
    for start, endings in _STARTS:
        if start.match(head):
            own = f".{key.rpartition('.')[2].lower()}"
            return own if own in endings else endings[0]
    raise Reject("not_an_image", f"it starts with {head[:8]!r}, no image's")


def _head(data: bytes | Path | Reject) -> bytes:
    """The first bytes of an image. Raises Reject where there is none."""
    if isinstance(data, Reject):
        raise data
    if isinstance(data, bytes):
        return data[:HEAD]
    try:
        with data.open("rb") as file:
            return file.read(HEAD)
    except OSError as error:
        raise Reject("unreadable", f"{type(error).__name__}: {error}"[:300]) from error


def _list_unreadable(path: Path, uri: str, key: str, label: int, reject: Reject) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        if new:
            rows.writerow(["uri", "key", "label", "reason", "detail"])
        uri, key, detail = map(without_formulas, (uri, key, reject.detail))
        rows.writerow([uri, key, label, reject.reason, detail])
