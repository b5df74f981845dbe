"""Prove on a GPU, in ten minutes, what the tests prove on a CPU, and measure it.

    python jobs/bench/gpu_day.py --out gpu-day.json         # every check on this machine's GPU
    python jobs/bench/gpu_day.py --dry-run                  # the same code at tiny sizes on the CPU
    python jobs/bench/gpu_day.py --only numerics step       # some of them
    python jobs/bench/rates.py --write --day gpu-day.json   # then: what `icce plan` rests on

Prints a line a check and writes JSON. The exit status is 0 where nothing failed, 1 where a check did, 77 where torch
sees no GPU. A check whose packages are missing is skipped and says so: what the core does needs torch alone.
"""

from __future__ import annotations

import datetime
import json
import platform
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml

sys.path.insert(0, str(Path(__file__).parent))  # where it is imported, by a test

from gpu import runs, searching, speeds, training
from gpu.day import Check, Day
from measuring import options

RATES = Path(__file__).parents[2] / "icce_ray" / "planning" / "rates.yaml"
EXIT_FAILED, EXIT_NO_GPU = 1, 77
_BACKBONE, _RUN = ("transformers", "pydantic", "fsspec"), ("ray", "pydantic", "fsspec")
CHECKS = (
    Check("card", speeds.card),
    Check("doctor", runs.doctor, ("fsspec", "pyarrow")),
    Check("numerics", training.numerics),
    Check("no_waiting", training.no_waiting),
    Check("restore", training.restored),
    Check("mine", searching.mined),
    Check("step", training.step),
    Check("backbone", speeds.backbone, _BACKBONE),
    Check("queries", searching.queries),
    Check("classifier", speeds.classifier),
    Check("loading", runs.loading, _RUN),
    Check("embed", speeds.embed, (*_RUN, "transformers")),
    Check("run", runs.small_run, _RUN),
    Check("two_ranks", runs.two_ranks),
)


def card_of(name: str, memory: float, cards: dict[str, Any]) -> str | None:
    """The entry of `rates.yaml` for a card that calls itself `name` and has so many bytes; None if there is none."""
    words = name.lower().replace("-", " ").split()
    fitting = [key for key in cards if key.split("-")[0] in words]
    return min(fitting, key=lambda key: abs(cards[key]["memory_gb"] * 1e9 - memory), default=None)


def prepared(dry: bool) -> tuple[Day, str | None]:
    """The day, and the card by its name in `rates.yaml`."""
    if dry:
        return Day("cpu", True, {}), None
    cards, found = yaml.safe_load(RATES.read_text())["gpus"], torch.cuda.get_device_properties(0)
    card = card_of(found.name, found.total_memory, cards)
    peaks = (
        {name: float(value) for name, value in cards[card].items() if isinstance(value, int | float)} if card else {}
    )
    return Day("cuda", False, peaks), card


def missing_gpu() -> str:
    """Why the checks cannot run here; nothing where they can."""
    if torch.cuda.is_available():
        return ""
    built = "is built for CPUs" if torch.version.cuda is None else f"is built for CUDA {torch.version.cuda}"
    return f"torch {torch.__version__} {built} and sees no GPU; --dry-run runs the same code on the CPU"


def summary(checks: list[dict[str, Any]], card: str | None, dry: bool, seconds: float) -> dict[str, Any]:
    """Everything that was found; `rates` are those of all checks."""
    rates = {name: rate for one in checks for name, rate in one.get("figures", {}).pop("rates", {}).items()}
    return {
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", "jobs/bench/gpu_day.py", *sys.argv[1:]]),
        "card": card,
        "dry_run": dry,
        "python": platform.python_version(),
        "seconds": round(seconds, 1),
        "checks": checks,
        "rates": rates,
    }


def main() -> None:
    """Run the checks, print a line each, write the JSON."""
    parser = options(__doc__, dry_run=False)
    parser.add_argument("--only", nargs="+", choices=[check.name for check in CHECKS], metavar="NAME", help="checks")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    given = parser.parse_args()
    reason = "" if given.dry_run else missing_gpu()
    if reason:
        print(f"skipped: {reason}")
        sys.exit(EXIT_NO_GPU)
    (day, card), found, started = prepared(given.dry_run), [], time.perf_counter()
    with day.held:
        for check in CHECKS:
            if given.only and check.name not in given.only:
                continue
            found.append(check.record(day))
            said = found[-1].get("reason") or json.dumps(found[-1]["figures"])
            print(f"{found[-1]['status']:8} {check.name:12} {found[-1]['seconds']:7.1f} s  {said}", flush=True)
    whole = summary(found, card, given.dry_run, time.perf_counter() - started)
    print(f"{whole['seconds']:.0f} s in all")
    if given.out:
        given.out.write_text(json.dumps(whole, indent=1) + "\n")
    sys.exit(EXIT_FAILED if any(one["status"] == "failed" for one in found) else 0)


if __name__ == "__main__":
    main()
