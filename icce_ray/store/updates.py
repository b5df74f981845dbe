"""Updates of a run: what `icce update` has added to it, each in a folder of its own below `updates/`.

An update is a prediction of images that were new when it began, and it keeps their features: list, embed, predict.
Nothing of the run is changed by it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from icce_ray.documents import sealed_yaml
from icce_ray.io.storage import FileInfo
from icce_ray.io.stores import is_local, resolve
from icce_ray.store.artifacts import PREDICTION_FILE, PREDICTIONS, UPDATES
from icce_ray.store.markers import Marker, RunError
from icce_ray.store.run import Store
from icce_ray.store.versions import refinement_of

_arrow: Any = pc  # the stubs know few of its functions
#: Endings of sources that are one file, whose images are named from the folder of that file.
_SCHEME = r"^([A-Za-z][A-Za-z0-9+.-]*)://"
_FILES = (".tar", ".parquet", ".npy", ".txt", ".lst")


def update_folder(number: int) -> str:
    """Where an update lies, below the run; the first is number 1."""
    return f"{UPDATES}/{number:06d}"


def update_of(run: Store, number: int) -> Store:
    """An update, whether it is there or not."""
    return Store(run.storage.uri(update_folder(number)))


def updates(run: Store) -> list[Store]:
    """Those that have begun, which is when their new images are listed; number 1 first."""
    every = (update_of(run, number) for number in itertools.count(1))
    return list(itertools.takewhile(lambda one: one.marker("list") is not None, every))


def update_fingerprints(run: Store) -> dict[str, str]:
    """What its markers must have: the run's very listing and classifier, and features by the same settings."""
    listed, embedded = run.require("list").summary["digest"], run.require("embed").fingerprint
    classifier = "".join(info.sha256 for info in run.require("classifier").files).encode()
    return {"list": listed[:16], "embed": embedded, "predict": hashlib.sha256(classifier).hexdigest()[:16]}


def bind_update(one: Store, run: Store, source: str) -> None:
    """Bind an update to a source, and to features and classifier of the run as it is; what had others is deleted."""
    digests = update_fingerprints(run)
    purpose = {"run": run.root, "classifier": digests["predict"], "source": source, "embed": digests["embed"]}
    if one.storage.exists(PREDICTION_FILE):
        before = one.prediction_file()
        if before == purpose:
            return
        if before["embed"] != purpose["embed"]:
            one.discard_from("embed")
        elif before["classifier"] != purpose["classifier"]:
            one.discard_from("predict")
    one.storage.write_bytes(PREDICTION_FILE, sealed_yaml(purpose))


def check_updates(run: Store) -> None:
    """Raise RunError if the run was listed again since an update: it may hold the images of the update itself."""
    listed = update_fingerprints(run)["list"]
    for number, one in enumerate(updates(run), 1):
        if one.require("list").fingerprint != listed:
            raise RunError(
                f"the images of {run.root} were listed again since its update {number}, whose images may be among them "
                f"now; delete {run.storage.uri(UPDATES)} and update again"
            )


@dataclass(frozen=True)
class Generation:
    """What holds predictions: the run, number 0, or one of its updates."""

    number: int
    store: Store
    marker: Marker
    """Of stage `predict`."""
    replaced: pa.Array
    """Full names of images of which later updates may have another version."""
    rejected: tuple[int, ...] = ()
    """Classes of a refined version whose images are left out."""

    @property
    def files(self) -> list[FileInfo]:
        """Those of the predictions."""
        return PREDICTIONS.files(self.marker.files)

    def table(self, info: FileInfo, columns: Sequence[str]) -> pa.Table:
        """The rows of a file, `uri` and `label` among its columns, less those of rejected classes.

        Images that a later update has in another version are left out too.
        """
        table = self.store.storage.read_table(info.path, columns)
        if self.rejected:
            rejected = pa.array(self.rejected, table["label"].type)
            table = table.filter(_arrow.invert(_arrow.is_in(table["label"], value_set=rejected)))
        if not len(self.replaced):
            return table
        names = full_names(table["uri"], place_of(self.store.images()[0]))
        return table.filter(_arrow.invert(_arrow.is_in(names, value_set=self.replaced)))


def generations(store: Store) -> list[Generation]:
    """The run, or what `icce predict` wrote, then all updates. In memory are names of updates that changed images.

    Raises RunError for an update that is not complete, or has the labels of another classifier than the run's.
    """
    stores = [store] if store.holds_prediction() else [store, *updates(store)]
    if len(stores) > 1:
        check_updates(store)
    markers = [_current(store, number, one) for number, one in enumerate(stores)]
    refinement, found, replaced = refinement_of(store), [], pa.array([], pa.string())
    rejected = () if refinement is None else tuple(refinement.rejected)
    for number, one in reversed(list(enumerate(stores))):
        found.append(Generation(number, one, markers[number], replaced, rejected))
        listed = one.require("list") if number else None
        if listed is not None and listed.summary["changed"]:
            place = place_of(one.images()[0])
            tables = (one.storage.read_table(info.path, ["uri"]) for info in listed.files)
            replaced = pa.concat_arrays([replaced, *(full_names(table["uri"], place) for table in tables)])
    return found[::-1]


def _current(run: Store, number: int, one: Store) -> Marker:
    """The marker of the predictions of a run or of an update."""
    if not number:
        return one.require("predict")
    marker = one.marker("predict")
    if marker is None or marker.fingerprint != update_fingerprints(run)["predict"]:
        state = "is not complete" if marker is None else "has labels of a classifier that the run had before"
        more = " with --version" if run.origin else ""
        raise RunError(f"update {number} of {run.root} {state}; `icce update`{more} finishes it, with any source")
    return marker


def place_of(location: str) -> str:
    """What the uris of a source at `location` are below, the same for one folder however it is written.

    With a uri it names an image across sources: a folder, a folder within it, a list beside it.
    """
    filesystem, path = resolve(location)
    scheme, _, options = ("file", "", "") if is_local(filesystem) else location.partition("?")
    path = str(PurePosixPath(path).parent) if path.lower().endswith(_FILES) else path
    return f"{scheme.partition(':')[0]}:{options}:{path.rstrip('/')}/"


def full_names(uri: pa.ChunkedArray, place: str) -> pa.Array:
    """What images are called across sources: their uris, those below a place with it, as `place_of` writes places."""
    join, whole = _arrow.binary_join_element_wise, _arrow.replace_substring_regex(uri, _SCHEME, r"\1::")
    remote = _arrow.if_else(_arrow.match_substring_regex(uri, _SCHEME), whole, join(place, uri, ""))
    return _arrow.if_else(_arrow.starts_with(uri, "/"), join("file::", uri, ""), remote).combine_chunks()
