"""The same images in every form that a source may have."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

Images = Sequence[tuple[str, bytes]]

FORMS = (
    *("files", "webdataset", "one tar", "img2dataset", "parquet", "one parquet", "hugging face", "datasets", "lance"),
    *("uris", "uri table"),
)
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(form: str, images: Images, folder: Path, *, shards: int = 3) -> str:
    """Write (key, bytes) pairs as `form` below an empty folder; the source's path below it, "" for the folder itself.

    Keys are relative paths with the ending of an image; the source lists them in the order of the keys, which must be
    sorted, and gives them the same keys in every form.
    """
    assert list(images) == sorted(images, key=lambda pair: pair[0].encode())
    folder.mkdir(parents=True, exist_ok=True)
    parts = list(_parts(images, shards))
    if form == "files":
        return _files(images, folder)
    if form == "uris":
        _files(images, folder)
        (folder / "list.txt").write_text("".join(f"{key}\n" for key, _ in images))
        return "list.txt"
    if form == "uri table":
        _files(images, folder)
        pq.write_table(pa.table({"uri": [key for key, _ in images]}), folder / "list.parquet")
        return "list.parquet"
    if form == "one tar":
        write_tar(folder / "all.tar", images)
        return "all.tar"
    if form == "one parquet":
        _parquet(folder / "all.parquet", images)
        return "all.parquet"
    if form == "lance":
        import lance  # which takes half a second

        lance.write_dataset(_hugging_face(images), folder / "all.lance", max_rows_per_file=-(-len(images) // shards))
        return "all.lance"
    if form == "datasets":
        names = [f"data-{number:05d}-of-{len(parts):05d}.arrow" for number in range(len(parts))]
        state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0123456789abcdef"}
        (folder / "state.json").write_text(json.dumps(state))
        (folder / "dataset_info.json").write_text("{}")
        for name, part in zip(names, parts, strict=True):
            write_arrow(folder / name, _hugging_face(part))
    for number, part in enumerate(parts if form != "datasets" else ()):
        name = f"{number:05d}"
        if form == "webdataset":
            write_tar(folder / f"{name}.tar", part, beside={".cls": b"3", ".json": b"{}"})
        elif form == "img2dataset":
            write_tar(folder / f"{name}.tar", part, beside={".json": b"{}", ".txt": b"a caption"})
            pq.write_table(pa.table({"key": [key for key, _ in part]}), folder / f"{name}.parquet")
            (folder / f"{name}_stats.json").write_text(json.dumps({"count": len(part)}))
        elif form == "parquet":
            _parquet(folder / f"{name}.parquet", part)
        elif form == "hugging face":
            pq.write_table(_hugging_face(part), folder / f"train-{name}.parquet", row_group_size=40)
        else:
            raise ValueError(f"unknown form {form!r}; one of {FORMS}")
    return ""


def write_arrow(path: Path, table: pa.Table, rows: int = 10) -> None:
    """A stream of batches of so many rows, as `save_to_disk` writes it."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)


def _hugging_face(images: Images) -> pa.Table:
    structs = [{"bytes": data, "path": key} for key, data in images]
    return pa.table({"image": pa.array(structs, IMAGE), "label": list(range(len(images)))})


def write_tar(path: Path, members: Images, *, beside: dict[str, bytes] | None = None) -> None:
    """A tar with these members, each followed by one file an ending of `beside`."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            _add(tar, name, data)
            for ending, other in (beside or {}).items():
                _add(tar, name.rpartition(".")[0] + ending, other)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _parquet(path: Path, images: Images) -> None:
    table = pa.table({"key": [key for key, _ in images], "jpg": pa.array([data for _, data in images], pa.binary())})
    pq.write_table(table, path, row_group_size=40)


def _files(images: Images, folder: Path) -> str:
    for key, data in images:
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return ""


def _parts(images: Images, shards: int) -> Iterator[Images]:
    coming = iter(images)
    size = -(-len(images) // shards)
    while part := list(islice(coming, size)):
        yield part
