"""Measure the rates that `icce plan` rests on, and keep them in `icce_ray/planning/rates.yaml`.

    python jobs/bench/rates.py                    # measure this machine's cores and print the file
    python jobs/bench/rates.py --write            # and write it
    python jobs/bench/rates.py --write --list-uri s3://bucket/prefix   # and how fast that prefix is listed
    python jobs/bench/rates.py --gpu h200         # a GPU's entries: needs no Ray

Only what was measured is replaced: figures of GPUs that were not measured stay derived, which the file says of each.
Takes some minutes. Every figure is the least of a few passes of the project's own code: seconds of CPU time of one
core, seconds by the clock on a GPU and in section `fixed`.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).parents[2] / "icce_ray" / "planning" / "rates.yaml"


def cpu_name() -> str:
    """The processor, as the system calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def measure_gpu(name: str, content: dict[str, Any]) -> str:
    """Put the rates of a GPU below `gpus.NAME.rates`; the machine."""
    import torch
    from rates_device import measured

    if name not in content["gpus"]:
        known = ", ".join(content["gpus"])
        raise SystemExit(f"--gpu {name}: {FILE.name} knows {known}; add its published peaks there")
    if not torch.cuda.is_available():
        raise SystemExit(f"--gpu {name}: torch sees no GPU on this machine")
    core = content["core"]
    content["gpus"][name]["rates"] = {
        rate: core[rate] | {"value": value, "unit": core[rate]["unit"].replace("core", "GPU"), "measured": name}
        for rate, value in rounded(measured("cuda")).items()
    }
    return f"one {torch.cuda.get_device_name()}, torch {torch.__version__}"


def measure_host(list_uri: str | None, content: dict[str, Any]) -> str:
    """Put the rates of this machine into sections host, core and fixed; the machine."""
    import rates_device
    import rates_host
    import torch

    host, fixed = rates_host.measured()
    core = rates_device.measured("cpu")
    if list_uri:
        import listing

        found = listing.measured("ours", list_uri)
        host["list"] = found["images"] / found["seconds"]
    for section, values in (("host", host), ("core", core), ("fixed", fixed)):
        for name, value in rounded(values).items():
            content[section][name] |= {"value": value, "measured": "host"}
    return f"{os.cpu_count() or 1} cores of {cpu_name()}, torch {torch.__version__}"


def rounded(values: dict[str, float]) -> dict[str, float]:
    """Three digits each."""
    return {name: float(f"{value:.3g}") for name, value in values.items()}


def main() -> None:
    """Measure, print, and with --write keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"put the figures into {FILE.name}")
    parser.add_argument("--gpu", metavar="NAME", help="measure the GPU instead, as gpus.NAME (h100, h200, ...)")
    parser.add_argument("--list-uri", help="URI of a prefix with images, to be listed as well")
    given = parser.parse_args()
    text = FILE.read_text()
    content = yaml.safe_load(text)
    machine = measure_gpu(given.gpu, content) if given.gpu else measure_host(given.list_uri, content)
    command = shlex.join(["python", "jobs/bench/rates.py", *(part for part in sys.argv[1:] if part != given.list_uri)])
    content["measurements"][given.gpu or "host"] = {
        "date": datetime.date.today(),
        "machine": machine,
        "command": command,
    }
    written = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=1000)
    print(written)
    if given.write:
        header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
        FILE.write_text(header + written)


if __name__ == "__main__":
    main()
