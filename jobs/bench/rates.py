"""Measure the rates that `icce plan` rests on, and keep them in `icce_ray/planning/rates.yaml`.

    python jobs/bench/rates.py                    # measure this machine's cores and print the file
    python jobs/bench/rates.py --write            # and write it
    python jobs/bench/rates.py --write --list-uri s3://bucket/prefix   # and how fast that prefix is listed
    python jobs/bench/rates.py --write --day gpu-day.json   # a GPU's, from what `gpu_day.py --out` has found on it
    python jobs/bench/rates.py --write --only row_numbers checkpoint   # some of this machine's cores

Only what was measured is replaced: figures of GPUs that were not measured stay counted, which the file says of each.
Takes some minutes. Every figure is the least of a few passes of the project's own code: seconds of CPU time of one
core, seconds by the clock on a GPU and in section `fixed`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import yaml

#: Rates that are measured in seconds, which `--only` may name.
ALONE = ("row_numbers", "checkpoint", "heads_label")
FILE = Path(__file__).parents[2] / "icce_ray" / "planning" / "rates.yaml"


def cpu_name() -> str:
    """The processor, as the system calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def take_day(path: Path, content: dict[str, Any]) -> None:
    """Make the rates that `gpu_day.py` has found `gpus.CARD.rates`; those of another day have another date, and go.

    Exits with a message where the file is of a dry run, of a card that is not known, or has a check that failed.
    """
    day = json.loads(path.read_text())
    failed = [one["name"] for one in day["checks"] if one["status"] == "failed"]
    if day["dry_run"] or failed:
        why = "a dry run on a CPU" if day["dry_run"] else f"of a day on which {', '.join(failed)} failed"
        raise SystemExit(f"{path} is {why}: nothing is measured until every check of gpu_day.py passes on a GPU")
    name, device = day["card"], next(one["figures"] for one in day["checks"] if one["name"] == "card")
    if name is None:
        known = ", ".join(content["gpus"])
        raise SystemExit(f"{path} is of {device['device']}; {FILE.name} knows {known}: add its published peaks there")
    shares, rates = content["shares"], {}
    content["gpus"][name]["rates"] = rates
    for rate, value in rounded(day["rates"]).items():
        unit = "B/s/GPU" if shares[rate]["of"] == "bandwidth" else "FLOP/s/GPU"
        rates[rate] = {"value": value, "unit": unit, "what": shares[rate]["what"], "measured": name}
    machine = f"one {device['device']}, torch {device['torch']}, CUDA {device['cuda']}"
    content["measurements"][name] = {
        "date": datetime.date.fromisoformat(day["date"]),
        "machine": machine,
        "command": day["command"],
    }


def measure_host(list_uri: str | None, only: list[str] | None, content: dict[str, Any]) -> None:
    """Put rates of this machine into sections host, core and fixed, all or some."""
    import rates_device
    import rates_host
    import torch

    found: dict[str, dict[str, float]] = {}
    if only:
        found["host"] = {name: value for name, value in rates_host.training_files().items() if name in only}
        found["core"] = rates_device.heads() if "heads_label" in only else {}
    else:
        found["host"], found["fixed"] = rates_host.measured()
        found["core"] = rates_device.measured()
    if list_uri:
        import listing

        listed = listing.measured("ours", list_uri)
        found["host"]["list"] = listed["images"] / listed["seconds"]
    name = "-".join(["host", *(only or [])])
    for section, values in found.items():
        for rate, value in rounded({key: one for key, one in values.items() if not only or key in only}).items():
            content[section][rate] |= {"value": value, "measured": name}
    command = shlex.join(["python", "jobs/bench/rates.py", *(part for part in sys.argv[1:] if part != list_uri)])
    machine = f"{os.cpu_count() or 1} cores of {cpu_name()}, torch {torch.__version__}"
    content["measurements"][name] = {"date": datetime.date.today(), "machine": machine, "command": command}


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Three digits each."""
    return {name: float(f"{value:.3g}") for name, value in values.items()}


def main() -> None:
    """Measure, print, and with --write keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"put the figures into {FILE.name}")
    parser.add_argument("--day", type=Path, metavar="FILE", help="take a GPU's rates from this JSON of gpu_day.py")
    parser.add_argument("--only", nargs="+", metavar="RATE", choices=ALONE, help=f"of {', '.join(ALONE)}: only these")
    parser.add_argument("--list-uri", help="URI of a prefix with images, to be listed as well")
    given = parser.parse_args()
    text = FILE.read_text()
    content = yaml.safe_load(text)
    if given.day:
        take_day(given.day, content)
    else:
        measure_host(given.list_uri, given.only, content)
    written = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=1000)
    print(written)
    if given.write:
        header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
        FILE.write_text(header + written)


if __name__ == "__main__":
    main()
