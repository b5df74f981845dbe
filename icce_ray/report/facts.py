"""What the page says in words and tables, from the run's files."""

from __future__ import annotations

from typing import Any

from icce_ray.settings import Settings
from icce_ray.store import Store
from icce_ray.store.artifacts import REJECTS, STAGES

#: Rejects of each reason that are named, and shards that are looked through for them.
EXAMPLES, LOOKED_THROUGH = 5, 200


def _summary(store: Store, stage: str) -> dict[str, Any]:
    """What the marker of a stage says; nothing for one that is not complete."""
    marker = store.marker(stage)
    return marker.summary if marker else {}


def verdict(store: Store, settings: Settings) -> list[tuple[str, str, str]]:
    """(name, value, meaning) of the run's main figures: what needs no labels, then the scores where there are some."""
    embed, consensus, predict = (_summary(store, stage) for stage in ("embed", "consensus", "predict"))
    rows = []
    if embed:
        rows.append(("images", f"{embed['ok']:,}", f"of {embed['images']:,} inputs, the others rejected"))
    if consensus:
        count = "found without labels" if settings.count_unknown else "as asked"
        agreed = f"{consensus['mean_agreement']:.1%}"
        rows += [
            ("classes", f"{len(consensus['cluster_sizes']):,}", count),
            ("ANMI", f"{consensus['anmi']:.3f}", "what the consensus shares with each head; 1 is all"),
            ("agreement", agreed, "of the heads agree with the label of an image, on average"),
        ]
    if predict:
        sure = f"{predict['mean_confidence']:.3f}"
        rows.append(("confidence", sure, "of the classifier in its labels, on average; 1 is certain"))
    scored = store.metrics().get("evaluation", {})
    best = scored.get("classifier_seen") or scored.get("consensus")
    if best:
        rows += [
            ("ACC", f"{best['acc']:.2%}", f"of {best['images']:,} labelled images in the right class"),
            ("NMI", f"{best['nmi']:.3f}", "information shared with the true classes; 1 is all"),
            ("ARI", f"{best['ari']:.3f}", "pairs of images put together rightly; 0 is chance"),
        ]
    return rows


def alarms(store: Store) -> list[str]:
    """Texts of all collapse alarms of the run."""
    return [one["text"] for stage in ("heads", "consensus") for one in _summary(store, stage).get("alarms", [])]


def headline(settings: Settings, store: Store, figures: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(name, scores) of each labelling of an evaluation in the order of the method, for a table."""
    kept = store.marker("consensus")
    names = {
        "kmeans": "k-means on the same features",
        "mean_head": f"mean of {settings.heads.heads} heads",
        "best_head": "best head (lowest loss)",
        "consensus": f"consensus ({kept.summary['method']})" if kept else "consensus",
        "classifier_seen": "classifier, seen images",
        "classifier_rest": "classifier, images outside the sample",
        "classifier_unseen": "classifier, unseen images",
    }
    return [(text, figures[name]) for name, text in names.items() if name in figures]


def stage_rows(store: Store) -> list[tuple[str, str, float | None, str, int]]:
    """(stage, moment of its end, seconds, throughput, bytes) of every stage."""
    rows: list[tuple[str, str, float | None, str, int]] = []
    for stage in STAGES:
        marker = store.marker(stage)
        if marker is None:
            rows.append((stage, "not complete", None, "", 0))
            continue
        counted = marker.summary
        images = counted.get("images", counted.get("labelled", _summary(store, "sample").get("images")))
        rate = f"{images / marker.seconds:,.0f} images per second" if images and marker.seconds > 0.05 else ""
        rows.append((stage, marker.finished, marker.seconds, rate, sum(info.bytes for info in marker.files)))
    return rows


def rejects(store: Store) -> list[tuple[str, int, list[tuple[str, str]]]]:
    """(reason, count, the first few (uri, detail)) of rejected inputs, most frequent reason first."""
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
    return [(reason, count, examples[reason]) for reason, count in ordered]


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
