"""Storage on S3: listing, small and large objects, and the stage `embed` end to end, in two versions of the code.

    python jobs/bench/storage.py s3://bucket/bench?endpoint_override=HOST:PORT&scheme=http --fill
    python jobs/bench/storage.py s3://bucket/bench?... --against ANOTHER_CHECKOUT --rounds 3

The bucket must be there. `--fill` puts the objects: `--keys` of one byte, `--small` of 20 kB, `--large` of 8 MB and
`--images` JPEGs of 500 x 375. Each case runs in a process of its own; with `--against` both versions take turns, so
that what else runs on the machine slows both. `list` walks the keys as a source is walked, `small` and `large` read
with 8 threads as a source is read, `embed` is a whole `icce run --until embed` over the JPEGs with HOG features, the
run in the bucket too; Ray's start is not counted. Processor time is that of the process, without Ray's workers.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit, urlunsplit

from measuring import header, in_a_process, options, row

CASES = ("list", "small", "large", "embed")
SMALL, LARGE = 20_000, 8 << 20
COUNTS = {"keys": 100_000, "small": 10_000, "large": 100, "images": 2000}
THREADS = 8


def below(uri: str, path: str) -> str:
    """The URI of a path below it, with its options."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{path}"))


def names(arguments: argparse.Namespace, kind: str) -> list[str]:
    """Names of the objects of a kind, a thousand in a folder."""
    return [f"{index // 1000:03d}/{index:08d}.jpg" for index in range(getattr(arguments, kind))]


def fill(uri: str, arguments: argparse.Namespace) -> None:
    """Put all objects."""
    from decode import pictures

    from icce_ray.io.storage import Storage

    images, noise = pictures(500, 375, 16, "JPEG"), os.urandom(LARGE)
    for kind in COUNTS:
        storage = Storage(below(uri, kind))

        def put(item: tuple[int, str], kind: str = kind, storage: Storage = storage) -> None:
            data = {"keys": b"x", "small": noise[:SMALL], "large": noise, "images": images[item[0] % len(images)]}
            storage.write_bytes(item[1], data[kind])

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(put, enumerate(names(arguments, kind))))


def work(case: str, uri: str, arguments: argparse.Namespace) -> float:
    """Seconds of one case."""
    from icce_ray.io.sources.fetch import fetch
    from icce_ray.io.sources.walk import walk

    if case == "embed":
        return embed(uri)
    fetch(uri, "none", max_bytes=1)  # the client is made
    begin = time.perf_counter()
    if case == "list":
        from collections import Counter

        found = sum(1 for _ in walk(below(uri, "keys"), Counter()))
        assert found == arguments.keys, found
    else:
        place, files = below(uri, case), names(arguments, case)
        with ThreadPoolExecutor(THREADS) as pool:
            for content in pool.map(lambda name: fetch(place, name, max_bytes=2 * LARGE), files):
                assert isinstance(content, bytes), content
    return time.perf_counter() - begin


def embed(uri: str) -> float:
    """Seconds of a run up to `embed` without the start of Ray."""
    import ray

    from icce_ray import pipeline
    from icce_ray.settings import load

    ray.init(log_to_driver=False, include_dashboard=False)
    import ray.data

    values = {"source": below(uri, "images"), "out": below(uri, f"run-{uuid.uuid4().hex}"), "clusters": 4}
    settings = load(values | {"embed": {"backbone": "hog", "features": "hog", "rows_per_shard": 128}})
    begin = time.perf_counter()
    pipeline.run(settings, last="embed", verbose=False)
    return time.perf_counter() - begin


def measured(case: str, tree: str, arguments: argparse.Namespace) -> tuple[float, float]:
    """Seconds and processor seconds of a case in a process of its own, with the code of a checkout."""
    counts = [f"--{kind}={getattr(arguments, kind)}" for kind in COUNTS]
    taken = in_a_process(__file__, arguments.uri, "--case", case, *counts, PYTHONPATH=tree)
    return taken["seconds"], taken["processor"]


def main() -> None:
    """Print a table: medians of all rounds, and the median of their ratios."""
    parser = options(__doc__, rounds=3, cases=[*CASES], fill=False, **COUNTS)
    parser.add_argument("uri")
    parser.add_argument("--against", help="a checkout of another version")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        begin = time.process_time()
        seconds = work(arguments.case, arguments.uri, arguments)
        print(json.dumps({"seconds": seconds, "processor": time.process_time() - begin}))
        return
    if arguments.fill:
        fill(arguments.uri, arguments)
        return
    trees = [*([arguments.against] if arguments.against else []), str(Path(__file__).parents[2])]
    header("case", *(f"{tree}: s (CPU s)" for tree in trees), "ratio")
    for case in arguments.cases:
        rounds = [[measured(case, tree, arguments) for tree in trees] for _ in range(arguments.rounds)]
        medians = [[median(figures) for figures in zip(*of_tree, strict=True)] for of_tree in zip(*rounds, strict=True)]
        ratio = median(one[-1][0] / one[0][0] for one in rounds)
        row(case, *(f"{seconds:.2f} ({processor:.2f})" for seconds, processor in medians), f"{ratio:.2f}")


if __name__ == "__main__":
    main()
