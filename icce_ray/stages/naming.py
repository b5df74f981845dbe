"""Guesses for the names of classes: images and words through the two towers of one model, on Ray Data."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
from ray.exceptions import RayTaskError

from icce_ray.backbones import BackboneInfo
from icce_ray.core.naming import TEMPLATES, closest, most_confident, one_each, unit
from icce_ray.core.recipe import product_precision
from icce_ray.io.decode import Reject, decode
from icce_ray.io.sources import Source
from icce_ray.io.user_tables import without_formulas
from icce_ray.progress import Progress
from icce_ray.settings import ResourceSettings
from icce_ray.stages.cluster import Resources, threads_here
from icce_ray.stages.embed import pool_of
from icce_ray.stages.features import list_column, matrix
from icce_ray.stages.reading import READ_THREADS
from icce_ray.stages.stream import TaskError, errors_for_the_driver
from icce_ray.store import RunError, Store
from icce_ray.store.artifacts import CLASS_NAMES, GUESS, MANIFEST, PREDICTIONS

#: Images and words of a task. More words than the second number are first looked through with one template, which
#: leaves so many of them for each class.
READ_TOGETHER, WORDS_TOGETHER = 256, 2048
FEW_WORDS, KEPT = 4096, 50
#: Names of a class that are reported.
BEST = 3


@dataclass(frozen=True)
class Guess:
    """What a class may be called: words by their cosine to its images, the name first; none for one without images."""

    label: int
    words: tuple[str, ...]
    cosines: tuple[float, ...]
    images: int

    @property
    def margin(self) -> float:
        """How much closer the name is than the closest other word; below 0 where that went to another class."""
        return self.cosines[0] - self.cosines[1]


class Naming:
    """One run's images and one model, as its three passes need them."""

    def __init__(
        self, store: Store, source: Source, info: BackboneInfo, limits: ResourceSettings, resources: Resources
    ) -> None:
        self._store, self._source, self._info, self._limits, self._resources = store, source, info, limits, resources

    def guesses(self, words: list[str], per_class: int, *, distinct: bool, progress: Progress) -> list[Guess]:
        """A guess for each class; with `distinct` no two have the same name.

        The mean direction of the `per_class` most confident images of each class that can be read, against the mean
        direction of each word in TEMPLATES. Raises RunError if no image can be read.
        """
        marker = self._store.require("predict")
        classes = len(marker.summary["class_sizes"])
        means, counts = self._means(*self._chosen(classes, per_class), classes, progress)
        if not counts.any():
            raise RunError(f"none of the images of {self._store.root} can be read any more; put them back")
        kept = self._candidates(means, words, progress) if len(words) > FEW_WORDS else np.arange(len(words))
        if distinct and len(kept) < classes:
            raise RunError(f"{len(kept)} words are too few to name {classes} classes differently; give more of them")
        candidates = [words[index] for index in kept]
        directions = self._directions(candidates, progress)
        order, _ = closest(means, directions, min(BEST, len(candidates)))
        own = one_each(means, directions) if distinct else order[:, 0]
        found = []
        for label in range(classes):
            rest = [int(word) for word in order[label] if word != own[label]][: BEST - 1]
            ranked = [int(own[label]), *rest] if counts[label] else []
            values = tuple(float(means[label] @ directions[word]) for word in ranked)
            found.append(Guess(label, tuple(candidates[word] for word in ranked), values, int(counts[label])))
        return found

    def _chosen(self, classes: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """image_ids, ascending, and labels of the most confident images of each class; a shard in memory at a time."""
        kept = PREDICTIONS.schema().empty_table().select(["image_id", "label", "confidence"])
        for info in PREDICTIONS.files(self._store.require("predict").files):
            rows = self._store.storage.read_table(info.path, kept.column_names)
            kept = pa.concat_tables([kept, rows.cast(kept.schema)])
            chosen = most_confident(kept["label"].to_numpy(), kept["confidence"].to_numpy(), classes, count)
            kept = kept.take(pa.array(chosen))
        kept = kept.sort_by("image_id")
        return kept["image_id"].to_numpy(), kept["label"].to_numpy()

    def _means(
        self, ids: np.ndarray, labels: np.ndarray, classes: int, progress: Progress
    ) -> tuple[np.ndarray, np.ndarray]:
        """float32 [K, D], the mean direction of each class's images, and int64 [K], how many could be read."""
        ends = np.cumsum([info.rows or 0 for info in MANIFEST.files(self._store.require("list").files)])
        shards, first = np.searchsorted(ends, ids, side="right"), np.concatenate([[0], ends])
        tasks = []
        for shard in np.unique(shards).tolist():
            here = np.flatnonzero(shards == shard)
            for begin in range(0, len(here), READ_TOGETHER):
                rows = here[begin : begin + READ_TOGETHER]
                tasks.append(
                    pa.table(
                        {
                            "shard": [shard],
                            "rows": [ids[rows] - first[shard]],
                            "labels": [labels[rows].astype(np.int64)],
                        }
                    )
                )
        total, counts = np.zeros((classes, self._info.dim)), np.zeros(classes, np.int64)
        progress.begin(len(ids), unit="images")
        embed = self._store.images()[1]
        reading = {"root": self._store.root, "source": self._source, "info": self._info}
        reading |= {"max_bytes": embed.max_bytes, "max_pixels": embed.max_pixels}
        for batch in self._batches(tasks, "images", reading):
            found = batch["label"].to_numpy()
            np.add.at(total, found, matrix(batch["direction"]))
            counts += np.bincount(found, minlength=classes)
            progress.update(int(counts.sum()))
        return unit(total), counts

    def _candidates(self, means: np.ndarray, words: list[str], progress: Progress) -> np.ndarray:
        """Indices, ascending, of the KEPT words closest to each class in the first template."""
        best, cosines = np.zeros((len(means), 0), np.int64), np.zeros((len(means), 0), np.float32)
        progress.begin(len(words), unit="words")
        for done, (indices, directions) in enumerate(self._words(words, TEMPLATES[:1]), 1):
            order, found = closest(means, directions, min(KEPT, len(indices)))
            best, cosines = np.hstack([best, indices[order]]), np.hstack([cosines, found])
            keep = np.lexsort((best, -cosines), axis=1)[:, :KEPT]
            best, cosines = (np.take_along_axis(part, keep, axis=1) for part in (best, cosines))
            progress.update(min(len(words), done * WORDS_TOGETHER))
        return np.unique(best)

    def _directions(self, words: list[str], progress: Progress) -> np.ndarray:
        """float32 [V, D], the mean direction of each word in all templates."""
        found = np.zeros((len(words), self._info.dim), np.float32)
        progress.begin(len(words), unit="words")
        for done, (indices, directions) in enumerate(self._words(words, TEMPLATES), 1):
            found[indices] = directions
            progress.update(min(len(words), done * WORDS_TOGETHER))
        return found

    def _words(self, words: list[str], templates: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(indices, directions float32 [n, D]) of some words at a time, in any order."""
        tasks = []
        for begin in range(0, len(words), WORDS_TOGETHER):
            some = words[begin : begin + WORDS_TOGETHER]
            tasks.append(pa.table({"index": range(begin, begin + len(some)), "word": some}))
        for batch in self._batches(tasks, "words", {"templates": list(templates)}):
            yield batch["index"].to_numpy(), matrix(batch["direction"])

    def _batches(self, tasks: list[pa.Table], what: str, options: dict[str, Any]) -> Iterator[pa.Table]:
        """What the actors make of the tasks, each a block of its own."""
        import ray.data  # takes a second

        pool = pool_of(self._resources, ray.cluster_resources(), asked=self._limits.embed_actors, chunks=len(tasks))
        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.raise_original_map_exception = True
        towers = {"info": self._info, "device": self._resources.device, "sharers": pool.sharers}
        with ray.data.DataContext.current(context):
            dataset = ray.data.from_arrow(tasks)
            if what == "images":
                dataset = dataset.map_batches(
                    cast(Any, read_pictures), batch_size=None, batch_format="pyarrow", num_cpus=0.5, fn_kwargs=options
                )
            dataset = dataset.map_batches(
                ImageDirections if what == "images" else WordDirections,
                batch_size=self._limits.embed_batch if what == "images" else None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(min_size=pool.least, max_size=pool.least),
                num_cpus=pool.cpus,
                num_gpus=self._resources.gpu_share or None,
                fn_constructor_kwargs=towers | ({} if what == "images" else options),
            )
            try:
                yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")
            except RayTaskError as error:
                if isinstance(error.cause, TaskError):
                    raise RunError(error.cause.message) from error
                raise


def write_names(store: Store, guesses: Sequence[Guess], model: str) -> None:
    """Write CLASS_NAMES of a run: a row for each class, marked as guesses; texts as `without_formulas` gives them.

    The columns label, name and source are what `icce report --names` reads of any such file.
    """
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    more = [f"{place}{part}" for place in ("second", "third") for part in ("", "_similarity")]
    rows.writerow(["label", "name", "source", "similarity", "margin", *more, "images", "model", "labelling"])
    labelling = store.require("classifier").fingerprint
    for guess in guesses:
        values = [f"{cosine:.4f}" for cosine in guess.cosines]
        ranked = list(itertools.zip_longest(map(without_formulas, guess.words), values, range(BEST), fillvalue=""))
        (name, similarity, _), *others = ranked
        rest = [text for word, cosine, _ in others for text in (word, cosine)]
        margin = f"{guess.margin:.4f}" if len(values) > 1 else ""
        rows.writerow(
            [guess.label, name, GUESS, similarity, margin, *rest, guess.images, without_formulas(model), labelling]
        )
    store.storage.write_bytes(CLASS_NAMES, file.getvalue().encode())


# -- what Ray's workers run ------------------------------------------------------------------------------------------


def read_pictures(
    batch: pa.Table, *, root: str, source: Source, info: BackboneInfo, max_bytes: int, max_pixels: int
) -> pa.Table:
    """Task: columns label and pixels of some rows of one shard of the manifest, without those that cannot be read."""
    with errors_for_the_driver():
        (task,) = batch.to_pylist()
        manifest = Store(root).storage.read_table(MANIFEST.part(task["shard"])).take(pa.array(task["rows"]))

        def picture(data: bytes | Reject) -> bytes | None:
            try:
                if isinstance(data, Reject):
                    return None
                resizing = info.preprocessing.resizing
                return decode(data, size=info.image_size, resize=resizing, max_pixels=max_pixels).tobytes()
            except Reject:
                return None

        with ThreadPoolExecutor(READ_THREADS) as pool:
            spans = source.read_spans(manifest, max_bytes=max_bytes)
            pixels = list(itertools.chain.from_iterable(pool.map(lambda span: [picture(one) for one in span], spans)))
        found = [(label, one) for label, one in zip(task["labels"], pixels, strict=True) if one is not None]
    return pa.table(
        {
            "label": pa.array([label for label, _ in found], pa.int64()),
            "pixels": pa.array([one for _, one in found], pa.binary(info.image_size**2 * 3)),
        }
    )


class _Towers:
    def __init__(self, *, info: BackboneInfo, device: str, sharers: int) -> None:
        import torch

        from icce_ray.backbones.image_text import load_pair  # tasks that read need neither

        with errors_for_the_driver():
            torch.set_num_threads(threads_here(sharers))
            self.pair = load_pair(info, device=device, dtype=product_precision("auto", device))


class ImageDirections(_Towers):
    """Actor: label and direction, float32 [D] of length 1, of pictures."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        """A batch of what `read_pictures` returns, which may have no row."""
        with errors_for_the_driver():
            side = self.pair.info.image_size
            pixels = np.frombuffer(b"".join(batch["pixels"].to_pylist()), np.uint8).reshape(-1, side, side, 3)
            directions = unit(self.pair.embed(pixels).main)
            return pa.table({"label": batch["label"], "direction": list_column(directions)})


class WordDirections(_Towers):
    """Actor: index and direction, float32 [D] of length 1, of words; the mean of those in the templates."""

    def __init__(self, *, templates: Sequence[str], info: BackboneInfo, device: str, sharers: int) -> None:
        super().__init__(info=info, device=device, sharers=sharers)
        self._templates = templates

    def __call__(self, batch: pa.Table) -> pa.Table:
        """A batch of columns index and word."""
        with errors_for_the_driver():
            words = batch["word"].to_pylist()
            texts = (self.pair.texts([template.format(word) for word in words]) for template in self._templates)
            directions = unit(np.sum([unit(found) for found in texts], axis=0))
            return pa.table({"index": batch["index"], "direction": list_column(directions)})
