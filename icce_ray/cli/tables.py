"""Figures as tables on the terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from icce_ray.store import Store
from icce_ray.store.artifacts import STAGES
from icce_ray.terminal import Terminal


def scores_table(rows: list[tuple[str, dict[str, Any]]]) -> Table:
    """ACC, NMI and ARI in percent on how many images, a row a labelling."""
    table = Table("labelling", title="Against the true classes (%)", title_justify="left")
    for name in ("ACC", "NMI", "ARI", "images"):
        table.add_column(name, justify="right")
    for name, scores in rows:
        percent = (f"{100 * scores[key]:.2f}" for key in ("acc", "nmi", "ari"))
        table.add_row(name, *percent, f"{scores['images']:,}")
    return table


def consensus_table(consensus: dict[str, Any]) -> Table:
    """ANMI of each method, the kept one marked, and what refused."""
    table = Table("consensus method", title="Average NMI with all heads", title_justify="left")
    table.add_column("ANMI", justify="right")
    for method, score in consensus["scores"].items():
        table.add_row(f"{method} (kept)" if method == consensus["method"] else method, f"{score:.4f}")
    table.add_row(f"after {consensus['votes']} votes of the heads", f"{consensus['anmi']:.4f}")
    for method, reason in consensus["refused"].items():
        table.add_row(method, f"refused: {reason}")
    return table


def stages_table(store: Store) -> Table:
    """State of each stage: when it was finished, its seconds, files and bytes."""
    table = Table("stage", "state", "finished (UTC)", title=store.root, title_justify="left")
    for name in ("seconds", "files", "rows", "bytes"):
        table.add_column(name, justify="right")
    for stage, declared in STAGES.items():
        marker = store.marker(stage)
        if marker is None:
            begun = len(store.storage.list(declared.folder))
            table.add_row(stage, f"{begun} files, not complete" if begun else "not begun")
            continue
        rows = sum(info.rows or 0 for info in marker.files if f"{declared.folder}/" in info.path)
        size = sum(info.bytes for info in marker.files)
        finished = marker.finished.partition("+")[0].replace("T", " ")
        table.add_row(
            stage, "complete", finished, f"{marker.seconds:.1f}", str(len(marker.files)), f"{rows:,}", f"{size:,}"
        )
    return table


def show_rejects(summary: dict[str, Any], console: Terminal) -> None:
    """Rejects by reason, and the first of them by name."""
    if not summary.get("rejected"):
        return
    reasons = ", ".join(f"{reason} {count}" for reason, count in summary["rejected_by_reason"].items())
    console.print_line(f"{summary['rejected']} of {summary['images']} inputs were rejected: {reasons}")
    for row in summary["first_rejects"]:
        console.print_line(f"  {row['uri']}: {row['reason']}: {row['detail']}")
    more = summary["rejected"] - len(summary["first_rejects"])
    if more > 0:
        console.print_line(f"  and {more} more, in the run's reject shards")
