"""What is paid before any work: imports and help in fresh processes, what they import, and the whole demo.

    python jobs/bench/fixed.py [--times 7] [--no-demo]

Seconds are the median of fresh processes, after one that does not count. `imports` are the large packages that were
imported by then; the exit status is 1 if one of them is among those that the row must do without.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

from measuring import header, options, row

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


def demo() -> None:
    """Print seconds of `icce demo` by stage; the rest is Ray's start, the unseen images and the scores."""
    with tempfile.TemporaryDirectory(prefix="icce-demo-") as out:
        started = time.perf_counter()
        code = ICCE.format(words=["icce", "demo", "--out", out, "--quiet"])
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        total = time.perf_counter() - started
        metrics = Store(f"{out}/run-seed0").metrics()
    stages = {name: metrics[name]["seconds"] for name in STAGES}
    print("\nicce demo, seconds\n")
    header(*stages, "rest", "all")
    row(*(f"{value:.1f}" for value in [*stages.values(), total - sum(stages.values()), total]))


def main() -> None:
    """Measure and print two tables; exit 1 if a row imports what it must do without."""
    given, wrong = options(__doc__, times=7, no_demo=False).parse_args(), []
    header("process", "s", "imports")
    for case in CASES:
        seconds, found = measured(case, given.times)
        row(case.name, f"{seconds:.2f}", ", ".join(found) or "-")
        wrong += [f"{case.name} imports {name}" for name in found if name in case.without]
    if not given.no_demo:
        demo()
    if wrong:
        sys.exit("; ".join(wrong))


if __name__ == "__main__":
    main()
