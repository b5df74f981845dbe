"""Options that several commands share, and what their exit statuses mean."""

from __future__ import annotations

from typing import Annotated

import typer

#: What went wrong, by exit status. 1 is an error of the run, 2 of the command line.
EXIT_ERROR, EXIT_USAGE, EXIT_REJECTS, EXIT_VIOLATIONS = 1, 2, 3, 4
#: What was asked is done, and a new training is advised: the classes no longer serve all images.
EXIT_ADVICE = 5

#: Headings of the longer lists of options.
SETTINGS, STAGES = "Settings", "Stages, and a run that was killed"
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="One setting, such as heads.epochs=200; may be repeated. `icce settings` lists them.",
        rich_help_panel=SETTINGS,
    ),
]
Config = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="YAML file of settings, or: paper. --set and options win.", rich_help_panel=SETTINGS
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", metavar="", help="Show no progress.")]
TakeOver = Annotated[
    bool, typer.Option("--take-over", metavar="", help="End whoever else writes there: a run that you know is dead.")
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Directory or URI of a run.")]
Version = Annotated[
    int | None, typer.Option("--version", metavar="N", min=0, help="A refined version of RUN instead of RUN itself.")
]
Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Folder or prefix of images, .tar or .parquet files, .txt list of URIs, .npy features (of several spaces: "
        "--set list.column=NAME,NAME); a path or URI.",
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="files, webdataset, img2dataset, parquet, datasets, lance, uris, features; by default found by looking.",
    ),
]
