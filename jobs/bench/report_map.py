"""The map of the page: frames per second while it is dragged, in Chromium without graphics hardware.

    python jobs/bench/report_map.py                     # 50,000 points, windows of 1,600 x 900 and 375 x 900
    python jobs/bench/report_map.py --no-gpu-process    # as Playwright starts Chromium

The run is made up (`made_run.py`). `pixels` is what the page does without hardware, `WebGL` what it would do if it took
the software of the browser (SwiftShader) for hardware. A frame is one of the page's: from one call of
`requestAnimationFrame` to the next, the pointer being moved in each. The best of the passes is shown, and the others.
Without `--no-gpu-process` SwiftShader also puts the page together, whatever is on it.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from made_run import add_map, make_run, parquet_source
from measuring import header, options, row

from icce_ray.progress import Progress
from icce_ray.report.page import write_report

#: Makes the page take any WebGL for hardware.
HARDWARE = """const ask = WebGL2RenderingContext.prototype.getParameter;
WebGL2RenderingContext.prototype.getParameter = function (what) {
  return what === 0x9246 ? 'hardware' : ask.call(this, what);
};"""
#: Milliseconds of each frame of a drag, and of clicks on a class of the legend until the next frame.
DRAG = """async (frames) => {
  const frame = document.querySelector(".map-frame");
  const { left, top } = frame.getBoundingClientRect();
  frame.setPointerCapture = () => {};
  const send = (kind, x, y) => frame.dispatchEvent(
    new PointerEvent(kind, { clientX: left + x, clientY: top + y, pointerId: 1, bubbles: true }));
  const taken = [];
  send("pointerdown", 150, 150);
  let last = await new Promise(requestAnimationFrame);
  for (let step = 0; step < frames; step++) {
    send("pointermove", 150 + 100 * Math.sin(step / 12), 150 + 80 * Math.cos(step / 9));
    const now = await new Promise(requestAnimationFrame);
    taken.push(now - last);
    last = now;
  }
  send("pointerup", 150, 150);
  return taken;
}"""
CLICK = """async () => {
  const started = performance.now();
  document.querySelector(".map-groups button").click();
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  return performance.now() - started;
}"""


def main() -> None:
    """Print a table."""
    parser = options(__doc__, images=50_000, clusters=20, passes=5, frames=120, no_gpu_process=False)
    parser.add_argument("--page", help="measure this page, which has a map")
    given = parser.parse_args()
    if given.page:
        measured(given.page, given)
        return
    with tempfile.TemporaryDirectory() as folder:
        source = parquet_source(Path(folder) / "images", given.images)
        store = make_run(f"{folder}/run", source, clusters=given.clusters, heads=2, epochs=2)
        add_map(store)
        page = write_report(store, Progress())
        print(f"{given.images:,} points, a page of {Path(page).stat().st_size / 1e6:.2f} MB")
        measured(page, given)


def measured(page: str, given: Any) -> None:
    """Drag the map in windows of two widths, drawn by both."""
    from playwright.sync_api import sync_playwright

    browser = shutil.which("chromium") or shutil.which("google-chrome")
    header(
        "window", "drawn by", "frames per second", "slowest of 20 frames, ms", "a click on a class, ms", "all passes"
    )
    with sync_playwright() as playwright:
        angle = [] if given.no_gpu_process else ["--use-gl=angle", "--use-angle=swiftshader"]
        chromium: Any = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", *angle])
        for width in (1600, 375):
            for name, script in (("pixels", ""), ("WebGL", HARDWARE)):
                tab = chromium.new_page(viewport={"width": width, "height": 900})
                tab.add_init_script(script)
                tab.goto(f"file://{page}#map")
                tab.wait_for_selector(".map-groups button")
                tab.wait_for_timeout(1000)
                passes = [sorted(tab.evaluate(DRAG, given.frames)) for _ in range(given.passes)]
                rates = [1000 * len(taken) / sum(taken) for taken in passes]
                late = min(taken[len(taken) * 19 // 20] for taken in passes)
                clicked = min(tab.evaluate(CLICK) for _ in range(3))
                every = ", ".join(f"{rate:.0f}" for rate in rates)
                row(f"{width} x 900", name, f"{max(rates):.0f}", f"{late:.0f}", f"{clicked:.0f}", every)
                tab.close()
        chromium.close()


if __name__ == "__main__":
    main()
