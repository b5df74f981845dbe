"""`icce plan`: what a run will take, before it is started."""

from __future__ import annotations

import json
import math
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from icce_ray.terminal import Terminal

if TYPE_CHECKING:
    from icce_ray.planning.plan import Plan

DEFAULT_CLUSTERS = 1000
CORES_A_GPU = 16
WIDTH = 200  # rows of a table that goes to a file are never broken


def plan(
    images: Annotated[int, typer.Option(metavar="N", help="Images in the bucket.")],
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Backbone: facebook/dinov2-large, ..., or hog.")
    ] = None,
    gpus: Annotated[int, typer.Option(metavar="N", help="GPUs of the cluster; 0 plans for CPUs.")] = 0,
    gpu_type: Annotated[str, typer.Option(metavar="NAME", help="h100, h200, a100-80gb, l40s, l4.")] = "h100",
    cpus: Annotated[
        int | None, typer.Option(metavar="N", help=f"Cores; {CORES_A_GPU} a GPU, else this machine's.")
    ] = None,
    clusters: Annotated[
        int | None,
        typer.Option("--clusters", "-k", metavar="K", help=f"Classes; {DEFAULT_CLUSTERS:,} without --config."),
    ] = None,
    heads: Annotated[int | None, typer.Option(metavar="N", help="Clustering heads.")] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", help="Of head training.")] = None,
    features: Annotated[
        str | None, typer.Option(metavar="NAME", help="cls or cls+patch_mean; hog or hog+color.")
    ] = None,
    image_kb: Annotated[float, typer.Option(metavar="KB", help="Of an image on average.")] = 100.0,
    network_gbit: Annotated[float, typer.Option(metavar="GBIT", help="A second, store to all machines.")] = 25.0,
    gpu_price: Annotated[float | None, typer.Option(metavar="PRICE", help="Of one GPU for an hour.")] = None,
    cpu_price: Annotated[float | None, typer.Option(metavar="PRICE", help="Of one core for an hour.")] = None,
    rates: Annotated[str | None, typer.Option(metavar="FILE", help="YAML of own rates; they win.")] = None,
    config: Annotated[str | None, typer.Option(metavar="FILE", help="YAML of settings; --set and options win.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="One setting; see `icce settings`.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print seconds and bytes as JSON.")] = False,
) -> None:
    """Say what a run will take: time, storage, memory, GPU and CPU hours.

    Stage by stage, from rates that each say how they are known: what nobody has
    measured is called derived. Nothing is started and no image is needed.

    Example: icce plan --images 100000000 --model facebook/dinov2-large --gpus 8 --gpu-type h200
    """
    from icce_ray.planning.job import Machines
    from icce_ray.planning.plan import make_plan
    from icce_ray.planning.rates import load_rates
    from icce_ray.settings import load

    values: dict[str, Any] = {
        "source": "of the plan",
        "out": "nowhere",
        "clusters": clusters or (None if config else DEFAULT_CLUSTERS),
        "embed": _given(backbone=model, features=features),
        "heads": _given(heads=heads, epochs=epochs),
    }
    machines = Machines(
        gpus=gpus,
        gpu_type=gpu_type,
        cpus=cpus or (CORES_A_GPU * gpus if gpus else os.cpu_count() or 1),
        network_gbit=network_gbit,
        gpu_price=gpu_price,
        cpu_price=cpu_price,
    )
    settings = load(values, config=config, overrides=overrides)
    made = make_plan(settings, machines, load_rates(rates), images=images, image_bytes=1e3 * image_kb)
    console = Terminal()
    if as_json:
        console.print_lines(json.dumps(made.as_dict(), indent=1))
    else:
        show(made, console)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def show(plan: Plan, console: Terminal) -> None:
    """The plan as Markdown: a table of stages, totals, warnings, assumptions, and how each rate is known."""
    wide = Terminal(file=console.file, width=max(console.width, WIDTH))
    say = wide.print_line
    machines, job = plan.machines, plan.job
    held = f"{machines.gpus} x {machines.gpu_type}, " if machines.gpus else ""
    say(
        f"{job.images:,} images, {job.settings.embed.backbone} (D = {job.dim:,}), K = {job.settings.clusters:,}, "
        f"{job.settings.heads.heads} heads, {job.settings.heads.epochs} epochs; {held}{machines.cpus:,} cores"
    )
    say("")
    with wide.capture() as drawn:
        wide.print(stages_table(plan))
    for line in filter(str.strip, drawn.get().splitlines()):
        say(line.rstrip())
    say("")
    for warning in plan.warnings:
        say(f"**Warning:** {warning}")
        say("")
    say("Assumed:")
    for line in plan.assumptions:
        say(f"- {line}")
    say("")
    say("Rates:")
    for source, names in by_source(plan).items():
        say(f"- {source}: {'; '.join(names)}")


def by_source(plan: Plan) -> dict[str, list[str]]:
    """The rates that were used, by how they are known."""
    found: dict[str, list[str]] = {}
    for name, rate in plan.used.items():
        found.setdefault(rate.source, []).append(f"{name} {number(rate.value)} {rate.unit}")
    return found


def stages_table(plan: Plan) -> Table:
    """A row a stage, the parts of `embed` below it, and the totals."""
    table = Table("stage", box=box.MARKDOWN, pad_edge=True)
    for name in ("time", "storage", "GPU memory", "memory", "GPU h", "CPU h"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("bottleneck", no_wrap=True)
    table.add_column("known", no_wrap=True)
    gpus = plan.machines.gpus
    for stage in plan.stages:
        device = stage.device_memory if stage.gpus_held else 0.0
        host = stage.host_memory + (0.0 if stage.gpus_held else stage.device_memory)
        limiting = stage.bottleneck
        table.add_row(
            stage.stage,
            duration(stage.seconds),
            size(stage.storage),
            size(device),
            size(host),
            hours(stage.gpu_seconds),
            hours(stage.cpu_seconds),
            limiting.name if limiting.resource == "start" else f"{limiting.name} ({limiting.resource})",
            stage.basis,
        )
        for part in stage.parts if stage.stage == "embed" else ():
            if part.resource != "start":
                row = (f"- {part.name} alone", duration(part.seconds), "", "", "", hours(part.gpu_seconds))
                table.add_row(*row, hours(part.cpu_seconds), part.resource, part.basis)
    cost = "" if plan.cost is None else f"cost {number(plan.cost)}"
    held = hours(plan.gpu_seconds) if gpus else ""
    table.add_row(
        "**total**", duration(plan.seconds), size(plan.storage), "", "", held, hours(plan.cpu_seconds), cost, ""
    )
    return table


def number(value: float) -> str:
    """Two significant digits, with separators and without an exponent up to a billion."""
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e9:
        return f"{value:.2g}"
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.{max(0, 1 - math.floor(math.log10(abs(rounded))))}f}"


def scaled(value: float, units: list[tuple[float, str]]) -> str:
    """In the largest of the units, descending, of which there is at least one; else in the smallest."""
    factor, unit = next((pair for pair in units if value >= 0.995 * pair[0]), units[-1])
    return f"{number(value / factor)} {unit}"


def duration(seconds: float) -> str:
    """Seconds, minutes, hours, or days above two."""
    return scaled(seconds, [(86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s")]) if seconds else ""


def size(count: float) -> str:
    """Bytes in decimal units; nothing for none."""
    return (
        scaled(count, [(1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")]) if count else ""
    )


def hours(seconds: float) -> str:
    """Hours; nothing for none."""
    return number(seconds / 3600) if seconds else ""
