"""Names of numbered files, and their order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from icce_ray.io.storage import FileInfo

_SHARD = re.compile(r"part-([0-9]{6}|[1-9][0-9]{6,11})\.parquet")


def shard_path(folder: str, number: int) -> str:
    """`FOLDER/part-000012.parquet`: six digits, and more from 1,000,000 on."""
    return f"{folder}/part-{number:06d}.parquet"


def shard_number(path: str) -> int | None:
    """The number in a shard's path, None if it is no shard."""
    match = _SHARD.fullmatch(path.rpartition("/")[2])
    return int(match[1]) if match else None


def in_order(infos: Iterable[FileInfo]) -> list[FileInfo]:
    """Files by name, but shards by number: from 1,000,000 on that is not the order of their names."""

    def place(info: FileInfo) -> tuple[str, str, int]:
        folder, _, name = info.path.rpartition("/")
        number = shard_number(name)
        return (folder, name, 0) if number is None else (folder, "part-", number)

    return sorted(infos, key=place)


def evenly(files: Sequence[FileInfo], share: float) -> list[FileInfo]:
    """About this share of some shards, at least one and at most all, evenly spread over them."""
    wanted = max(1, min(len(files), round(len(files) * share)))
    last = len(files) - 1
    return [files[place * last // max(1, wanted - 1)] for place in range(wanted)] if files else []
