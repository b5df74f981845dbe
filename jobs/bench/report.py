"""The page about a large run: seconds to write it, its size, memory, and seconds until a browser shows it.

    python jobs/bench/report.py                                   # 1,000 classes, 1,000,000 images
    python jobs/bench/report.py --images 100000 --clusters 100

The run is made up (`made_run.py`), with a map of 50,000 images; its pictures lie in Parquet files. Opening is measured
in Chromium, if there is one: until the first card shows a picture, from a file on the disk.
"""

from __future__ import annotations

import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from made_run import add_map, make_run, parquet_source
from measuring import options

from icce_ray.progress import Progress
from icce_ray.report.page import write_report


def main() -> None:
    """Print one line a measurement."""
    parser = options(__doc__, images=1_000_000, clusters=1000, heads=50)
    parser.add_argument("--keep", help="write the run there and keep it")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(given.keep or scratch)
        started = time.monotonic()
        source = parquet_source(folder / "images", given.images)
        store = make_run(str(folder / "run"), source, clusters=given.clusters, heads=given.heads, rejects=1000)
        add_map(store)
        print(f"the run was made in {time.monotonic() - started:.1f} s", flush=True)
        started = time.monotonic()
        page = write_report(store, Progress())
        seconds = time.monotonic() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"the page was written in {seconds:.1f} s: {Path(page).stat().st_size / 1e6:.2f} MB, peak {peak:.2f} GB")
        opened(page)


def opened(page: str) -> None:
    """Time Chromium."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("opening: not measured, there is no Chromium")
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium: Any = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for _ in range(3):
            context = chromium.new_context()
            tab = context.new_page()
            started = time.monotonic()
            tab.goto(f"file://{page}")
            tab.wait_for_function("[...document.querySelectorAll('.cover img')].some((one) => one.naturalWidth > 0)")
            print(f"opened in {time.monotonic() - started:.2f} s")
            context.close()
        chromium.close()


if __name__ == "__main__":
    main()
