"""A run's predictions in the form that another tool reads: a local file or folder that is whole or not there."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from icce_ray.export.atlas import ATLAS
from icce_ray.export.files import TABLES, free_target, whole, write_table
from icce_ray.export.findings import FINDINGS
from icce_ray.export.images import FIELDS, UNREADABLE, Exported, Sample, samples
from icce_ray.export.names import chosen_names, class_names, folder_names
from icce_ray.export.superclasses import superclasses as superclasses_of
from icce_ray.export.tables import FORMS as LABELLED_TABLES
from icce_ray.export.tables import write_labelled_table
from icce_ray.io.user_tables import without_formulas
from icce_ray.progress import Progress
from icce_ray.spelling import did_you_mean
from icce_ray.store import RunError, Store, UsageError, check_files
from icce_ray.store.updates import Generation, generations

LINKING = ("imagefolder", "fiftyone")
FORMATS = (*TABLES, *LINKING, "webdataset", *LABELLED_TABLES)
#: Of the classifier, not of the images: `predictors.export_predictor` writes them.
PREDICTORS = ("onnx", "torchscript", "huggingface", "sklearn")
#: Of `webdataset`: a shard is full at this many images or bytes, whichever comes first.
SHARD_IMAGES, SHARD_BYTES = 10_000, 1_000_000_000
#: Beside the class folders, as Hugging Face's `imagefolder` reads it: `file_name` is the path below the folder.
METADATA = "metadata.csv"
Names = dict[int, str] | None


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
    superclasses: int | None = None,
) -> Exported:
    """Write the predictions of a run, or of `icce predict`, as `form` to `out`, a new local file or folder.

    `form` is one of FORMATS, `names` a CSV file for `chosen_names`. Predictions of the run's updates follow its own; of
    an image that has changed there is its last version. With `link`, image files become symbolic links to those of the
    source. The shard limits are those of `webdataset`; `superclasses` adds a column to TABLES. `out` is whole or not
    there. Tables hold every prediction; of the others, images that cannot be read any more are left out, counted in the
    result and listed in `unreadable.csv`.
    Images of classes that a refined version has rejected are left out and counted, but for LABELLED_TABLES, which have
    every row of a user's own table.

    Raises UsageError for an unknown form and an option that is not the form's; RunError for a run without predictions,
    an `out` that is there already or is no local path, and as `read_names`, `generations`, `samples` and
    `superclasses_of` do.
    """
    check_options(form, link, {"images": shard_images, "mb": shard_bytes}, superclasses=superclasses)
    target = free_target(out)
    found = generations(store)
    for one in found:
        check_files(one.store, "list", "predict")
    if form in LABELLED_TABLES and len(found) > 1:
        raise RunError(
            f"{store.root} has updates, and --format {form} holds the one table that the run was made from; export "
            "with --format parquet and join by key"
        )
    classes = len(found[0].marker.summary["class_sizes"])
    named = chosen_names(store, names, classes, progress.log)
    upper = None if superclasses is None else superclasses_of(store, classes, superclasses)
    total = sum(info.rows or 0 for one in found for info in one.files)
    if not total:
        raise RunError(f"{store.root} has no predictions to export: every input was rejected")
    progress.begin(total, unit="images")
    done = Exported(rejected=0 if form in LABELLED_TABLES else _rejected(found))
    with whole(target) as path:
        if form in (*TABLES, *LABELLED_TABLES):
            if form in TABLES:
                tables = (_described(one.table(info, FIELDS), named, upper) for one in found for info in one.files)
                written = write_table(tables, form, path)
            else:
                written = write_labelled_table(form, store, found[0].marker, path, named)
            for rows in written:
                done.images += rows
                progress.update(done.images)
            return done
        path.mkdir()
        labelled = samples(found, path, progress, done, link=link)
        if form == "webdataset":
            _write_webdataset(labelled, path, named, shard_images or SHARD_IMAGES, shard_bytes or SHARD_BYTES)
        else:
            write = _write_imagefolder if form == "imagefolder" else _write_fiftyone
            write(labelled, path, named, classes)
    return done


def _rejected(found: Sequence[Generation]) -> int:
    """Images of classes that are left out, those included that an update has in another version."""
    return sum(one.marker.summary["class_sizes"][label] for one in found for label in one.rejected)


def check_options(
    form: str,
    link: bool,
    limits: dict[str, int | None],
    names: str | None = None,
    *,
    superclasses: int | None = None,
) -> None:
    """Raise UsageError for an unknown form or an option that is not the form's; `limits` are those of a shard."""
    every = (*FORMATS, ATLAS, *PREDICTORS, *FINDINGS)
    if form not in every:
        raise UsageError(f"--format {form}: {did_you_mean(form, every)}give one of {', '.join(every)}")
    if link and form not in LINKING:
        raise UsageError(f"--link goes with --format {' or '.join(LINKING)}, not with {form}")
    if names is not None and form in FINDINGS:
        raise UsageError(f"--names names classes, of which --format {form} says nothing; leave it out")
    if superclasses is not None and form not in TABLES:
        raise UsageError(f"--superclasses adds a column to {' or '.join(TABLES)}, not to {form}; join by key")
    for name, value in limits.items():
        if value is not None and form != "webdataset":
            raise UsageError(f"--shard-{name} goes with --format webdataset, not with {form}")
        if value is not None and value < 1:
            raise UsageError(f"--shard-{name} is below 1; give a whole number from 1 on")


def _described(table: pa.Table, names: Names, upper: NDArray[np.int32] | None) -> pa.Table:
    """FIELDS, and where they are given the class's name, null where it has none, and its superclass."""
    if names is not None:
        given = [names.get(label) for label in table["label"].to_pylist()]
        table = table.append_column("name", pa.array(given, pa.string()))
    if upper is not None:
        found = upper[table["label"].to_numpy()]
        table = table.append_column("superclass", pa.array(found, mask=found < 0))
    return table


def _write_imagefolder(labelled: Iterable[Sample], folder: Path, names: Names, classes: int) -> None:
    """`CLASS/NUMBER-NAME.jpg`, as torchvision's ImageFolder and Hugging Face's `imagefolder` read it, and METADATA.

    A class without images has no folder.
    """
    folders = folder_names(names or {}, classes, taken=(METADATA, UNREADABLE))
    with (folder / METADATA).open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["file_name", "label", "confidence", "uri", "key", *([] if names is None else ["name"])])
        for sample in labelled:
            own = folders[sample.label]
            (folder / own).mkdir(exist_ok=True)
            sample.place(folder / own / sample.file_name)
            texts = [sample.uri, sample.key, *([] if names is None else [names.get(sample.label, "")])]
            uri, key, *name = map(without_formulas, texts)
            rows.writerow([f"{own}/{sample.file_name}", sample.label, sample.confidence, uri, key, *name])


def _write_fiftyone(labelled: Iterable[Sample], folder: Path, names: Names, classes: int) -> None:
    """`data/` and `labels.json` of fiftyone.types.FiftyOneImageClassificationDataset, with confidences.

    `labels.json` is {"classes": [names], "labels": {file name without ending: {"label", "confidence", "attributes"}}},
    after FiftyOne's page "Importing data into FiftyOne"; the attributes are uri and key.
    """
    data = folder / "data"
    data.mkdir()
    with (folder / "labels.json").open("w", encoding="utf-8") as file:
        file.write(f'{{"classes": {json.dumps(class_names(names or {}, classes))},\n"labels": {{')
        for count, sample in enumerate(labelled):
            sample.place(data / sample.file_name)
            target = {
                "label": sample.label,
                "confidence": sample.confidence,
                "attributes": {"uri": sample.uri, "key": sample.key},
            }
            name = sample.file_name.removesuffix(sample.ending)
            file.write(f"{',' if count else ''}\n{json.dumps(name)}: {json.dumps(target)}")
        file.write("\n}}\n")


def _write_webdataset(
    labelled: Iterable[Sample], folder: Path, names: Names, shard_images: int, shard_bytes: int
) -> None:
    """`shard-000000.tar` ... with NUMBER.jpg, NUMBER.cls (the label) and NUMBER.json for each image, in this order.

    The JSON holds uri, key, label, confidence, and the class's name, null where it has none. A shard is closed before
    an image that would make it larger than a limit; a larger image stands alone in one. webdataset's own ShardWriter
    closes a shard only once it is too large, and writes the members of a sample in the order of their endings.
    """
    with ExitStack() as stack:
        tar: tarfile.TarFile | None = None
        shard = images = written = 0
        for sample in labelled:
            assert isinstance(sample.data, bytes), "only formats of LINKING hold links"
            content = {field: getattr(sample, field) for field in FIELDS} | {"name": (names or {}).get(sample.label)}
            described = json.dumps(content, ensure_ascii=False).encode()
            members = {sample.ending: sample.data, ".cls": str(sample.label).encode(), ".json": described}
            # A member is a header and whole blocks.
            size = sum(tarfile.BLOCKSIZE * (1 - -len(data) // tarfile.BLOCKSIZE) for data in members.values())
            if tar is None or images >= shard_images or written + size > shard_bytes:
                stack.close()
                path = folder / f"shard-{shard:06d}.tar"
                tar = stack.enter_context(tarfile.open(path, "w", format=tarfile.GNU_FORMAT))
                shard, images, written = shard + 1, 0, 0
            for ending, data in members.items():
                member = tarfile.TarInfo(f"{sample.number}{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            images, written = images + 1, written + size
