"""In every Python process of a test, Ray's workers too: waits at the points of a run that tests/barriers.py names.

Python imports a module of this name at its start, from PYTHONPATH. ICCE_BARRIERS is a folder in which each file
`N.barrier` holds `[operation, root, glob, passes]`: a process about to "put" (write) or "get" (read as a table) a
file of the run `root` whose path matches waits until the barrier is deleted, but for the first `passes` of them. When
these are done, each process that waits leaves a file `N.held.PID`. The product knows nothing of this.
"""

import fnmatch
import functools
import importlib.abc
import importlib.util
import json
import os
import sys
import time

_FOLDER, _MODULE, _POLL = os.environ.get("ICCE_BARRIERS", ""), "icce_ray.io.storage", 0.02


def _wait(operation, root, path):
    """Wait where a barrier holds this operation; files to make when it is done, where one let it pass."""
    passed = []
    for name in os.listdir(_FOLDER):
        if not name.endswith(".barrier"):
            continue
        barrier = os.path.join(_FOLDER, name)
        try:
            with open(barrier) as file:
                wanted, where, glob, passes = json.load(file)
        except FileNotFoundError:  # released meanwhile
            continue
        if (operation, root) == (wanted, where) and fnmatch.fnmatchcase(path, glob):
            stem = barrier.removesuffix(".barrier")
            number = next((number for number in range(passes) if _made(f"{stem}.passes.{number}")), None)
            if number is None:
                _hold(barrier, stem, [f"{stem}.done.{number}" for number in range(passes)])
            else:
                passed.append(f"{stem}.done.{number}")
    return passed


def _hold(barrier, stem, before):
    """Until the barrier is gone; `held` is said when what it let pass is done."""
    while os.path.exists(barrier):
        if all(map(os.path.exists, before)):
            before = []
            _made(f"{stem}.held.{os.getpid()}")
        time.sleep(_POLL)


def _made(path):
    """Whether this process made the file: of all processes only one does."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def _guarded(operation, method):
    @functools.wraps(method)
    def waits(self, path, *arguments, **options):
        passed = _wait(operation, self.root, path)
        try:
            return method(self, path, *arguments, **options)
        finally:
            for one in passed:
                _made(one)

    return waits


def _guard(module):
    module.Storage.write_bytes = _guarded("put", module.Storage.write_bytes)
    module.Storage.read_table = _guarded("get", module.Storage.read_table)


class _Finder(importlib.abc.MetaPathFinder):
    """Guards the module when it is imported: importing it here would cost every process of Ray a second."""

    def find_spec(self, name, path, target=None):
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda module: (execute(module), _guard(module))[0]
        return spec


if _FOLDER:
    if _MODULE in sys.modules:
        _guard(sys.modules[_MODULE])
    else:
        sys.meta_path.insert(0, _Finder())
