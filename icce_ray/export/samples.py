"""Labelled images of a run, one after the other, and what is told of those that are gone."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from icce_ray.export.endings import HEAD, ending_of
from icce_ray.export.images import RunImages
from icce_ray.export.names import safe_name
from icce_ray.io.decode import Reject
from icce_ray.io.filenames import to_bytes
from icce_ray.io.user_tables import without_formulas
from icce_ray.progress import Progress
from icce_ray.store import Marker, RunError, Store
from icce_ray.store.artifacts import PREDICTIONS

FIELDS = ("image_id", "uri", "key", "label", "confidence")
#: File in an export that names the images it had to leave out.
UNREADABLE = "unreadable.csv"


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
        """Unlike that of any other image, also without its ending: the number, and what the key's last part says."""
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
    """What has been written: how many images, and how many could not be read any more, by reason."""

    images: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)


def samples(
    store: Store, marker: Marker, folder: Path, progress: Progress, done: Exported, *, link: bool = False
) -> Iterator[Sample]:
    """Every image with a prediction, by image_id; those that cannot be read go to UNREADABLE in `folder`.

    Counts into `done`. One shard of the predictions is in memory at a time, with some images. Raises RunError for a
    source of features, for `link` where the source is no local folder, and at the end if no image could be read.
    """
    images = RunImages(store)
    if not images.has_pixels:
        raise RunError(f"{store.root} was made from features and has no images; use --format csv or parquet")
    if link and not images.can_link:
        raise RunError("--link: links lead to files of a local folder, which the source is not; export without it")
    width = max(6, len(str(len(images) - 1)))
    for info in PREDICTIONS.files(marker.files):
        table = store.storage.read_table(info.path, FIELDS).sort_by("image_id")
        ids = table["image_id"].to_numpy()
        for row, (_, data) in zip(_rows(table), images.link(ids) if link else images.read(ids), strict=True):
            image_id, uri, key, label, confidence = row
            try:
                found, head = _found(data)
                ending = ending_of(head, key)
            except Reject as reject:
                done.unreadable[reject.reason] += 1
                _tell(folder / UNREADABLE, uri, key, label, reject)
            else:
                yield Sample(f"{image_id:0{width}d}", uri, key, label, confidence, found, ending)
                done.images += 1
            gone = done.unreadable.total()
            progress.update(done.images + gone, **({"unreadable": gone} if gone else {}))
    if not done.images:
        raise RunError(f"none of the images of {store.root} can be read any more: {dict(done.unreadable)}")


def _rows(table: pa.Table) -> Iterator[tuple[int, str, str, int, float]]:
    # As short as float32 needs: 0.7, not 0.699999988079071.
    confidence = [float(text) for text in table["confidence"].to_numpy().astype(np.float32).astype(str)]
    return zip(*(table[name].to_pylist() for name in FIELDS[:-1]), confidence, strict=True)


def _found(data: bytes | Path | Reject) -> tuple[bytes | Path, bytes]:
    """An image and its first bytes. Raises Reject where there is none."""
    if isinstance(data, Reject):
        raise data
    if isinstance(data, bytes):
        return data, data[:HEAD]
    try:
        with data.open("rb") as file:
            return data, file.read(HEAD)
    except OSError as error:
        raise Reject("unreadable", f"{type(error).__name__}: {error}"[:300]) from error


def _tell(path: Path, uri: str, key: str, label: int, reject: Reject) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        if new:
            rows.writerow(["uri", "key", "label", "reason", "detail"])
        uri, key, detail = map(without_formulas, (uri, key, reject.detail))
        rows.writerow([uri, key, label, reject.reason, detail])
