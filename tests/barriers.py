"""A run is held at a named point, something is done to it, and it goes on: no test has to hurry or to sleep."""

import importlib.util
import itertools
import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import wait_for

PROCESS_SIDE = Path(__file__).parent / "barrier"
_number = itertools.count()


class Barrier:
    """Every process that is about to `put` or `get` a file of a run waits here until `release`.

    Args:
        store: the run.
        glob: of the file's path below the run's root, such as `features/status=ok/part-*`.
        passes: how many pass before the first one is held.
        operation: `put`, before a file is written, or `get`, before a table is read.
    """

    def __init__(self, store, glob, *, passes=0, operation="put"):
        self._stem = Path(os.environ["ICCE_BARRIERS"]) / f"{os.getpid()}-{next(_number)}"
        self._file, self._what = self._stem.with_suffix(".barrier"), f"{operation} of {glob}"
        begun = self._stem.with_suffix(".begun")
        begun.write_text(json.dumps([operation, store.storage.root, glob, passes]))
        begun.rename(self._file)

    def held(self):
        """Pids of the processes that wait."""
        return [int(path.suffix[1:]) for path in self._stem.parent.glob(f"{self._stem.name}.held.*")]

    def reached(self, check=lambda: None):
        """Pid of the first process that waits, once there is one. `check` raises if none will ever come."""
        wait_for(lambda: check() or self.held(), f"a {self._what}")
        return self.held()[0]

    def release(self):
        self._file.unlink(missing_ok=True)


@contextmanager
def barrier(store, glob, **options):
    """A barrier that is released in any case: else what it holds would outlive the test."""
    found = Barrier(store, glob, **options)
    try:
        yield found
    finally:
        found.release()


@contextmanager
def barriers():
    """This process, and whatever it starts from now on, stops at barriers."""
    with tempfile.TemporaryDirectory(prefix="icce-barriers-") as folder, pytest.MonkeyPatch.context() as patch:
        paths = [str(PROCESS_SIDE), *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        patch.setenv("ICCE_BARRIERS", folder)
        spec = importlib.util.spec_from_file_location("process_side_of_barriers", PROCESS_SIDE / "sitecustomize.py")
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        yield
