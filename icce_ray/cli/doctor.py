"""`icce doctor`: whether this machine, or every node of a cluster, can do its part of a run."""

from __future__ import annotations

from typing import Annotated

import typer

from icce_ray.cli.options import EXIT_ERROR
from icce_ray.terminal import Terminal


def doctor(
    cluster: Annotated[
        bool, typer.Option("--cluster", metavar="", help="Every node of the cluster that RAY_ADDRESS names.")
    ] = False,
    out: Annotated[
        str | None, typer.Option(metavar="RUN", help="Directory or URI of a run: can it be written and read?")
    ] = None,
) -> None:
    """Look whether machines have what a run needs; takes seconds.

    Driver, CUDA, NCCL, torch.compile and its compiler, /dev/shm, versions of packages; of a cluster the object store \
too, and versions against those here. A line for each, with a remedy beside each FAULT, and exit status 1 if there is \
any. Without --cluster Ray is not needed.

    Example: icce doctor --out runs/photos
    Example: icce doctor --cluster --out s3://bucket/run
    """
    from icce_ray.doctor import examine
    from icce_ray.io.locations import check_writable

    if out is not None:
        check_writable(out)
    if cluster:
        from icce_ray.stages.connection import connected
        from icce_ray.stages.doctor import examine_cluster

        with connected():
            found = examine_cluster(out)
    else:
        found = {"this machine": examine(out)}
    console, faults = Terminal(), 0
    width = max(map(len, found))
    for node, checks in found.items():
        for check in checks:
            faults += bool(check.remedy)
            remedy = f"; {check.remedy}" if check.remedy else ""
            state = "FAULT" if check.remedy else "ok"
            console.print_line(f"{state:5}  {node:{width}}  {check.name:12}  {check.found}{remedy}")
    console.print_line(f"{faults or 'no'} fault{'s' if faults != 1 else ''}")
    if faults:
        raise typer.Exit(EXIT_ERROR)
