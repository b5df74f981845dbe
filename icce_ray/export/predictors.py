"""`icce export` of a run's classifier: a folder that labels new images without this package, whole or not there."""

from __future__ import annotations

import json

from icce_ray.export.files import free_target, whole
from icce_ray.export.names import chosen_names, class_names, distinct
from icce_ray.progress import Progress
from icce_ray.store import Store


def export_predictor(store: Store, form: str, out: str, progress: Progress, *, names: str | None = None) -> int:
    """Write the classifier of a run as `form`, one of `formats.PREDICTORS`, to a new local folder; its classes.

    `names` is a CSV file for `chosen_names`. Raises RunError for a run without a classifier or one that `form` cannot
    hold, an `out` that is there already or no local path, and as `chosen_names` does; BackboneError.
    """
    target = free_target(out)
    from icce_ray.export.card import write_card  # torch takes a second
    from icce_ray.export.predictor import read_trained

    trained = read_trained(store)
    given = class_names(chosen_names(store, names, trained.classes, progress.log) or {}, trained.classes)
    with whole(target) as folder:
        folder.mkdir()
        if form == "onnx":
            from icce_ray.export.graphs import write_onnx

            write_onnx(trained, folder)
        elif form == "torchscript":
            from icce_ray.export.graphs import write_torchscript

            write_torchscript(trained, folder)
        elif form == "huggingface":
            from icce_ray.export.huggingface import write_huggingface  # transformers takes seconds

            write_huggingface(trained, folder, distinct(given))
        else:
            from icce_ray.export.plain import write_sklearn

            write_sklearn(trained, folder)
        (folder / "labels.json").write_text(json.dumps(given, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
        write_card(store, trained, form, folder, given)
    return trained.classes
