"""The picture of the README, from the report of a run: `python docs/picture.py RUN/report/index.html docs`.

Needs Chromium, as the tests of the report do; the picture is a WebP file of some 100 kB.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

#: Pixels of the window, and of the picture's longer side.
WINDOW, WIDTH = {"width": 1500, "height": 900}, 1200


def main(report: str, folder: str) -> None:
    """Write report.webp into the folder."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = chromium.new_page(viewport=WINDOW, color_scheme="light")  # type: ignore[arg-type]
        tab.goto(Path(report).resolve().as_uri())
        tab.wait_for_function("[...document.querySelectorAll('.cover img')].every((one) => one.naturalWidth > 0)")
        shot = Image.open(io.BytesIO(tab.screenshot()))
        chromium.close()
    shot.thumbnail((WIDTH, WIDTH))
    shot.save(Path(folder) / "report.webp", quality=85, method=6)


if __name__ == "__main__":
    main(*sys.argv[1:])
