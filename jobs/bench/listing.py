"""Listing a source into the manifest: seconds, and the driver's memory, which must not grow with the number of keys.

    python jobs/bench/listing.py                              # 20,000 and 200,000 files on a local disk
    python jobs/bench/listing.py --s3 URI --fill 20000        # and keys below a prefix of a bucket, put there first

Each case runs in a process of its own; its peak memory counts, imports included. Against it stands the same listing
held whole, as fsspec gives it.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from measuring import header, in_a_process, options, row

PER_FOLDER = 1000


def fill_folder(root: Path, count: int) -> None:
    """Empty files 0/000000.jpg ... in folders of a thousand."""
    for first in range(0, count, PER_FOLDER):
        folder = root / f"{first // PER_FOLDER:05d}"
        folder.mkdir(parents=True)
        for index in range(first, min(first + PER_FOLDER, count)):
            (folder / f"{index:08d}.jpg").touch()


def fill_bucket(uri: str, count: int) -> None:
    """The same names as objects of one byte; the bucket must be there."""
    from icce_ray.io.stores import resolve

    store, prefix = resolve(uri)

    def put(index: int) -> None:
        store.pipe_file(f"{prefix}/{index // PER_FOLDER:05d}/{index:08d}.jpg", b"x")

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(put, range(count)))


def ours(source: str) -> int:
    """The stage `list`; returns the number of images."""
    from icce_ray.io.sources import SourceSpec, find_source
    from icce_ray.progress import Progress
    from icce_ray.stages import listing
    from icce_ray.store import Store

    with tempfile.TemporaryDirectory() as out:
        found = find_source(SourceSpec(source))
        _, summary = listing.run(found, Store(out), Progress(), rows_per_shard=1024)
    return summary["images"]


def whole(source: str) -> int:
    """Everything at once through fsspec, without a manifest."""
    from icce_ray.io.stores import resolve

    filesystem, base = resolve(source)
    return len(filesystem.find(base))


CASES = {"ours": ours, "whole": whole}


def measured(case: str, source: str) -> dict[str, float]:
    """Images, seconds and peak MiB of one case in a process of its own."""
    return in_a_process(__file__, "--case", case, source)


def main() -> None:
    """Print one table."""
    parser = options(__doc__, sizes=[20_000, 200_000])
    parser.add_argument("--s3", help="URI of a prefix to list as well")
    parser.add_argument("--fill", type=int, default=0, help="put this many objects below the prefix first")
    parser.add_argument("--case", nargs=2, metavar=("CASE", "SOURCE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        case, source = arguments.case
        started = time.perf_counter()
        images = CASES[case](source)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"images": images, "seconds": time.perf_counter() - started, "peak": peak}))
        return
    with tempfile.TemporaryDirectory() as folder:
        sources = []
        for size in arguments.sizes:
            fill_folder(Path(folder) / str(size), size)
            sources.append(("local disk", str(Path(folder) / str(size))))
        if arguments.s3:
            fill_bucket(arguments.s3, arguments.fill)
            sources.append(("S3", arguments.s3))
        header("store", "images", "listing", "seconds", "images/s", "peak MiB")
        for name, source in sources:
            for case in CASES:
                images, seconds, peak = measured(case, source).values()
                row(name, f"{images:,.0f}", case, f"{seconds:.2f}", f"{images / seconds:,.0f}", f"{peak:.0f}")


if __name__ == "__main__":
    main()
