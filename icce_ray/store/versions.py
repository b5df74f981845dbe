"""Refined versions of a run: what `icce refine` made of it by decisions of people, each in a folder `versions/N`.

A version is opened as a run is, `Store(RUN/versions/N)`: it has consensus, classifier, predictions, names and a report
for itself and reads everything else from the run (`store.places`). Neither the run nor another version is changed by
it, and a version that was made from another one does not need that one any more.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from icce_ray.documents import DocumentError, opened_json, sealed_json, shaped
from icce_ray.settings import Settings
from icce_ray.store.artifacts import REFINED, REFINEMENT_FILE, STAGES, VERSIONS
from icce_ray.store.markers import Marker, RunError, fingerprints
from icce_ray.store.run import Store

_NUMBER = re.compile(rf"{VERSIONS}/([1-9][0-9]{{0,8}})/{re.escape(REFINEMENT_FILE)}")


@dataclass(frozen=True)
class Refinement:
    """What follows from decisions about the classes of a run or of a version, the base; kept as `refinement.json`."""

    base: int
    """0 is the run itself."""
    labels: str
    """`labelling` of the base."""
    decisions: str
    """Digest of the decisions, without those that were left out."""
    made_from: dict[str, str]
    """`_digest` of each stage that is read from the run."""
    classes: int
    parts: list[list[int]]
    """The classes that each class of the base has become: one, the same for those merged, or the parts of a split."""
    names: dict[int, str]
    guessed: list[int]
    """Classes whose name is a guess."""
    rejected: list[int]
    """Classes of images that are none of the collection's; exports leave their images out."""
    moved: list[tuple[int, int]]
    """image_id and class of the base of each image that people gave one, in this version or those that it rests on."""
    left_out: list[str]
    """Decisions about what was gone."""

    @property
    def fixed(self) -> dict[int, int]:
        """Label by image_id of the images whose label is given; a split finds the part of those moved to its class."""
        return {image: self.parts[label][0] for image, label in self.moved if len(self.parts[label]) == 1}

    @property
    def split(self) -> dict[int, list[int]]:
        """The parts of each class of the base that is split."""
        return {label: parts for label, parts in enumerate(self.parts) if len(parts) > 1}

    def digest(self) -> str:
        """What the markers of the version have as their fingerprint."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def data(self) -> bytes:
        """The file's content, with a checksum of itself."""
        return sealed_json(asdict(self))


def version_of(run: Store, number: int) -> Store:
    """A version, whether it is there or not; number 0 is the run."""
    return Store(run.storage.uri(f"{VERSIONS}/{number}")) if number else run


def versions(run: Store) -> dict[int, Store]:
    """Those that have begun, by their numbers."""
    found = (_NUMBER.fullmatch(path) for path, _ in run.storage.list(VERSIONS))
    return {number: version_of(run, number) for number in sorted(int(match[1]) for match in found if match)}


def number_of(store: Store) -> int:
    """The number of a version, 0 of anything else."""
    return int(store.storage.full_path().rpartition("/")[2]) if store.origin else 0


def chosen_version(root: str, number: int | None) -> str:
    """Root of the run, or of its version of that number. Raises RunError for one that there is not."""
    if number is None or number == 0:
        return root
    run = Store(root)
    run.run_file()
    there = versions(run)
    if number not in there:
        known = f"give one of {', '.join(map(str, there))}" if there else "`icce refine` makes the first one"
        raise RunError(f"--version {number}: {run.root} has no such version; {known}, or 0 for the run itself")
    return there[number].root


def labelling(store: Store) -> dict[str, Any]:
    """What decisions name the classes of a run or of a version by: `run` of a `decisions.json`.

    By the content of its predictions: classes of a run that was repeated may have other numbers. RunError without them.
    """
    marker = store.require("predict")
    return {"predictions": _digest(marker), "version": number_of(store), "classes": len(marker.summary["class_sizes"])}


def refinement_of(store: Store) -> Refinement | None:
    """What a version was made by; None of a run. Raises RunError if it is damaged."""
    if not store.origin:
        return None
    try:
        content = opened_json(store.storage.read_bytes(REFINEMENT_FILE))
        return shaped(Refinement, {one.name: content[one.name] for one in fields(Refinement) if one.name in content})
    except FileNotFoundError:
        return None
    except DocumentError as error:
        raise RunError(
            f"{store.storage.uri(REFINEMENT_FILE)} is damaged or of another version ({error}); delete {store.root} and "
            "refine again"
        ) from error


def made_from(run: Store) -> dict[str, str]:
    """Digests of the complete stages that versions read from the run and have not for themselves."""
    stages = list(STAGES)[: list(STAGES).index(REFINED[0])]
    return {stage: _digest(run.require(stage)) for stage in stages}


def check_version(store: Store) -> None:
    """Raise RunError for a version of what the run no longer has: its images, features or heads were made again."""
    refinement = refinement_of(store)
    if refinement is None:
        return
    now = made_from(Store(str(store.origin)))
    changed = [stage for stage, digest in refinement.made_from.items() if now.get(stage) != digest]
    if changed:
        raise RunError(
            f"{store.origin} was repeated from stage {changed[0]} on since {store.root} was made, which rests on "
            f"what was there before; look at the new classes, refine these, and delete {store.root}"
        )


def expected_fingerprints(store: Store, settings: Settings) -> dict[str, str]:
    """What the markers of a run with these settings must have; of a version, its own stages another."""
    refinement = refinement_of(store)
    if refinement is None:
        return fingerprints(settings)
    of_run = Store(str(store.origin))
    return fingerprints(of_run.settings()) | dict.fromkeys(REFINED, refinement.digest())


def bind_version(version: Store, run: Store, refinement: Refinement, files: Mapping[str, bytes]) -> None:
    """Write what a version is bound to, and these other files by their paths; `refinement.json` is the last."""
    for path, data in files.items():
        version.storage.write_bytes(path, data)
    prints = fingerprints(run.settings()) | dict.fromkeys(REFINED, refinement.digest())
    version.write_run_file(run.resolved(run.settings()).model_copy(update={"clusters": refinement.classes}), prints)
    version.storage.write_bytes(REFINEMENT_FILE, refinement.data())


def _digest(marker: Marker) -> str:
    """Of the content of all files of a stage."""
    return hashlib.sha256("".join(info.sha256 for info in marker.files).encode()).hexdigest()[:16]
