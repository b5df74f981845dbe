"""Whether torch.compile works here: it needs a C compiler and Python's headers on every machine that computes."""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import warnings

import torch
from torch import Tensor

from icce_ray.core.gpus import first_line
from icce_ray.core.recipe import Execution

#: What a missing compiler, missing headers, a missing Triton or an unfit driver end in.
_ERRORS = (RuntimeError, OSError, ImportError, AssertionError, subprocess.SubprocessError)


class CompileWarning(UserWarning):
    """torch.compile does not work on this machine; the text says why, and the remedy."""


def compilable(execution: Execution, device_type: str) -> Execution:
    """`execution` as it is where torch.compile works or is not asked for, else uncompiled, with a CompileWarning.

    A process warns once.
    """
    if not execution.compiled or not compile_fault(device_type):
        return execution
    _warn(device_type)
    return dataclasses.replace(execution, compiled=False)


@functools.cache
def _warn(device_type: str) -> None:
    warnings.warn(compile_fault(device_type), CompileWarning, stacklevel=4)


@functools.cache
def compile_fault(device_type: str) -> str:
    """Why torch.compile cannot be used for the device type, and the remedy; empty where it works.

    Compiles and runs one small function, once in a process: some seconds. Caches of torch are left out, for what an
    earlier process has compiled says nothing about the compiler there is now.
    """
    from torch._inductor.utils import fresh_cache  # half a second that only this takes

    with fresh_cache(), torch.no_grad():
        try:
            torch.compile(_trial, dynamic=False)(torch.ones(16, device=device_type)).sum().item()
        except _ERRORS as error:
            return (
                f"torch.compile does not work here, so heads train uncompiled, which is slower: {first_line(error)}; "
                "install a C++ compiler and the headers of this Python on every machine that trains (apt-get install "
                "g++ python3-dev), or set resources.compile=false"
            )
    return ""


def _trial(x: Tensor) -> Tensor:
    return x.exp() + 1.0
