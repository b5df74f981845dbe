"""Labelled images as folders: one a class, or as FiftyOne reads them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path

from icce_ray.export.names import class_names, folder_names
from icce_ray.export.samples import UNREADABLE, Sample
from icce_ray.io.user_tables import without_formulas

#: Beside the class folders, as Hugging Face's `imagefolder` reads it: `file_name` is the path below the folder.
METADATA = "metadata.csv"


def write_imagefolder(samples: Iterable[Sample], folder: Path, names: dict[int, str] | None, classes: int) -> None:
    """`CLASS/NUMBER-NAME.jpg`, as torchvision's ImageFolder and Hugging Face's `imagefolder` read it, and METADATA.

    A class without images has no folder.
    """
    folders = folder_names(names or {}, classes, taken=(METADATA, UNREADABLE))
    made: set[int] = set()
    with (folder / METADATA).open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["file_name", "label", "confidence", "uri", "key", *([] if names is None else ["name"])])
        for sample in samples:
            own = folders[sample.label]
            if sample.label not in made:
                (folder / own).mkdir()
                made.add(sample.label)
            sample.place(folder / own / sample.file_name)
            texts = [sample.uri, sample.key, *([] if names is None else [names.get(sample.label, "")])]
            uri, key, *name = map(without_formulas, texts)
            rows.writerow([f"{own}/{sample.file_name}", sample.label, sample.confidence, uri, key, *name])


def write_fiftyone(samples: Iterable[Sample], folder: Path, names: dict[int, str] | None, classes: int) -> None:
    """`data/` and `labels.json` of fiftyone.types.FiftyOneImageClassificationDataset, with confidences.

    `labels.json` is {"classes": [names], "labels": {file name without ending: {"label", "confidence", "attributes"}}},
    after FiftyOne's page "Importing data into FiftyOne"; the attributes are uri and key.
    """
    data = folder / "data"
    data.mkdir()
    with (folder / "labels.json").open("w", encoding="utf-8") as file:
        file.write(f'{{"classes": {json.dumps(class_names(names or {}, classes))},\n"labels": {{')
        for count, sample in enumerate(samples):
            sample.place(data / sample.file_name)
            target = {
                "label": sample.label,
                "confidence": sample.confidence,
                "attributes": {"uri": sample.uri, "key": sample.key},
            }
            name = sample.file_name.removesuffix(sample.ending)
            file.write(f"{',' if count else ''}\n{json.dumps(name)}: {json.dumps(target)}")
        file.write("\n}}\n")
