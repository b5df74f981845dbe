"""What the scripts of `jobs/` are: a command of `icce` whose help is the script's, and whose log says how it ended."""

from __future__ import annotations

import functools
import signal
import sys
from typing import Any, cast

import typer

from icce_ray.cli.interrupts import SIGNALLED
from icce_ray.cli.main import app, main
from icce_ray.cli.options import EXIT_ERROR, EXIT_REJECTS, EXIT_USAGE, EXIT_VIOLATIONS

MEANING = {
    EXIT_ERROR: "it cannot go on as asked",
    EXIT_USAGE: "the command line or the settings are wrong; nothing was started",
    EXIT_REJECTS: "every stage is done, but more inputs were rejected than the budget allows",
    EXIT_VIOLATIONS: "violations were found",
    SIGNALLED + signal.SIGINT: "it was interrupted; the same job goes on",
    SIGNALLED + signal.SIGTERM: "it was stopped; the same job goes on",
}


def job(command: str, text: str | None, **fixed: Any) -> None:
    """Run a command of `icce` with the arguments of this process, as the script whose docstring is `text`.

    `fixed` are parameters of the command that the script decides: they are no options of its own. Ray reports every
    status but 0 as a failed job, so the log ends with what the status means.
    """
    chosen = cast(Any, typer.main.get_command(app)).commands[command]
    chosen.help, chosen.short_help = text, None
    chosen.params = [parameter for parameter in chosen.params if parameter.name not in fixed]
    chosen.callback = functools.partial(chosen.callback, **fixed)
    name = f"python {sys.argv[0]}"
    try:
        main(chosen, prog_name=name)
    except SystemExit as end:
        if end.code:
            meaning = MEANING.get(cast(int, end.code), "ended by itself")
            print(f"{name}: exit status {end.code}: {meaning}", file=sys.stderr, flush=True)  # noqa: T201
        raise
