"""Names of classes by the towers of a tiny model, on a cluster: those of a loop over images and words."""

import csv
import io

import numpy as np
import pytest

from icce_ray import commands
from icce_ray.backbones.image_text import describe_pair, load_pair
from icce_ray.core.naming import TEMPLATES, unit
from icce_ray.export.names import chosen_names
from icce_ray.io.decode import decode
from icce_ray.settings import ResourceSettings
from tests.forms import write
from tests.labelled_runs import labelled, run_of
from tests.pairs import save
from tests.pictures import encode, scene

WORDS = ["cat", "dog", "red square", "horse", "noise", "=1+1"]
LABELS = [0, 1, 1, 2, 2, 0, None, 1, 2, 2]
#: The most confident come last; one of class 2 is gone when names are asked for, one of class 1 was never an image.
GONE, LOOKED_AT = 9, {0: [0, 5], 1: [2, 7], 2: [8]}


@pytest.fixture
def images():
    draw = np.random.default_rng(0)
    tints = draw.integers(0, 255, (len(LABELS), 3))
    return [
        (f"{row}.png", encode((scene(40, 32) // 2 + tint // 2).astype(np.uint8), "PNG"))
        for row, tint in enumerate(tints)
    ]


def expected(images, folder):
    """Cosines [K, V] by one image and one text at a time."""
    info = describe_pair(folder)
    pair = load_pair(info, device="cpu", dtype="float32")
    resizing = info.preprocessing.resizing

    def picture(row):
        pixels = decode(images[row][1], size=info.image_size, resize=resizing, max_pixels=10**6)
        return unit(pair.embed(pixels[None]).main)[0]

    means = [np.mean([picture(row) for row in LOOKED_AT[label]], axis=0) for label in range(3)]
    words = [np.mean([unit(pair.texts([one.format(word)]))[0] for one in TEMPLATES], axis=0) for word in WORDS]
    return unit(np.array(means)) @ unit(np.array(words)).T


@pytest.mark.usefixtures("cluster")
def test_names_are_those_of_a_loop(images, tmp_path):
    """A lost image is left out."""
    save("clip", tmp_path / "model")
    (tmp_path / "words.txt").write_text("\n".join([*WORDS, "Cat"]))
    write("files", images, tmp_path / "photos")
    store = labelled(run_of(tmp_path / "run", str(tmp_path / "photos")), LABELS, classes=3)
    store.commit("classifier", [], fingerprint="a classifier", summary={}, seconds=0)
    (tmp_path / "photos" / f"{GONE}.png").unlink()
    arguments = store.root, str(tmp_path / "model"), str(tmp_path / "words.txt")
    limits = ResourceSettings(device="cpu", embed_actors=1)
    guesses = commands.name(*arguments, per_class=2, limits=limits, verbose=False)
    cosines = expected(images, str(tmp_path / "model"))
    order = np.argsort(-cosines, axis=1)[:, :3]
    assert [guess.words for guess in guesses] == [tuple(WORDS[word] for word in row) for row in order]
    for guess, row, best in zip(guesses, cosines, order, strict=True):
        np.testing.assert_allclose(guess.cosines, row[best], atol=1e-5)
    assert [guess.images for guess in guesses] == [2, 2, 1]
    rows = list(csv.DictReader(io.StringIO(store.storage.read_bytes("names.csv").decode())))
    assert [(row["source"], row["margin"]) for row in rows] == [("guess", f"{one.margin:.4f}") for one in guesses]
    assert chosen_names(store, None, 3, print) == {guess.label: f"{guess.words[0]}?" for guess in guesses}
