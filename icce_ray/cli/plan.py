"""`icce plan`: what a run will take, before it is started."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from icce_ray.cli.options import Config, Overrides
from icce_ray.terminal import Terminal

if TYPE_CHECKING:
    from icce_ray.planning.job import Plan

DEFAULT_CLUSTERS = 1000
CORES_PER_GPU = 16
WIDTH = 200  # rows of a table that goes to a file are never broken


def plan(
    images: Annotated[int, typer.Option(metavar="N", help="Images in the bucket.")],
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Backbone: facebook/dinov2-large, ..., or hog.")
    ] = None,
    gpus: Annotated[int, typer.Option(metavar="N", help="GPUs of the cluster; 0 plans for CPUs.")] = 0,
    gpu_type: Annotated[str, typer.Option(metavar="NAME", help="h100, h200, a100-80gb, l40s, l4.")] = "h100",
    cpus: Annotated[
        int | None, typer.Option(metavar="N", help=f"Cores; {CORES_PER_GPU} a GPU, else this machine's.")
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
    network_gbit: Annotated[float, typer.Option(metavar="GBIT", help="Per second, store to all machines.")] = 25.0,
    gpu_price: Annotated[float | None, typer.Option(metavar="PRICE", help="Of one GPU for an hour.")] = None,
    cpu_price: Annotated[float | None, typer.Option(metavar="PRICE", help="Of one core for an hour.")] = None,
    rates: Annotated[str | None, typer.Option(metavar="FILE", help="YAML of own rates; they win.")] = None,
    config: Config = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print seconds and bytes as JSON.")] = False,
) -> None:
    """Say what a run will take: time, storage, memory, GPU and CPU hours.

    Stage by stage, from rates that each say how they are known: what nobody has
    measured is called counted. Nothing is started and no image is needed.

    Example: icce plan --images 100000000 --model facebook/dinov2-large --gpus 8 --gpu-type h200
    """
    from icce_ray.planning.plan import make_plan
    from icce_ray.planning.rates import load_rates
    from icce_ray.settings import PlanSettings, load_as
    from icce_ray.settings.choosing import choose

    values: dict[str, Any] = {
        "clusters": clusters or (None if config else DEFAULT_CLUSTERS),
        "embed": _given(backbone=model, features=features),
        "heads": _given(heads=heads, epochs=epochs),
    }
    machines = {
        "gpus": gpus,
        "gpu_type": gpu_type,
        "cpus": cpus or (CORES_PER_GPU * gpus if gpus else os.cpu_count() or 1),
        "network_gbit": network_gbit,
        "gpu_price": gpu_price,
        "cpu_price": cpu_price,
    }
    settings = load_as(PlanSettings, values, config=config, overrides=overrides)
    made = make_plan(settings, load_rates(rates), machines, images=images, image_bytes=1e3 * image_kb)
    if as_json:
        Terminal().print_lines(made.model_dump_json(indent=1))
    else:
        chosen = choose(settings, n_images=made.sample, dim=made.dim, mean_cosine=0.0)
        title = f"K = {settings.clusters:,}, {chosen.heads} heads, {chosen.epochs} epochs"
        show(made, title, Terminal())


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def show(plan: Plan, title: str, console: Terminal) -> None:
    """The plan as Markdown: a table of stages, totals, warnings, assumptions, and how each rate is known."""
    wide = Terminal(file=console.file, width=max(console.width, WIDTH))
    machines = plan.machines
    held = f"{machines.gpus} x {machines.gpu_type}, " if machines.gpus else ""
    wide.print_line(f"{plan.images:,} images, {plan.model} (D = {plan.dim:,}), {title}; {held}{machines.cpus:,} cores")
    wide.print_line("")
    with wide.capture() as drawn:
        wide.print(stages_table(plan))
    lines = [line.rstrip() for line in drawn.get().splitlines() if line.strip()]
    for warning in plan.warnings:
        lines += ["", f"**Warning:** {warning}"]
    sources: dict[str, list[str]] = {}
    for name, rate in plan.rates.items():
        sources.setdefault(rate.source, []).append(f"{name} {number(rate.value)} {rate.unit}")
    lines += ["", "Assumed:", *(f"- {line}" for line in plan.assumptions)]
    lines += ["", "Rates:", *(f"- {source}: {'; '.join(names)}" for source, names in sources.items())]
    wide.print_lines("\n".join(lines))


def stages_table(plan: Plan) -> Table:
    """A row a stage, the parts of the longest two below them, and the totals."""
    table = Table("stage", box=box.MARKDOWN, pad_edge=True)
    for name in ("time", "storage", "GPU memory", "memory", "GPU h", "CPU h"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("bottleneck", no_wrap=True)
    table.add_column("known", no_wrap=True)
    for stage in plan.stages:
        device = stage.device_memory if stage.gpus_held else 0.0
        resource = next(part.resource for part in stage.parts if part.name == stage.bottleneck)
        sizes = (stage.storage, device, stage.host_memory + stage.device_memory - device)
        table.add_row(
            stage.stage,
            duration(stage.seconds),
            *map(size, sizes),
            hours(stage.gpu_seconds),
            hours(stage.cpu_seconds),
            stage.bottleneck if resource == "start" else f"{stage.bottleneck} ({resource})",
            stage.basis,
        )
        for part in stage.parts if stage.stage in ("embed", "heads") else ():
            if part.resource != "start":
                row = (f"- {part.name} alone", duration(part.seconds), "", "", "", hours(part.gpu_seconds))
                table.add_row(*row, hours(part.cpu_seconds), part.resource, part.basis)
    total = {name: value or 0.0 for name, value in plan.total.items()}
    cost = "" if plan.total["cost"] is None else f"cost {number(total['cost'])}"
    row = ("**total**", duration(total["seconds"]), size(total["storage"]), "", "", hours(total["gpu_seconds"]))
    table.add_row(*row, hours(total["cpu_seconds"]), cost, "")
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
