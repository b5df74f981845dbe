"""What a machine needs to work on a run, checked one by one: `icce doctor`. Ray is not imported, torch where needed.

A check that finds a fault has a remedy. What only GPUs need is a fault only where there is one, or should be.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sysconfig
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from icce_ray.core.gpus import Gpus, first_line, probe_gpus
from icce_ray.io.locations import LocationError
from icce_ray.io.storage import Storage
from icce_ray.version import __version__

#: Distributions whose versions have to be the same on every node. Ray alone may be missing: the estimator needs none.
PACKAGES = (
    *("torch", "transformers", "numpy", "scipy", "scikit-learn", "pyarrow", "pillow", "fsspec", "s3fs"),
    *("pydantic", "safetensors", "ray"),
)
#: Bytes of /dev/shm from which on Ray's object store and NCCL have room; Docker gives 64 MB by itself.
LEAST_SHM = 10**9
_ANSWER_SECONDS = 30.0
_INSTALL = "install the same on every node: pip install -c constraints.txt icce-ray"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. It is a fault if and only if there is a remedy."""

    name: str
    found: str
    remedy: str = ""


def examine(
    out: str | None = None,
    *,
    gpu: bool = False,
    store_file: str | None = None,
    object_store: float = 0.0,
    versions: Mapping[str, str] | None = None,
) -> list[Check]:
    """All checks of this machine, which take some seconds.

    `out` is where a run is to be written, and `store_file` what another node has written there; `gpu` says that there
    should be one, `object_store` how many bytes Ray's object store has here, `versions` those of the head.
    """
    driver = _driver(gpu)
    gpus = probe_gpus() if gpu or _has_driver() else Gpus()
    used = bool(gpus.gpus or gpus.fault)
    checks = [
        _packages(versions),
        driver,
        _cuda(gpus),
        _nccl(gpus),
        _compiler(used),
        _compile("cuda" if gpus.gpus else "cpu", used),
        _shared_memory(object_store),
    ]
    return checks if out is None else [*checks, _store(out, store_file)]


def installed() -> dict[str, str]:
    """Versions of Python, of this package and of `PACKAGES`; "" of one that is not installed."""
    found = {"Python": platform.python_version(), "icce-ray": __version__}
    for name in PACKAGES:
        found[name] = ""
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _packages(wanted: Mapping[str, str] | None) -> Check:
    """Those that are missing or, beside `wanted`, other; builds of one version for CPUs and for CUDA are the same."""
    found = installed()
    said = ", ".join(f"{name} {version or 'not installed'}" for name, version in found.items())
    if wanted is not None:
        other = [
            f"{name} {found.get(name) or 'not installed'} (the head has {version or 'none'})"
            for name, version in wanted.items()
            if found.get(name, "").partition("+")[0] != version.partition("+")[0]
        ]
        return Check("packages", ", ".join(other), _INSTALL) if other else Check("packages", "as on the head")
    missing = [name for name, version in found.items() if not version and name != "ray"]
    return Check("packages", said, f"pip install {' '.join(missing)}" if missing else "")


def _has_driver() -> bool:
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").exists()


def _driver(wanted: bool) -> Check:
    """NVIDIA's driver, and the GPUs that it sees."""
    if not _has_driver():
        remedy = "install NVIDIA's driver, or start the container with the GPUs: docker run --gpus all"
        return Check("driver", "none", remedy if wanted else "")
    if shutil.which("nvidia-smi") is None:
        return Check("driver", Path("/proc/driver/nvidia/version").read_text().splitlines()[0])
    command = ["nvidia-smi", "--query-gpu=driver_version,name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stdout", None) or str(error)
        said = said.decode(errors="replace") if isinstance(said, bytes) else said
        return Check("driver", f"nvidia-smi: {said.strip().splitlines()[0]}", "install or load NVIDIA's driver anew")
    return Check("driver", "; ".join(done.stdout.strip().splitlines()) or "0 GPUs")


def _cuda(gpus: Gpus) -> Check:
    """Whether torch computes on the GPUs."""
    if gpus.fault:
        return _of_fault("CUDA", gpus.fault)
    said = ", ".join(f"{gpu.name} ({gpu.memory / 1e9:.1f} GB)" for gpu in gpus.gpus)
    return Check("CUDA", f"torch computes on {said}" if said else "no GPU here: work goes on on CPUs")


def _nccl(gpus: Gpus) -> Check:
    """What GPUs of several workers exchange by."""
    if not gpus.gpus:
        return Check("NCCL", "not needed without a GPU")
    import torch
    from torch.cuda import nccl

    if not torch.distributed.is_available() or not torch.distributed.is_nccl_available():
        return Check("NCCL", "torch has none", 'install the build of torch that has: pip install "icce-ray[gpu]"')
    version = nccl.version()
    return Check("NCCL", ".".join(map(str, version)) if isinstance(version, tuple) else str(version))


def _compiler(used: bool) -> Check:
    """What torch.compile needs where heads train on a GPU."""
    names = [os.environ.get("CXX", ""), "g++", "clang++"]
    compiler = next((found for name in names if name and (found := shutil.which(name))), None)
    header = Path(sysconfig.get_path("include")) / "Python.h"
    said = f"{compiler or 'no C++ compiler'}, {header if header.exists() else f'no {header}'}"
    complete = compiler is not None and header.exists()
    return Check("compiler", said, "apt-get install g++ python3-dev" if used and not complete else "")


def _compile(device: str, used: bool) -> Check:
    """One small function compiled and run."""
    from icce_ray.core.compiling import compile_fault

    fault = compile_fault(device)
    if not fault:
        return Check("compile", f"torch.compile works ({device})")
    return _of_fault("compile", fault) if used else Check("compile", f"{fault}. By default only GPUs need it")


def _shared_memory(object_store: float) -> Check:
    """/dev/shm, where Ray's object store lies and NCCL exchanges within a machine."""
    if not Path("/dev/shm").is_dir():
        return Check("/dev/shm", "none: this system has its shared memory elsewhere")
    about = os.statvfs("/dev/shm")
    size, free = about.f_frsize * about.f_blocks, about.f_frsize * about.f_bavail
    least = max(LEAST_SHM, object_store)
    remedy = f"give containers at least {least / 1e9:.1f} GB (docker run --shm-size, or a medium: Memory volume there)"
    return Check("/dev/shm", f"{size / 1e9:.1f} GB, {free / 1e9:.1f} GB free", remedy if size < least else "")


def _store(out: str, written: str | None) -> Check:
    """Writes, reads and deletes a file of its own; reads what another node has `written`."""
    name, storage = f"doctor-{uuid.uuid4().hex}", None
    try:
        storage = Storage(out)
        before = not storage.local or Path(storage.root).is_dir()
        storage.write_bytes(name, name.encode())
        seen = storage.read_bytes(name) == name.encode() and (written is None or storage.exists(written))
        storage.delete(name)
        if not before:
            with contextlib.suppress(OSError):  # another node's file may be there
                Path(storage.root).rmdir()
    except (OSError, LocationError, ImportError) as error:
        remedy = "look at the address, at the network of this node, and at the rights of its credentials"
        return Check("store", f"{out}: {first_line(error)}", remedy)
    if not seen:
        remedy = "give a URI that all nodes reach, or a folder on a disk that they share"
        return Check("store", f"{out}: what the head has written there is not here", remedy)
    return Check("store", f"{out} can be written and read")


def _of_fault(name: str, fault: str) -> Check:
    """A fault and its remedy, which come as one sentence."""
    found, _, remedy = fault.partition("; ")
    return Check(name, found, remedy)
