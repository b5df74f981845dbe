"""Names of classes from towers whose directions are known: many words in two passes, one name for each class."""

import itertools
import zlib

import numpy as np
import pyarrow as pa
import pytest

from icce_ray.backbones import BackboneInfo
from icce_ray.core.naming import TEMPLATES, unit
from icce_ray.io.sources import open_source
from icce_ray.io.sources.base import SourceSpec
from icce_ray.progress import Progress
from icce_ray.settings import ResourceSettings
from icce_ray.stages import naming
from icce_ray.stages.features import list_column
from icce_ray.store import RunError
from tests.failures import fails
from tests.forms import write
from tests.labelled_runs import labelled, run_of
from tests.pictures import encode

WORDS = [f"word {number}" for number in range(40)]
LABELS = [0, 1, 2, 0, 1, 2]
INFO = BackboneInfo(name="known", features="pooled", dim=6, image_size=8, layout={"pooled": (0, 6)}, block_dim=0)


def direction(text):
    return unit(np.random.default_rng(zlib.crc32(text.encode())).standard_normal((1, 6)))[0]


class Inline(naming.Naming):
    """The tasks in this process. A picture's direction is that of its first pixel; what tasks read is counted."""

    asked = 0

    def _batches(self, tasks, what, options):
        for task in tasks:
            if what == "images":
                read = naming.read_pictures(task, **options)
                found = [direction(f"red {pixels[0]}") for pixels in read["pixels"].to_pylist()]
                yield pa.table(
                    {"label": read["label"], "direction": list_column(np.array(found, np.float32).reshape(-1, 6))}
                )
            else:
                texts = [[one.format(word) for one in options["templates"]] for word in task["word"].to_pylist()]
                self.asked += sum(map(len, texts))
                found = unit(np.array([np.mean([direction(text) for text in some], axis=0) for some in texts]))
                yield pa.table({"index": task["index"], "direction": list_column(found)})


@pytest.fixture
def work(tmp_path):
    colours = [np.full((8, 8, 3), 40 * row, np.uint8) for row in range(len(LABELS))]
    write("files", [(f"{row}.png", encode(one, "PNG")) for row, one in enumerate(colours)], tmp_path / "photos")
    store = labelled(run_of(tmp_path / "run", str(tmp_path / "photos")), LABELS, classes=3)
    source = open_source(SourceSpec(str(tmp_path / "photos"), "files"))
    return Inline(store, source, INFO, ResourceSettings(), None)


def cosines():
    """[3, 40], of all templates."""
    means = unit(
        np.array([np.mean([direction(f"red {40 * row}") for row in (label, label + 3)], axis=0) for label in range(3)])
    )
    words = [np.mean([direction(one.format(word)) for one in TEMPLATES], axis=0) for word in WORDS]
    return means @ unit(np.array(words)).T


def test_the_three_best_words(work):
    found = work.guesses(WORDS, 2, distinct=False, progress=Progress())
    order = np.argsort(-cosines(), axis=1)[:, :3]
    assert [guess.words for guess in found] == [tuple(WORDS[word] for word in row) for row in order]
    np.testing.assert_allclose([guess.cosines for guess in found], np.take_along_axis(cosines(), order, 1), atol=1e-6)


def test_many_words_are_looked_through_with_one_template(work, monkeypatch):
    """Those that are left get all templates: as many embeddings as said, and the same names among them."""
    for name, value in (("FEW_WORDS", 10), ("WORDS_TOGETHER", 7), ("KEPT", 4)):
        monkeypatch.setattr(naming, name, value)
    found = work.guesses(WORDS, 2, distinct=False, progress=Progress())
    means = unit(
        np.array([np.mean([direction(f"red {40 * row}") for row in (label, label + 3)], axis=0) for label in range(3)])
    )
    first = means @ np.array([direction(TEMPLATES[0].format(word)) for word in WORDS]).T
    kept = np.unique(np.argsort(-first, axis=1)[:, :4])
    assert work.asked == 40 + len(kept) * len(TEMPLATES)
    best = [kept[np.argsort(-row[kept])][:3] for row in cosines()]
    assert [guess.words for guess in found] == [tuple(WORDS[word] for word in row) for row in best]


def test_one_name_for_each_class(work):
    few = WORDS[:4]
    found = work.guesses(few, 2, distinct=True, progress=Progress())
    values = cosines()[:, :4]
    best = max(
        itertools.permutations(range(4), 3),
        key=lambda some: sum(values[label, word] for label, word in enumerate(some)),
    )
    assert [guess.words[0] for guess in found] == [few[word] for word in best]
    assert all(len(set(guess.words)) == 3 for guess in found)
    with fails(RunError, "2 words", "3 classes"):
        work.guesses(few[:2], 2, distinct=True, progress=Progress())


def test_no_image_is_left(work, tmp_path):
    for path in (tmp_path / "photos").iterdir():
        path.write_bytes(b"no image")
    with fails(RunError, "none of the images"):
        work.guesses(WORDS, 2, distinct=False, progress=Progress())


def test_the_most_confident_are_looked_at(work):
    ids, labels = work._chosen(3, 1)
    assert (ids.tolist(), labels.tolist()) == ([3, 4, 5], [0, 1, 2])
