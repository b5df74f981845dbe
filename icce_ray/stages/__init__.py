"""The stages of a run, one file or package each: `run(settings, store, resources, progress)` gives a `StageResult`."""

import time
from collections.abc import Callable
from typing import Any

from icce_ray.io.storage import FileInfo
from icce_ray.store import Marker, Store

StageResult = tuple[list[FileInfo], dict[str, Any]]
"""The files of a stage that is complete, and the figures of its marker."""


def complete(
    stage: str, store: Store, fingerprint: str, work: Callable[[], StageResult], check: Callable[[], None]
) -> Marker:
    """Do the work of a stage and write its marker, unless `check` raises: this process may have lost the lock."""
    started = time.monotonic()
    files, summary = work()
    seconds = time.monotonic() - started
    check()
    return store.commit(stage, files, fingerprint=fingerprint, summary=summary, seconds=seconds)
