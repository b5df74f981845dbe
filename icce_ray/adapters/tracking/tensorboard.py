"""TensorBoard: one event file in the run, made from the lines of the run, by tensorboardX.

A file that was there is replaced: so a run that was killed has no step twice, and `--redo` leaves no curve of before.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from icce_ray.adapters.tracking.lines import Line
from icce_ray.adapters.tracking.sinks import RunNote
from icce_ray.io.locations import is_local
from icce_ray.io.storage import Storage


class TensorBoard:
    """Event files below `folder`: on a local disk they grow, in a bucket the file is put anew each time."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self.storage, self.folder = storage, folder
        self._local = is_local(storage.filesystem)
        self._writer: Any = None
        self._last: dict[str, int] = {}

    def open(self, run: RunNote, lines: Sequence[Line]) -> None:
        """Nothing is written before there is something to tell."""
        self._run, self._lines = run, lines
        # Of a run that goes on, curves stay as they are until there is more; of one that is repeated they go at once.
        self._goes_on = any(line.event == "begin" for line in lines)

    def tell(self, lines: Sequence[Line]) -> None:
        """Append; a step before one that is there means to begin again, in order."""
        if self._goes_on and not any(line.tagged() for line in lines):
            return
        back = any(line.step < self._last.get(tag, 0) for line in lines for tag, _ in line.tagged())
        if back or self._writer is None:
            self._begin()
            lines = sorted(self._lines, key=lambda line: line.step)
        for line in lines:
            self._add(line)
        self._flush()

    def _flush(self) -> None:
        self._writer.flush()
        if not self._local:
            path = self._written()
            self.storage.write_bytes(f"{self.folder}/{path.name}", path.read_bytes())

    def close(self, *, failed: bool) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._temporary.cleanup()

    def _begin(self) -> None:
        """An empty file in the place of any that is there."""
        from tensorboardX.event_file_writer import EventsWriter  # 0.1 s, which only this thread should pay
        from tensorboardX.summary import text

        self.close(failed=False)
        self._last = {}
        self.storage.delete_tree(self.folder)
        self._temporary = tempfile.TemporaryDirectory(prefix="icce-events-", ignore_cleanup_errors=True)
        self._place = Path(self.storage.full_path(self.folder) if self._local else self._temporary.name)
        self._place.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(self._place / "events"))
        settings = "\n".join(f"    {name}: {value}" for name, value in self._run.params.items())
        self._write(text("settings", settings), 0, self._lines[0].time)

    def _add(self, line: Line) -> None:
        from tensorboardX.summary import scalar

        for tag, value in line.tagged():
            self._write(scalar(tag, value), line.step, line.time)
            self._last[tag] = line.step

    def _write(self, summary: Any, step: int, time: float) -> None:
        import tensorboardX.proto.event_pb2 as messages

        event: Any = messages
        self._writer.write_event(event.Event(summary=summary, step=step, wall_time=time))

    def _written(self) -> Path:
        (path,) = self._place.iterdir()
        return path
