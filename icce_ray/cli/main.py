"""The `icce` command: a thin face over `icce_ray.pipeline` and `icce_ray.commands`."""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any, cast

import typer

from icce_ray.cli.demo import demo
from icce_ray.cli.doctor import doctor
from icce_ray.cli.interrupts import SIGNALLED, interruptible
from icce_ray.cli.name import name
from icce_ray.cli.options import EXIT_ADVICE, EXIT_ERROR, EXIT_REJECTS, EXIT_USAGE, EXIT_VIOLATIONS
from icce_ray.cli.plan import plan
from icce_ray.cli.refine import refine
from icce_ray.cli.results import evaluate, export, predict, report, status, verify
from icce_ray.cli.run import run, settings
from icce_ray.cli.sweep import HELP, sweep
from icce_ray.cli.update import update
from icce_ray.terminal import Terminal, escape_unencodable
from icce_ray.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Unlabelled images in; K classes, a classifier and the evidence for both out.\n\n"
    "Try `icce demo` first. `icce COMMAND --help` has the options of a command.\n"
    "Example: icce run photos/ --clusters 20 --out runs/photos",
)

#: What the log of a job says of the exit status.
MEANING = {
    EXIT_ERROR: "it cannot go on as asked",
    EXIT_USAGE: "the command line or the settings are wrong; nothing was started",
    EXIT_REJECTS: "every stage is done, but more inputs were rejected than the budget allows",
    EXIT_VIOLATIONS: "violations were found",
    EXIT_ADVICE: "every new image is labelled, but a new training is advised",
    SIGNALLED + signal.SIGINT: "it was interrupted; the same job goes on",
    SIGNALLED + signal.SIGTERM: "it was stopped; the same job goes on",
}


def _version(wanted: bool) -> None:
    if wanted:
        Terminal().print_line(f"icce-ray {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", metavar="", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


for _command in (run, predict, update, evaluate, refine):
    app.command()(_command)
app.command(help=HELP)(sweep)
for _command in (status, verify, demo, settings, plan, doctor, report, name, export):
    app.command()(_command)


def main(command: Callable[..., Any] = app, **options: Any) -> None:
    """Entry point: every foreseen error is one message and an exit status, never a trace."""
    escape_unencodable()
    with interruptible():
        try:
            command(standalone_mode=True, **options)
        except Exception as error:
            status = _foreseen(error)
            if status is None:
                raise
            reason = getattr(error, "cause", error)  # an error of a task on the cluster, without the task's trace
            Terminal(stderr=True).print_lines(f"error: {reason}")
            sys.exit(status)


def _foreseen(error: Exception) -> int | None:
    """Exit status of an error that we know; None of any other. The classes are imported when there is an error."""
    from icce_ray.backbones import BackboneError
    from icce_ray.io.locations import LocationError
    from icce_ray.io.sources import SourceError
    from icce_ray.settings import SettingsError
    from icce_ray.store import RejectBudgetError, RunError, UsageError

    if isinstance(error, RejectBudgetError):
        return EXIT_REJECTS
    if isinstance(error, (SettingsError, LocationError, UsageError)):
        return EXIT_USAGE
    if isinstance(error, (RunError, SourceError, BackboneError, OSError)):  # OSError: storage says what and where
        return EXIT_ERROR
    return None


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
