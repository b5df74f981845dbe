"""Labelled images as tar files, as the package webdataset reads them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from icce_ray.export.samples import Sample

#: A shard is full at this many images or bytes, whichever comes first.
SHARD_IMAGES, SHARD_BYTES = 10_000, 1_000_000_000


def write_webdataset(
    samples: Iterable[Sample],
    folder: Path,
    names: dict[int, str] | None,
    *,
    shard_images: int = SHARD_IMAGES,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """`shard-000000.tar` ... with NUMBER.jpg, NUMBER.cls (the label) and NUMBER.json for each image, in this order.

    The JSON holds uri, key, label, confidence, and the class's name, null where it has none. A shard is closed before
    an image that would make it larger than a limit; a larger image stands alone in one.
    """
    with ExitStack() as stack:
        tar: tarfile.TarFile | None = None
        shard = images = written = 0
        for sample in samples:
            if isinstance(sample.data, Path):
                raise TypeError("a tar file holds images, no links")
            members = {sample.ending: sample.data, ".cls": str(sample.label).encode(), ".json": _json(sample, names)}
            size = sum(_size_in_tar(data) for data in members.values())
            if tar is None or images >= shard_images or written + size > shard_bytes:
                stack.close()
                tar = stack.enter_context(
                    tarfile.open(folder / f"shard-{shard:06d}.tar", "w", format=tarfile.GNU_FORMAT)
                )
                shard, images, written = shard + 1, 0, 0
            for ending, data in members.items():
                member = tarfile.TarInfo(f"{sample.number}{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            images, written = images + 1, written + size


def _json(sample: Sample, names: dict[int, str] | None) -> bytes:
    told = {"uri": sample.uri, "key": sample.key, "label": sample.label, "confidence": sample.confidence}
    return json.dumps(told | {"name": (names or {}).get(sample.label)}, ensure_ascii=False).encode()


def _size_in_tar(data: bytes) -> int:
    """Bytes of a member: a header and whole blocks."""
    return tarfile.BLOCKSIZE * (1 - -len(data) // tarfile.BLOCKSIZE)
