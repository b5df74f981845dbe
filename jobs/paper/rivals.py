"""Everyone on the same frozen features: the rivals, ICCE stage by stage, and by how much its last stage leads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jobs.paper.baselines.temi import TEMI
from jobs.paper.measure import Figures, Measured
from jobs.paper.nothing_set import rival_fits
from jobs.paper.tables import cells, table

#: Of ICCE and TEMI, as in the paper; other studies have fewer to save time.
HEADS = 50
FINAL = "ICCE, ensemble + self-training"
_METRICS = ("seen.acc", "unseen.acc", "unseen.nmi", "unseen.ari")


def rivals(measure: Measured, seeds: Sequence[int]) -> str:
    """A Markdown table of ACC, NMI and ARI in percent, mean +- standard deviation over seeds, and the lead of ICCE."""
    found: dict[str, list[Figures]] = {}
    fits = rival_fits()
    base = measure.on.base.but(heads=HEADS)
    for seed in seeds:
        for name, fit in fits.items():
            found.setdefault(name, []).append(_stage(measure.rival(name, fit, seed), "fitted"))
        temi = measure.variant("rivals: TEMI", base.but(neighbors="fixed", **TEMI), seed)
        found.setdefault("TEMI", []).append(_stage(temi, "best_head"))
        icce = measure.variant("rivals: ICCE", base, seed)
        stages = {"ICCE, stage 1": "best_head", "ICCE, ensemble": "ensemble", FINAL: "self_training"}
        for name, stage in stages.items():
            found.setdefault(name, []).append(_stage(icce, stage))
    rows = [[name, *cells(each, _METRICS)] for name, each in found.items()]
    header = ["", "ACC, seen", "ACC, unseen", "NMI, unseen", "ARI, unseen"]
    return table("Rivals on the same features", header, rows, [_lead(found)])


def _stage(figures: Figures, stage: str) -> Figures:
    """The figures of one stage without its name."""
    return {name.removeprefix(f"{stage}."): value for name, value in figures.items() if name.startswith(f"{stage}.")}


def _lead(found: dict[str, list[Figures]]) -> str:
    """By how much the last stage is above each rival on unseen rows, mean over seeds, in points."""
    own = np.array([one["unseen.acc"] for one in found[FINAL]])
    others = [name for name in found if not name.startswith("ICCE")]
    leads = {name: 100 * float((own - [one["unseen.acc"] for one in found[name]]).mean()) for name in others}
    behind = [f"{name} by {-lead:.2f}" for name, lead in leads.items() if lead <= 0]
    closest = min(leads, key=lambda name: leads[name])
    if behind:
        return f"- {FINAL} is behind {', '.join(behind)} points on unseen images."
    return f"- {FINAL} leads on unseen images; the closest is {closest}, {leads[closest]:.2f} points below."
