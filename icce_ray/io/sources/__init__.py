"""Sources of images: a folder or prefix, tar files, tables, a list of URIs, or features computed elsewhere.

`find_source` says which kind a location is, by its format setting or else by what lies there, and gives the `Source`
that lists and reads it. `open_source` opens a source whose kind is decided, as `found_source` has it of a listed run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from icce_ray.io.locations import SourceError, refuse_secrets, retried
from icce_ray.io.sources.base import Source, SourceSpec
from icce_ray.io.sources.datasets import DatasetSource
from icce_ray.io.sources.feature_spaces import feature_source
from icce_ray.io.sources.features import FeatureSource
from icce_ray.io.sources.folder import IMAGE_EXTENSIONS, FolderSource
from icce_ray.io.sources.lance import LanceSource
from icce_ray.io.sources.parquet import ParquetSource, parquet_format
from icce_ray.io.sources.uris import UriList
from icce_ray.io.sources.walk import walk
from icce_ray.io.sources.webdataset import TarSource
from icce_ray.io.stores import check_access, info, resolve

__all__ = ["FeatureSource", "Source", "SourceError", "SourceSpec", "find_source", "found_source", "open_source"]

#: File names looked at before the format of a folder is decided; more only while none of them decides.
LOOK_AT = 1000

_OPEN: dict[str, Callable[[SourceSpec], Source]] = {
    "files": FolderSource,
    "webdataset": TarSource,
    "parquet": ParquetSource,
    "datasets": DatasetSource,
    "lance": LanceSource,
    "uris": UriList,
    "features": feature_source,
}
FORMATS = ("auto", *_OPEN, "img2dataset")
_ENDINGS = {
    "images": IMAGE_EXTENSIONS,
    "tar": (".tar",),
    "packed": (".tar.gz", ".tgz", ".tar.bz2", ".tar.zst", ".tar.xz"),
    "parquet": (".parquet",),
    "datasets": (".arrow",),
    "lance": (".lance",),
    "npy": (".npy",),
    "text": (".txt", ".lst"),
}
# The order matters where metadata lie beside the images, as img2dataset and clip-retrieval leave them; Lance keeps
# deletions in .arrow files.
_DECIDES = {"images": "files", "tar": "webdataset", "lance": "lance", "datasets": "datasets", "npy": "features"}


def find_source(spec: SourceSpec) -> Source:
    """The source at `spec.location`; what was found of it (format, columns) stands in its own `spec`.

    Raises SourceError if nothing is there, the store refuses, or its kind cannot be decided; the message says what was
    found and which setting decides. LocationError for a location that cannot be one.
    """
    if spec.format not in FORMATS:
        raise SourceError(f"format = {spec.format!r}; use one of {', '.join(FORMATS)}")
    refuse_secrets(spec.location)
    kind = _check_reachable(spec.location)
    if spec.format in ("auto", "img2dataset"):
        spec = replace(spec, format=_of_file(spec) if kind == "file" else _of_folder(spec))
    return open_source(spec)


def open_source(spec: SourceSpec) -> Source:
    """A source whose `spec` was found before: nothing is looked at again."""
    return _OPEN[spec.format](spec)


def found_source(location: str, summary: dict[str, Any]) -> SourceSpec:
    """The source at `location` as `summary`, of stage `list`, says that it was found: format and columns."""
    return SourceSpec(location, **summary["source"])


def _check_reachable(location: str) -> str:
    """What lies there: "file" or "directory". Raises SourceError if nothing does, or the store refuses."""
    try:
        check_access(location)  # says which of key, secret, bucket or permission is wrong
        kind, _ = retried(lambda: info(location), patience=10, what=location)
    except OSError as error:
        raise SourceError(f"the source {location!r} cannot be read: {error}") from error
    if kind is None:
        path = resolve(location)[1]
        raise SourceError(f"the source {location!r} does not exist ({path}); give a folder, a prefix or a file")
    return kind


def _of_folder(spec: SourceSpec) -> str:
    kinds, first_parquet = _kinds(spec.location)
    if kinds["packed"] and not kinds["tar"]:
        raise SourceError(
            f"{spec.location!r} holds {kinds['packed']} compressed tar files, in which no image can be reached without "
            "unpacking all before it; decompress them (.tar)"
        )
    if kinds["images"] and kinds["tar"]:
        raise SourceError(
            f"{spec.location!r} holds image files ({kinds['images']} of the first {LOOK_AT} names) and tar files "
            f"({kinds['tar']}); say which are meant with --format files or --format webdataset"
        )
    decided = next((form for kind, form in _DECIDES.items() if kinds[kind]), None)
    if decided is not None:
        return decided
    if kinds["parquet"]:
        return parquet_format(spec, first_parquet)
    return "files"  # without any image: its listing says what was there instead


def _of_file(spec: SourceSpec) -> str:
    name = spec.location.split("?", 1)[0] if "://" in spec.location else spec.location
    kind = _kind(name)
    if kind == "parquet":
        return parquet_format(spec, "")
    formats = {kind: _DECIDES[kind] for kind in ("tar", "npy", "datasets")} | {"text": "uris"}
    if kind not in formats:
        raise SourceError(
            f"the source {spec.location!r} is a file; give the folder or prefix that holds the images, "
            "or a .tar, a .parquet, an .arrow, a .npy, or a .txt list of URIs"
        )
    return formats[kind]


def _kinds(location: str) -> tuple[Counter[str], str]:
    """Names by kind, and the first Parquet file: of the first names, of all while none is of these kinds."""
    kinds: Counter[str] = Counter()
    first_parquet = ""
    for count, (path, _) in enumerate(walk(location, Counter())):
        if count >= LOOK_AT and kinds:
            break
        if path.startswith(".") or "/." in path:
            continue
        kind = _kind(path)
        if kind and kind != "text":  # captions beside the images
            kinds[kind] += 1
            first_parquet = first_parquet or (path if kind == "parquet" else "")
    return kinds, first_parquet


def _kind(name: str) -> str | None:
    lower = name.lower()
    return next((kind for kind, endings in _ENDINGS.items() if lower.endswith(endings)), None)
