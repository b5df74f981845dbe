"""`icce refine`: a new version of a run by what people decided about its classes; see `store.versions`."""

from __future__ import annotations

import csv
import functools
import io
import json
from typing import Any

from icce_ray.commands import label_updates
from icce_ray.io.locations import StorageError
from icce_ray.io.user_tables import read_user_table, without_formulas
from icce_ray.pipeline import write_report, writing
from icce_ray.progress import RunProgress
from icce_ray.settings import ResourceSettings, Settings
from icce_ray.stages import classifier, complete, evaluate, predict, relabel
from icce_ray.stages.cluster import check_device, resources
from icce_ray.stages.connection import connected
from icce_ray.stages.inspect import hierarchy
from icce_ray.stages.truth import read_truth
from icce_ray.store import RunError, Store, UsageError, artifacts, check_files
from icce_ray.store.decisions import Decisions, read_decisions
from icce_ray.store.lock import RunLock
from icce_ray.store.markers import EVALUATION
from icce_ray.store.refinement import check_labelling, check_splits, gone_images, planned
from icce_ray.store.versions import Refinement, bind_version, refinement_of, version_of, versions

#: Decisions about what is gone that an error names.
NAMED = 20


def refine(
    run_root: str,
    decisions: str,
    *,
    names: str | None = None,
    skip_gone: bool = False,
    limits: ResourceSettings | None = None,
    take_over: bool = False,
    verbose: bool = True,
) -> dict[str, Any]:
    """Carry out the decisions of a file into a new version of a run; the same decisions give the same version.

    `names` is a CSV file with names of the classes that were decided about. Decisions about classes and images that are
    gone are an error that names them, or with `skip_gone` left out and named in the result. Returns `version` (its
    number), `root`, `new` (False if it was there already), `classes`, `left_out`, and `evaluation` with the scores
    `before` and `after` where the base was evaluated. A killed one goes on by the same call.

    Raises UsageError for a file that cannot be used, RunError for decisions about other classes, before any work.
    """
    run, limits = Store(run_root), limits or ResourceSettings()
    if run.origin:
        raise RunError(
            f"{run.root} is a version; give the run {run.origin}: the decisions say which version they are of"
        )
    settings = run.settings().model_copy(update={"resources": limits})
    decided = read_decisions(decisions)
    base = _base(run, decided)
    check_files(base, *artifacts.STAGES)
    check_device(limits)
    decided, left_out = _without_gone(base, decided, skip_gone)
    check_splits(base, decided)
    refinement = planned(base, run, decided, _names_of(base, names), left_out)
    with writing(run, "icce refine", verbose=verbose, take_over=take_over) as (display, lock):
        number, version = _version(run, refinement)
        if version is None:
            version = version_of(run, number)
            bind_version(version, run, refinement, _files(refinement, decided))
        new = not version.storage.exists(artifacts.REPORT)
        if new:
            _complete(base, version, refinement, settings, display, lock)
            label_updates(version, limits, display, lock)
            write_report(version, display, lock)
        else:
            display.log("refine", f"nothing to do: version {number} has these decisions")
    scores = {"before": base.metrics().get(EVALUATION), "after": version.metrics().get(EVALUATION)}
    return {
        "version": number,
        "root": version.root,
        "new": new,
        "classes": refinement.classes,
        "left_out": left_out,
        "evaluation": scores if scores["after"] else None,
    }


def _base(run: Store, decided: Decisions) -> Store:
    """What the decisions are about. Raises RunError if it is not there, or has other classes now."""
    number = decided.run.version
    if number and number not in versions(run):
        raise RunError(f"the decisions are about version {number} of {run.root}, which is not there; decide again")
    base = version_of(run, number)
    check_labelling(base, decided)
    return base


def _without_gone(base: Store, decided: Decisions, skip: bool) -> tuple[Decisions, list[str]]:
    """The decisions that can be carried out, and a line for each of the others. Raises UsageError unless `skip`."""
    images = gone_images(base, decided.move)
    gone = decided.gone(images)
    if gone and not skip:
        more = f"\n  and {len(gone) - NAMED} more" if len(gone) > NAMED else ""
        lines = "\n".join(f"  {line}" for line in gone[:NAMED])
        raise UsageError(
            f"{len(gone)} decisions are about classes from {decided.run.classes} on, or images, that {base.root} does "
            f"not have:\n{lines}{more}\ndecide again on its page, or give --skip-gone to go on without these"
        )
    decided = decided.without_gone(images)
    if decided.empty:
        raise UsageError("nothing is left of the decisions: all are about what is gone; decide again on the page")
    return decided, gone


def _names_of(base: Store, given: str | None) -> dict[int, tuple[str, bool]]:
    """Names of the classes by their labels, and whether each is a guess: of the file, else those that the base has."""
    if given is None and not base.storage.exists(artifacts.CLASS_NAMES):
        return {}
    file = given or base.storage.uri(artifacts.CLASS_NAMES)
    table = read_user_table("--names", file, needs=("label", "name"), also=("source", "labelling"))
    rows, current = table.to_pylist(), base.require("classifier").fingerprint
    found: dict[int, tuple[str, bool]] = {}
    for row in rows:
        if given is None and row.get("labelling") != current:
            continue  # guesses for labels of before
        text, name = str(row["label"]).strip(), str(row["name"] or "")
        if not text.isdecimal():
            raise StorageError(f"--names {file}: label = {text!r}; give the number of a class")
        if name:
            found[int(text)] = (name, row.get("source") == artifacts.GUESS)
    return found


def _version(run: Store, refinement: Refinement) -> tuple[int, Store | None]:
    """Number and place of the version with this refinement; the next number where there is none."""
    there = versions(run)
    for number, one in there.items():
        if refinement_of(one) == refinement:
            return number, one
    return max(there, default=0) + 1, None


def _files(refinement: Refinement, decided: Decisions) -> dict[str, bytes]:
    """What a version begins with: the decisions, and the names of its classes as `icce export --names` reads them."""
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["label", "name", "source", "labelling"])
    for label, name in refinement.names.items():
        source = artifacts.GUESS if label in refinement.guessed else "decided"
        rows.writerow([label, without_formulas(name), source, refinement.digest()])
    content = json.dumps(decided.content(), indent=1, ensure_ascii=False)
    files = {artifacts.DECISIONS_FILE: content.encode(errors="surrogateescape")}
    return files | ({artifacts.CLASS_NAMES: table.getvalue().encode()} if refinement.names else {})


def _complete(
    base: Store, version: Store, refinement: Refinement, settings: Settings, display: RunProgress, lock: RunLock
) -> None:
    """The stages of a version that are not complete, and its evaluation by the labels that the base had."""
    resolved = version.settings().model_copy(update={"resources": settings.resources})
    with connected():
        available = resources(settings.resources, log=display.log_as("cluster"))
        work = {
            "consensus": functools.partial(relabel.run, resolved, base, version, refinement, available),
            "classifier": functools.partial(classifier.run, resolved, version, available),
            "predict": functools.partial(predict.run, resolved, version, available),
        }
        for stage in artifacts.REFINED:
            if version.marker(stage) is None:
                with display.stage(stage) as progress:
                    done = functools.partial(work[stage], progress)
                    marker = complete(stage, version, refinement.digest(), done, lock.check)
                version.record(stage, marker.summary | {"seconds": marker.seconds})
        with display.stage("inspect") as progress:
            if version.marker("inspect") is not None and not version.storage.exists(artifacts.HIERARCHY.path):
                hierarchy.run(resolved, version, available, progress)
            lock.check()
            relabel.write_changes(base, version)
        labels = base.metrics().get(EVALUATION, {}).get("labels")
        if labels is None or EVALUATION in version.metrics():
            return
        try:
            read_truth(labels)
        except (OSError, RunError) as error:
            display.log("refine", f"not evaluated: {error}; `icce evaluate --version` does it with a file of labels")
            return
        with display.stage("evaluate") as progress:
            figures = evaluate.run(version, labels, available, progress)
        lock.check()
        version.record(EVALUATION, figures)
