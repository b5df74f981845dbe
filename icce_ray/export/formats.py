"""A run's predictions in the form that another tool reads."""

from __future__ import annotations

from icce_ray.export.folders import write_fiftyone, write_imagefolder
from icce_ray.export.names import read_names
from icce_ray.export.samples import Exported, samples
from icce_ray.export.tables import write_table
from icce_ray.export.webdataset import SHARD_BYTES, SHARD_IMAGES, write_webdataset
from icce_ray.export.whole import free_target, whole
from icce_ray.progress import Progress
from icce_ray.spelling import did_you_mean
from icce_ray.store import RunError, Store, UsageError, check_files
from icce_ray.store.artifacts import PREDICTIONS

TABLES = ("csv", "parquet")
LINKING = ("imagefolder", "fiftyone")
FORMATS = (*TABLES, *LINKING, "webdataset")


def export_predictions(
    store: Store,
    form: str,
    out: str,
    progress: Progress,
    *,
    names: str | None = None,
    link: bool = False,
    shard_images: int | None = None,
    shard_bytes: int | None = None,
) -> Exported:
    """Write the predictions of a run, or of `icce predict`, as `form` to `out`, a new local file or folder.

    `names` is a CSV file for `read_names`. With `link`, image files become symbolic links to those of the source. The
    shard limits are those of `webdataset`. `out` is whole or not there. Tables hold every prediction; of the others,
    images that cannot be read any more are left out, counted in the result and listed in `unreadable.csv`.

    Raises UsageError for an unknown form and an option that is not the form's; RunError for a run without predictions,
    an `out` that is there already or is no local path, and as `read_names` and `samples` do.
    """
    if form not in FORMATS:
        raise UsageError(f"--format {form}: {did_you_mean(form, FORMATS)}give one of {', '.join(FORMATS)}")
    _check_options(form, link, shard_images, shard_bytes)
    target = free_target(out)
    marker = store.require("predict")
    check_files(store, "list", "predict")
    classes = len(marker.summary["class_sizes"])
    known = read_names(names, classes) if names is not None else None
    total = sum(info.rows or 0 for info in PREDICTIONS.files(marker.files))
    if not total:
        raise RunError(f"{store.root} has no predictions to export: every input was rejected")
    progress.begin(total, unit="images")
    done = Exported()
    with whole(target) as path:
        if form in TABLES:
            done.images = write_table(store, marker, form, path, progress, known)
            return done
        path.mkdir()
        found = samples(store, marker, path, progress, done, link=link)
        if form == "imagefolder":
            write_imagefolder(found, path, known, classes)
        elif form == "fiftyone":
            write_fiftyone(found, path, known, classes)
        else:
            limits = {"shard_images": shard_images or SHARD_IMAGES, "shard_bytes": shard_bytes or SHARD_BYTES}
            write_webdataset(found, path, known, **limits)
    return done


def _check_options(form: str, link: bool, shard_images: int | None, shard_bytes: int | None) -> None:
    if link and form not in LINKING:
        raise UsageError(f"--link goes with --format {' or '.join(LINKING)}, not with {form}")
    for name, value in (("images", shard_images), ("mb", shard_bytes)):
        if value is not None and form != "webdataset":
            raise UsageError(f"--shard-{name} goes with --format webdataset, not with {form}")
        if value is not None and value < 1:
            raise UsageError(f"--shard-{name} is below 1; give a whole number from 1 on")
