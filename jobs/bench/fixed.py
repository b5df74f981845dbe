"""What is paid before any work: imports and help in fresh processes, what they import, and the whole demo.

    python jobs/bench/fixed.py [--times 7] [--no-demo]

Seconds are the median of fresh processes, after one that does not count. `imports` are the large packages that were
imported by then; the exit status is 1 if one of them is among those that the row must do without.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from icce_ray.pipeline import STAGES
from icce_ray.store import Store

LARGE = ("ray", "torch", "transformers", "sklearn", "scipy", "pandas", "matplotlib", "pyarrow", "numpy", "pydantic")
ICCE = "import sys; sys.argv = {words!r}\ntry: __import__('icce_ray.cli.main').cli.main.main()\nexcept SystemExit: pass"


@dataclass(frozen=True)
class Case:
    """Something a process does first, and what it must do without."""

    name: str
    code: str
    without: tuple[str, ...]


CASES = (
    Case("python alone", "pass", LARGE),
    Case("import icce_ray", "import icce_ray", LARGE),
    Case("icce --help", ICCE.format(words=["icce", "--help"]), LARGE),
    Case("icce run --help", ICCE.format(words=["icce", "run", "--help"]), LARGE[:9]),
    Case("icce_ray.Settings", "import icce_ray; icce_ray.Settings", LARGE[:7]),
    Case("icce_ray.ICCE", "import icce_ray; icce_ray.ICCE", ("ray", "transformers", "matplotlib")),
    Case("icce_ray.run", "import icce_ray; icce_ray.run", ("transformers", "sklearn", "matplotlib")),
)


def measured(case: Case, times: int) -> tuple[float, list[str]]:
    """Median seconds of fresh processes, and the large packages that they import."""
    tell = f"\nimport sys; print(' ', *(name for name in {LARGE!r} if name in sys.modules))"
    answer = subprocess.run([sys.executable, "-c", case.code + tell], check=True, capture_output=True, text=True)
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", case.code], check=True, capture_output=True)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken), answer.stdout.splitlines()[-1].split()


def demo() -> Table:
    """Seconds of `icce demo` in a new directory by stage; the rest is Ray's start, the unseen images and the scores."""
    with tempfile.TemporaryDirectory(prefix="icce-demo-") as out:
        started = time.perf_counter()
        code = ICCE.format(words=["icce", "demo", "--out", out, "--quiet"])
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        total = time.perf_counter() - started
        metrics = Store(f"{out}/run-seed0").metrics()
    stages = {name: metrics[name]["seconds"] for name in STAGES}
    table = Table(*stages, "rest", "all", title="icce demo, seconds", title_justify="left")
    numbers = [*stages.values(), total - sum(stages.values()), total]
    table.add_row(*(f"{value:.1f}" for value in numbers))
    return table


def main() -> None:
    """Measure and print two tables; exit 1 if a row imports what it must do without."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--no-demo", action="store_true", help="leave out `icce demo`")
    given = parser.parse_args()
    table, wrong = Table("process", "s", "imports"), []
    for case in CASES:
        seconds, found = measured(case, given.times)
        table.add_row(case.name, f"{seconds:.2f}", ", ".join(found) or "-")
        wrong += [f"{case.name} imports {name}" for name in found if name in case.without]
    console = Console(width=120)
    console.print(table)
    if not given.no_demo:
        console.print(demo())
    if wrong:
        sys.exit("; ".join(wrong))


if __name__ == "__main__":
    main()
