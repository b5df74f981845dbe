"""Time and memory of every stage at four sizes, each four times the one before, and the exponents of their growth.

    python jobs/bench/growth.py [--images 16384] [--stages embed heads ...] [--plot jobs/bench/growth.svg]

--images is the largest size; list and consensus go to 4 and 16 times as many. Everything else stays as it is: classes
of 100 images each, so that a neighbour list does not grow; 384 features; 100 clusters for heads, consensus and grid.
Each case runs in a process of its own, after a small one that does not count. It is the stage's own work, as a task or
an actor does it, without the start of Ray, which would hide the slope; consensus is the whole stage on a local Ray.

Seconds are the least of a few repetitions. Memory is the peak above what the process had before: inputs that are read
count. Of consensus it is that of the driver, with Ray's workers beside it. Exponents are over all four sizes, and
between the two largest, where the fixed part hides less.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from pathlib import Path

import growth_stages
import matplotlib as mpl
from matplotlib.figure import Figure
from measuring import Watch, fresh_peak, header, in_a_process, options, peak, row, shared_of, slope

SIZES, FACTOR, WARM = 4, 4, 512
PANELS = {"seconds": "seconds", "peak": "peak memory above the empty process, MiB"}
REPEATED_SECONDS, REPEATED = 2.0, 5


def measured(name: str, root: Path) -> dict[str, float]:
    """Seconds and MiB of one stage on what lies below `root`, after the smaller case in `root/warm`."""
    stage = growth_stages.STAGES[name]
    with stage.around():
        stage.work(root / "warm")
        before, watch = fresh_peak(), Watch()
        ours = watch.look()
        base = shared_of(ours) + sum(status.get("RssAnon", 0) for status in ours.values())
        watch.start()
        taken: list[float] = []
        while not taken or (stage.repeatable and sum(taken) < REPEATED_SECONDS and len(taken) < REPEATED):
            started = time.perf_counter()
            stage.work(root)
            taken.append(time.perf_counter() - started)
        return {"seconds": min(taken), "peak": peak() - before, "all": watch.most["all"] - base}


def grown(name: str, largest: int) -> dict[str, list[float]]:
    """Sizes, seconds and memory of one stage."""
    top = int(largest * growth_stages.STAGES[name].scale)
    sizes = [top // FACTOR**power for power in reversed(range(SIZES))]
    found: dict[str, list[float]] = {"images": list(sizes), "seconds": [], "peak": [], "all": []}
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="icce-growth-") as root:
            growth_stages.prepare(name, Path(root), size)
            growth_stages.prepare(name, Path(root) / "warm", WARM)
            one = in_a_process(__file__, "--measure", name, "--root", root)
        for key, value in one.items():
            found[key].append(value)
        print(f"{name} {size:,}: {one['seconds']:.2f} s, {one['peak']:.0f} MiB", flush=True)
    return found


def print_table(results: dict[str, dict[str, list[float]]]) -> None:
    """A row a stage; numbers of the four sizes follow each other."""
    header("stage", "images", "s", "exponent", "of the last step", "MiB", "exponent", "of the last step")
    for name, found in results.items():
        sizes, cells = found["images"], [name, f"{found['images'][0]:,.0f} to {found['images'][-1]:,.0f}"]
        for key, digits in (("seconds", 2), ("peak", 0)):
            values = [max(value, 1e-3) for value in found[key]]
            cells.append(", ".join(f"{value:.{digits}f}" for value in values))
            cells += [f"{slope(sizes[first:], values[first:]):.2f}" for first in (0, -2)]
        row(*cells)
        if growth_stages.STAGES[name].workers:
            row(f"{name}, all processes", *[""] * 4, ", ".join(f"{value:.0f}" for value in found["all"]), "", "")


def plotted(results: dict[str, dict[str, list[float]]]) -> bytes:
    """An SVG of two panels; exponents stand in the legend, and a dashed line grows as the images do."""
    with mpl.rc_context({"svg.hashsalt": "icce", "font.size": 9}):
        figure = Figure(figsize=(11.0, 5.0), layout="constrained")
        for axis, (key, label) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
            axis.set(xscale="log", yscale="log", xlabel="images", ylabel=label)
            for name, found in results.items():
                values = [max(value, 0.1 if key == "peak" else 1e-3) for value in found[key]]
                text = f"{name} {slope(found['images'], values):.2f}"
                axis.plot(found["images"], values, marker="o", markersize=4, label=text)
            low, high = axis.get_xlim()
            bottom = axis.get_ylim()[0]
            axis.plot([low, high], [bottom, bottom * high / low], "k--", linewidth=0.8, label="linear 1.00")
            axis.grid(visible=True, alpha=0.3)
            axis.legend(loc="best", fontsize=8, title="exponent")
        sink = io.BytesIO()
        figure.savefig(sink, format="svg", metadata={"Date": None})
    return sink.getvalue()


def main() -> None:
    """Print one table and write one plot."""
    parser = options(__doc__, images=16384)
    parser.add_argument("--stages", nargs="+", choices=list(growth_stages.STAGES), default=list(growth_stages.STAGES))
    parser.add_argument("--plot", type=Path, help="an SVG to write")
    parser.add_argument("--results", type=Path, help="a JSON file to add the figures to; the table is of all there")
    for hidden in ("--measure", "--root"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measured(given.measure, Path(given.root))))
        return
    results = json.loads(given.results.read_text()) if given.results and given.results.exists() else {}
    for name in given.stages:
        results[name] = grown(name, given.images)
        if given.results:
            given.results.write_text(json.dumps(results))
    results = {name: results[name] for name in growth_stages.STAGES if name in results}
    print_table(results)
    if given.plot:
        given.plot.write_bytes(plotted(results))


if __name__ == "__main__":
    main()
