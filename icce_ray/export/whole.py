"""A local file or folder that is whole or not there."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from icce_ray.store import RunError


def free_target(out: str) -> Path:
    """The local path of `out`. Raises RunError if it is there already or is no local path."""
    if "://" in out:
        raise RunError(f"--out {out} is no local path; export to a local one and copy it")
    target = Path(out).expanduser()
    if os.path.lexists(target):
        raise RunError(f"--out {out} is there already; give a new name or remove it")
    return target


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A path beside `target` to write a file or folder to; it gets its name at the end, and is removed on an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        temporary.rename(target)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)
