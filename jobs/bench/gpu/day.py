"""What a check is: a function of the `Day` that returns figures or raises `Failed`; how one is run and recorded."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.util
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar
from unittest import mock

import torch

T = TypeVar("T")
Figures = dict[str, Any]
"""What a check found, as JSON has it. `rates` in it are speeds by their names in `rates.yaml`."""


class Failed(Exception):
    """The device does not do what it must; the message has both figures."""


class Skipped(Exception):
    """A check that has nothing to look at here; the message says what is missing."""


@dataclass(frozen=True)
class Day:
    """The device, and whether this is the dry run: tiny sizes on the CPU, by the same code."""

    device: str
    dry: bool
    peaks: dict[str, float]
    """Published peaks of the card by their names in `rates.yaml`; empty where the card is not known."""
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """What several checks share, until the last is done: a connection to Ray."""

    def connect(self) -> None:
        """Connect to Ray, once for all checks: its start takes seconds."""
        import ray

        from icce_ray.stages.connection import connected

        if not ray.is_initialized():
            self.held.enter_context(connected())

    def size(self, full: T, tiny: T) -> T:
        """The first on a GPU, the second in a dry run."""
        return tiny if self.dry else full

    def share(self, amount: float, peak: str, unit: float) -> float | None:
        """Share of a published peak; None without one."""
        return amount / (self.peaks[peak] * unit) if peak in self.peaks else None

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """torch.compile starts anew; in a dry run it traces the same graphs and leaves out the compiler's minutes.

        Anew, as torch compiles a function for eight recipes and then runs it as it is, without an error.
        """
        torch.compiler.reset()
        traced = functools.partial(torch.compile, backend="eager")
        with mock.patch("torch.compile", traced) if self.dry else contextlib.nullcontext():
            yield


@dataclass(frozen=True)
class Check:
    """One check; `needs` are the modules without which it is skipped."""

    name: str
    work: Callable[[Day], Figures]
    needs: tuple[str, ...] = ()

    def run(self, day: Day) -> Figures:
        """Its figures. Raises Failed, Skipped, or what the code under test raised."""
        missing = [module for module in self.needs if importlib.util.find_spec(module) is None]
        if missing:
            raise Skipped(f"{', '.join(missing)} not installed")
        return self.work(day)

    def record(self, day: Day) -> Figures:
        """Run it, whatever comes: its name, `status` (passed, failed, skipped), seconds, `reason` and figures."""
        started, found = time.perf_counter(), {}
        try:
            found = {"status": "passed", "figures": self.run(day)}
        except Skipped as missing:
            found = {"status": "skipped", "reason": str(missing)}
        except Exception as error:  # noqa: BLE001 - one fault must not hide what the other checks find
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = "" if isinstance(error, Failed) else f" ({where.filename}:{where.lineno})"
            found = {"status": "failed", "reason": f"{type(error).__name__}: {error}{place}"}
        gc.collect()  # the next check has the whole device
        if day.device == "cuda":
            torch.cuda.empty_cache()
        return {"name": self.name, "seconds": round(time.perf_counter() - started, 2), **found}
