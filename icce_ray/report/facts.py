"""What the page says in words and tables, from the run's files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from icce_ray.report.scores import headline
from icce_ray.settings import Settings
from icce_ray.store import Marker, Store
from icce_ray.store.artifacts import REJECTS, STAGES

#: Rejects of each reason that are named, and shards that are looked through for them.
EXAMPLES, LOOKED_THROUGH = 5, 200


@dataclass(frozen=True)
class Figure:
    """One number of the verdict: what it is, its value, and how to read it."""

    name: str
    value: str
    meaning: str


def summary_of(store: Store, stage: str) -> dict[str, Any]:
    """What the marker of a stage says; nothing for one that is not complete."""
    marker = store.marker(stage)
    return marker.summary if marker else {}


def verdict(store: Store, settings: Settings) -> list[Figure]:
    """The run in a few numbers: what needs no labels, then what the classifier scored where there are some."""
    embed, consensus, predict = (summary_of(store, stage) for stage in ("embed", "consensus", "predict"))
    found = []
    if embed:
        found.append(Figure("images", f"{embed['ok']:,}", f"of {embed['images']:,} inputs, the others rejected"))
    if consensus:
        told = "found without labels" if settings.count_unknown else "as asked"
        found.append(Figure("classes", f"{len(consensus['cluster_sizes']):,}", told))
        found.append(Figure("ANMI", f"{consensus['anmi']:.3f}", "what the consensus shares with each head; 1 is all"))
        agreed = f"{consensus['mean_agreement']:.1%}"
        found.append(Figure("agreement", agreed, "of the heads agree with the label of an image, on average"))
    if predict:
        sure = f"{predict['mean_confidence']:.3f}"
        found.append(Figure("confidence", sure, "of the classifier in its labels, on average; 1 is certain"))
    scored = store.metrics().get("evaluation", {})
    best = scored.get("classifier_seen") or scored.get("consensus")
    if best:
        found.append(Figure("ACC", f"{best['acc']:.2%}", f"of {best['images']:,} labelled images in the right class"))
        found.append(Figure("NMI", f"{best['nmi']:.3f}", "information shared with the true classes; 1 is all"))
        found.append(Figure("ARI", f"{best['ari']:.3f}", "pairs of images put together rightly; 0 is chance"))
    return found


def alarms(store: Store) -> list[str]:
    """Texts of all collapse alarms of the run."""
    return [one["text"] for stage in ("heads", "consensus") for one in summary_of(store, stage).get("alarms", [])]


def scores(store: Store, settings: Settings) -> list[tuple[str, dict[str, Any]]]:
    """(labelling, scores) where the run was evaluated."""
    return headline(settings, store, store.metrics().get("evaluation", {}))


@dataclass(frozen=True)
class StageRow:
    """One line of the table of stages."""

    stage: str
    state: str
    seconds: float | None
    rate: str
    size: int


def stage_rows(store: Store) -> list[StageRow]:
    """State, seconds, throughput and bytes of every stage."""
    return [_stage_row(stage, store.marker(stage), store) for stage in STAGES]


def _stage_row(stage: str, marker: Marker | None, store: Store) -> StageRow:
    if marker is None:
        return StageRow(stage, "not complete", None, "", 0)
    counted = marker.summary
    images = counted.get("images", counted.get("labelled", summary_of(store, "sample").get("images")))
    rate = f"{images / marker.seconds:,.0f} images a second" if images and marker.seconds > 0.05 else ""
    return StageRow(stage, marker.finished, marker.seconds, rate, sum(info.bytes for info in marker.files))


@dataclass(frozen=True)
class RejectRow:
    """One reason for which inputs were rejected."""

    reason: str
    count: int
    examples: list[tuple[str, str]]
    """(uri, detail)"""


def rejects(store: Store) -> list[RejectRow]:
    """Rejects by reason, most frequent first, with the first few of each that are found."""
    marker = store.marker("embed")
    if marker is None or not marker.summary["rejected"]:
        return []
    by_reason: dict[str, int] = marker.summary["rejected_by_reason"]
    examples: dict[str, list[tuple[str, str]]] = {reason: [] for reason in by_reason}
    files = [info for info in REJECTS.files(marker.files) if info.rows]
    for info in files[:LOOKED_THROUGH]:
        table = store.storage.read_table(info.path, ["uri", "reason", "detail"]).slice(0, 1000)
        for row in table.to_pylist():
            if len(examples[row["reason"]]) < EXAMPLES:
                examples[row["reason"]].append((row["uri"], row["detail"] or ""))
        if all(len(rows) >= min(EXAMPLES, by_reason[reason]) for reason, rows in examples.items()):
            break
    ordered = sorted(by_reason.items(), key=lambda item: -item[1])
    return [RejectRow(reason, count, examples[reason]) for reason, count in ordered]


def setting_rows(settings: Settings) -> list[tuple[str, list[tuple[str, str, bool]]]]:
    """(stage, (field, value, whether it is not the default)) of every setting."""
    values = settings.model_dump(mode="json")
    plain = Settings.model_construct().model_dump(mode="json", warnings=False)
    rows: list[tuple[str, list[tuple[str, str, bool]]]] = [("run", [])]
    for name, value in values.items():
        if isinstance(value, dict):
            rows.append((name, [(field, _text(one), one != plain[name][field]) for field, one in value.items()]))
        else:
            rows[0][1].append((name, _text(value), name in plain and value != plain[name]))
    return rows


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
