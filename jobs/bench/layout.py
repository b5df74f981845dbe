"""Libraries that lay features out in two dimensions: seconds, memory, neighbours kept, and whether a seed fixes all.

    python jobs/bench/layout.py --digits mnist_train20k.parquet [--features features.npz]
    python jobs/bench/layout.py --methods ours                  # scikit-learn's digits only, as the demo has them

Needs `pip install umap-learn pacmap` beside what icce-ray brings. `--digits` is a Parquet file with images in a column
`bytes`: their HOG features, rotated at random to 384 values, and 50,000 of them, those from 20,000 on being the others
shifted by a pixel or two. `--features` is an .npz file with `features`. A process each, of one thread, so that seconds
hold the imports and what is compiled; CPU seconds, as other work hardly changes these. `warm` is a second layout in the
same process. `kept` is the share of the 10 and the 30 nearest images by cosine that are among as many nearest in the
layout, of 2,000 images; `trust` is scikit-learn's trustworthiness of 5,000 images (10 neighbours, cosine). `same` says
whether a second process, of two threads, gives the same bits.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import fresh_peak, header, in_a_process, options, peak, row

Layout = Callable[[np.ndarray, int], np.ndarray]
SEED, NEAREST, CHECKED, TRUSTED = 0, 30, 2000, 5000


def ours(features: np.ndarray, threads: int) -> np.ndarray:
    """What the run does: exact neighbours by torch, openTSNE."""
    import torch

    from icce_ray.core.layout import lay_out

    torch.set_num_threads(threads)

    return lay_out(torch.from_numpy(features), seed=SEED, threads=threads).places


def opentsne(features: np.ndarray, threads: int) -> np.ndarray:
    """OpenTSNE as it is by default, with approximate neighbours of its own."""
    import openTSNE

    return np.asarray(openTSNE.TSNE(metric="cosine", n_jobs=threads, random_state=SEED).fit(features))


def umap(features: np.ndarray, threads: int) -> np.ndarray:
    """UMAP with a seed, which it takes one thread for."""
    library: Any = importlib.import_module("umap")
    model = library.UMAP(metric="cosine", init="pca", random_state=SEED, n_jobs=1)
    return np.asarray(model.fit_transform(features))


def umap_precomputed(features: np.ndarray, threads: int) -> np.ndarray:
    """UMAP of exact neighbours by torch."""
    import torch

    from icce_ray.core.neighbors import Limits
    from icce_ray.core.search import mine

    library: Any = importlib.import_module("umap")
    found = mine(torch.from_numpy(features), Limits(-1.0, NEAREST, NEAREST))
    own = np.arange(len(features))[:, None]  # UMAP counts a point as its own first neighbour
    ids = np.hstack([own, found.ids.view(-1, NEAREST).numpy()[:, :14]]).astype(np.int32)
    far = np.hstack([0.0 * own, 1.0 - found.similarities.view(-1, NEAREST).numpy()[:, :14]]).astype(np.float32)
    model = library.UMAP(metric="cosine", init="pca", random_state=SEED, n_jobs=1, precomputed_knn=(ids, far))
    return np.asarray(model.fit_transform(features))


def pacmap(features: np.ndarray, threads: int) -> np.ndarray:
    """PaCMAP, by angles."""
    library: Any = importlib.import_module("pacmap")
    return np.asarray(library.PaCMAP(distance="angular", random_state=SEED).fit_transform(features, init="pca"))


def sklearn(features: np.ndarray, threads: int) -> np.ndarray:
    """Barnes-Hut t-SNE of scikit-learn, which is there anyway."""
    from sklearn.manifold import TSNE

    return TSNE(metric="cosine", init="random", random_state=SEED, n_jobs=threads).fit_transform(features)


METHODS: dict[str, Layout] = {one.__name__: one for one in (ours, opentsne, umap, umap_precomputed, pacmap, sklearn)}


def work(method: str, path: str, threads: int, out: str, again: bool) -> None:
    """Lay out one set once or twice; figures as JSON."""
    features, before = np.load(path), fresh_peak()
    started = time.process_time()
    places = METHODS[method](features, threads)
    found = {"cpu": time.process_time() - started, "peak": peak() - before}
    np.save(out, places.astype(np.float32))
    started = time.process_time()
    if again:
        METHODS[method](features, threads)
    print(json.dumps(found | {"warm": time.process_time() - started}))


def kept(features: np.ndarray, places: np.ndarray) -> list[str]:
    """Shares of neighbours kept, and the trustworthiness."""
    from sklearn.manifold import trustworthiness
    from sklearn.neighbors import NearestNeighbors

    random = np.random.default_rng(SEED)
    some = random.choice(len(features), min(CHECKED, len(features)), replace=False)

    def nearest(values: np.ndarray) -> np.ndarray:
        found = NearestNeighbors(n_neighbors=NEAREST + 1).fit(values).kneighbors(values[some], return_distance=False)
        return np.array([[one for one in line if one != own][:NEAREST] for line, own in zip(found, some, strict=True)])

    near, shown = nearest(features / np.linalg.norm(features, axis=1, keepdims=True)), nearest(places)
    shares = [
        np.mean([len(set(a[:k]) & set(b[:k])) / k for a, b in zip(near, shown, strict=True)]) for k in (10, NEAREST)
    ]
    chosen = random.choice(len(features), min(TRUSTED, len(features)), replace=False)
    trust = trustworthiness(features[chosen], places[chosen], n_neighbors=10, metric="cosine")
    return [f"{value:.3f}" for value in (*shares, trust)]


def sets(digits: str, given: str, folder: Path) -> dict[str, Path]:
    """Feature sets as .npy files, by name."""
    from sklearn.datasets import load_digits

    digits_of_sklearn: Any = load_digits()
    small = digits_of_sklearn.images[:1438]
    found = {"digits": hog_features([np.kron(image, np.ones((4, 4))) * 15 for image in small])}
    if digits:
        import pyarrow.parquet as pq
        from PIL import Image

        images = [np.asarray(Image.open(io.BytesIO(one))) for one in pq.read_table(digits)["bytes"].to_pylist()]
        random = np.random.default_rng(SEED)
        steps = [(y, x) for y in (-1, 0, 1) for x in (-2, 0, 2) if (y, x) != (0, 0)]
        more = [np.roll(images[n % len(images)], steps[random.integers(len(steps))], (0, 1)) for n in range(30_000)]
        every = hog_features(images + more)
        rotation = np.linalg.qr(random.normal(size=(384, 384)))[0][: every.shape[1]]
        turned = (every @ rotation).astype(np.float32)
        found |= {"mnist 20,000": turned[: len(images)], "mnist 50,000": turned}
    if given:
        found["given"] = np.load(given)["features"].astype(np.float32)
    paths = {}
    for number, (name, values) in enumerate(found.items()):
        paths[f"{name} x {values.shape[1]}"] = folder / f"{number}.npy"
        np.save(folder / f"{number}.npy", values)
    return paths


def hog_features(images: list[np.ndarray]) -> np.ndarray:
    """HOG of grey images, float32[n, 324]."""
    from PIL import Image

    from icce_ray.backbones import describe_backbone, load_backbone

    backbone = load_backbone(describe_backbone("hog", "hog"))
    pixels = [np.asarray(Image.fromarray(one.astype(np.uint8)).convert("RGB").resize((32, 32))) for one in images]
    return np.concatenate(
        [
            np.asarray(backbone.embed(np.stack(pixels[n : n + 1000])).main, np.float32)
            for n in range(0, len(pixels), 1000)
        ]
    )


def main() -> None:
    """Print the table, in Markdown."""
    parser = options(__doc__, digits="", features="", threads=1, methods=list(METHODS), skip=["sklearn:50,000"])
    parser.add_argument("--work", nargs=4, help="method, features, layout to write, whether twice: of one process")
    given = parser.parse_args()
    if given.work:
        method, path, out, again = given.work
        work(method, path, given.threads, out, again == "True")
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        header("features", "method", "CPU s", "warm CPU s", "peak MiB", "kept 10", "kept 30", "trust", "same")
        for name, path in sets(given.digits, given.features, folder).items():
            for method in given.methods:
                if any(one.split(":")[0] == method and one.split(":")[1] in name for one in given.skip):
                    continue
                outs = [folder / f"{n}.out.npy" for n in range(2)]
                runs = [
                    in_a_process(
                        *(__file__, "--threads", threads, "--work", method, path, out, again),
                        **dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads)),
                    )
                    for threads, out, again in ((1, outs[0], True), (2, outs[1], False))
                ]
                places, other = (np.load(out) for out in outs)
                cells = [f"{runs[0][one]:.1f}" for one in ("cpu", "warm")] + [f"{runs[0]['peak']:.0f}"]
                row(name, method, *cells, *kept(np.load(path), places), np.array_equal(places, other))


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
