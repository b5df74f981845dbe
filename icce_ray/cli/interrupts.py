"""Ctrl-C and SIGTERM: the command ends, and its last line says where the work stands and how to go on."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from icce_ray.terminal import Terminal

#: As shells count a process that a signal ended: 130 after Ctrl-C, 143 after SIGTERM.
SIGNALLED = 128
#: Seconds in which two signals are one: `timeout` sends each to the process and to its group.
_AT_ONCE = 0.5
#: What a command that goes on must not repeat: it would delete what was done since, or end somebody else.
_ONCE = {"--redo": 1, "--take-over": 0}


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within the block SIGTERM raises KeyboardInterrupt as Ctrl-C does, and either ends it with SystemExit.

    For the main thread. What the block cleans up on its way out is cleaned up; who presses again later cuts that short.
    """
    received, last = signal.SIGINT, -_AT_ONCE

    def stop(number: int, _: object) -> None:
        nonlocal received, last
        before, last = last, time.monotonic()
        if last - before >= _AT_ONCE:
            received = number
            raise KeyboardInterrupt

    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # as of commands that a shell starts in the background
    handled = (signal.SIGTERM,) if ignored else (signal.SIGINT, signal.SIGTERM)
    former = [(number, signal.signal(number, stop)) for number in handled]
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as end:
        stopped = _interrupt(end)
        if stopped is None:
            raise
        for number in handled:  # the end has begun: what is pressed now has nothing left to stop
            signal.signal(number, signal.SIG_IGN)
        Terminal(stderr=True).print_line(_where_it_stands(stopped))
        sys.exit(SIGNALLED + received)
    finally:
        for number, handler in former:
            if signal.getsignal(number) is stop:
                signal.signal(number, handler)


def _interrupt(end: BaseException | None) -> KeyboardInterrupt | None:
    """What interrupted the command, of which the command line's parser only leaves an exit status; None if nothing."""
    first = None
    while end is not None:  # a second one, while the first cleaned up, does not know what the first interrupted
        if isinstance(end, KeyboardInterrupt) and (first is None or hasattr(end, "__notes__")):
            first = end
        end = end.__cause__ or (None if end.__suppress_context__ else end.__context__)
    return first


def _where_it_stands(stopped: KeyboardInterrupt) -> str:
    """The notes of the stage that was at work, and the command that goes on."""
    notes = getattr(stopped, "__notes__", [])
    if not notes:
        return "interrupted before or between stages; give the same command again to go on"
    return f"interrupted in {', '.join(notes)}; what was complete is kept. To go on: {again(sys.argv)}"


def again(words: list[str]) -> str:
    """The command that goes on where the one of these words was interrupted."""
    left, kept = 0, []
    for word in words:
        name, _, value = word.partition("=")
        if left:
            left -= 1
        elif name in _ONCE:
            left = 0 if value else _ONCE[name]
        else:
            kept.append(word)
    program = Path(kept[0])
    call = ["python", kept[0]] if program.suffix == ".py" else [program.name]
    return shlex.join([*call, *kept[1:]])
