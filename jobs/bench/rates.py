"""Measure the rates that `icce plan` rests on, and keep them in `icce_ray/planning/rates.yaml`.

    python jobs/bench/rates.py                    # measure this machine's cores and print the entries
    python jobs/bench/rates.py --write            # and put them into the file, in place
    python jobs/bench/rates.py --write --list-uri s3://bucket/prefix   # and how fast that prefix is listed
    python jobs/bench/rates.py --gpu h200         # a GPU's entries: needs torch and transformers, no Ray, no pydantic

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
#: Units, and what each figure is of.
HOST = {
    "list": ("keys/s", "keys of an S3 prefix into the manifest, one process (jobs/bench/listing.py)"),
    "decode": ("images/s/core", "decode a JPEG of 500 x 375 pixels and resize it to 224 x 224"),
    "hog": ("images/s/core", "HOG with colour of 32 x 32 pixels"),
    "parquet_write": (
        "B/s/core",
        "shards of 1,024 features of 2,048 float16 numbers, hashed, to a local disk",
    ),
    "parquet_read": ("B/s/core", "the same shards read whole, from the system's cache"),
    "id_bytes": ("B/image", "image_id, uri and key of a shard, for keys of 22 characters"),
    "manifest_bytes": ("B/image", "a row of the manifest, for keys of 22 characters"),
    "draw": ("images/s", "images among which the sample is drawn"),
    "cspa": ("row pairs/s/core", "CSPA of 3,000 rows, both tolerances"),
    "hgpa": ("pins x clusters/s/core", "HGPA of 3,000 images, 20 heads, 10 clusters"),
    "hbgf": ("edges/s/core", "HBGF of 3,000 images, 20 heads, both tolerances"),
    "mcla": ("image-head-head/s/core", "MCLA of 20,000 images, 50 heads, 20 clusters, both tolerances"),
    "cut": ("pairs/s/core", "METIS on 4 million pairs of 10,000 clusters, 200 parts"),
    "votes": ("image-head/s/core", "one vote of the heads with its tables, at those sizes"),
}
DEVICE = {
    "forward_small": "DINOv2 small, random weights, pixels to features",
    "forward_base": "DINOv2 base, random weights, pixels to features",
    "forward_large": "DINOv2 large, random weights, pixels to features",
    "heads_matmul": "matrix products of a training step of the heads",
    "heads_memory": "all else of that step: Sinkhorn, losses, optimiser (bytes as counted in planning/operations.py)",
    "search_matmul": "exact search with 50 neighbours an image, in the precision the device searches in",
    "search_rescore": "scoring and sorting the neighbours found (bytes of both rows of each pair)",
    "linear": "the classifier's grid, float32",
    "label": "the chosen classifier on shards of 1,024 images, float32",
}
FIXED = "seconds of a run over 64 tiny images"
HEADER = """\
# Speeds that `icce plan` rests on. Every figure says how it is known: measured (date, machine, command) or derived.
# No GPU was at hand unless gpus.NAME.rates has entries: without them a plan takes `shares` of the vendor's published
# peak, an assumption, and prints it as one. `python jobs/bench/rates.py --write` measures host, core and fixed again,
# in place; `--gpu NAME --write` measures a GPU. Own figures: `icce plan --rates FILE` with any part of these sections.
"""


def cpu_name() -> str:
    """The processor, as the system calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def entries(values: dict[str, float], described: dict[str, tuple[str, str]], known: dict[str, Any]) -> dict[str, Any]:
    """Values as measured entries of the file, three digits each."""
    return {
        name: {
            "value": float(f"{value:.3g}"),
            "unit": described[name][0],
            "what": described[name][1],
            "measured": known,
        }
        for name, value in values.items()
    }


def device_units(per: str) -> dict[str, tuple[str, str]]:
    """Unit and meaning of the speeds of a device."""
    bytes_a_second = ("heads_memory", "search_rescore")
    return {name: (f"{'B' if name in bytes_a_second else 'FLOP'}/s/{per}", what) for name, what in DEVICE.items()}


def measure_gpu(name: str, known: dict[str, Any]) -> dict[str, Any]:
    """Entries below `gpus.NAME.rates`."""
    import torch
    from rates_device import measured

    if not torch.cuda.is_available():
        raise SystemExit(f"--gpu {name}: torch sees no GPU on this machine")
    machine = f"one {torch.cuda.get_device_name()}, torch {torch.__version__}"
    return {"gpus": {name: {"rates": entries(measured("cuda"), device_units("GPU"), known | {"machine": machine})}}}


def measure_host(list_uri: str | None, known: dict[str, Any]) -> dict[str, Any]:
    """Sections host, core and fixed."""
    import rates_device
    import rates_host
    import torch

    cores = os.cpu_count() or 1
    known = known | {"machine": f"{cores} cores of {cpu_name()}, torch {torch.__version__}"}
    values, fixed = rates_host.measured()
    on_device = rates_device.measured("cpu")
    if list_uri:
        import listing

        found = listing.measured("ours", list_uri)
        values["list"] = found["images"] / found["seconds"]
    return {
        "host": entries(values, HOST, known),
        "core": entries(on_device, device_units("core"), known),
        "fixed": entries(fixed, dict.fromkeys(fixed, ("s", FIXED)), known),
    }


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`old` with what was measured in its place; a rate is replaced as a whole."""
    result = dict(old)
    for key, value in new.items():
        nested = isinstance(value, dict) and "value" not in value and isinstance(old.get(key), dict)
        result[key] = merged(old[key], value) if nested else value
    return result


def as_yaml(content: dict[str, Any]) -> str:
    """Entries in their order, none of them by reference."""

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return yaml.dump(content, Dumper=Plain, sort_keys=False, width=120)


def main() -> None:
    """Measure, print, and with --write keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"put the figures into {FILE.name}")
    parser.add_argument("--gpu", metavar="NAME", help="measure the GPU instead, as gpus.NAME (h100, h200, ...)")
    parser.add_argument("--list-uri", help="URI of a prefix with images, to be listed as well")
    given = parser.parse_args()
    command = shlex.join(["python", "jobs/bench/rates.py", *(part for part in sys.argv[1:] if part != given.list_uri)])
    known = {"date": datetime.date.today(), "command": command}
    old = yaml.safe_load(FILE.read_text())
    if given.gpu and given.gpu not in old["gpus"]:
        raise SystemExit(
            f"--gpu {given.gpu}: {FILE.name} knows {', '.join(old['gpus'])}; add its published peaks there"
        )
    new = measure_gpu(given.gpu, known) if given.gpu else measure_host(given.list_uri, known)
    print(as_yaml(new))
    if given.write:
        FILE.write_text(HEADER + as_yaml(merged(old, new)))


if __name__ == "__main__":
    main()
