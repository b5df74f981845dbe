"""What the result of a stage depends on, as a digest, and where two sets of settings differ."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from icce_ray.settings import Settings
from icce_ray.store.names import ARTIFACTS

#: Settings a stage depends on by itself; those of the stages before it come through their fingerprints.
DEPENDS = {
    "list": ("source", "list"),
    "embed": ("embed",),
    "sample": ("heads.max_images", "heads.sample_seed"),
    "neighbors": ("clusters", "neighbors"),
    "heads": ("clusters", "seed", "heads"),
    "consensus": ("clusters", "seed", "consensus"),
    "classifier": ("clusters", "seed", "classifier"),
    "predict": (),
}


def fingerprint(settings: Settings, stage: str) -> str:
    """Digest of all settings that the stage's result depends on, those of the stages before it included."""
    values = settings.defining()
    digest = hashlib.sha256()
    for name in ARTIFACTS:
        digest.update(json.dumps({key: _value(values, key) for key in DEPENDS[name]}, sort_keys=True).encode())
        if name == stage:
            return digest.hexdigest()[:16]
    raise ValueError(f"unknown stage {stage!r}; stages are {', '.join(ARTIFACTS)}")


def _value(values: dict[str, Any], name: str) -> Any:
    """The setting of a dotted name."""
    for part in name.split("."):
        values = values[part]
    return values


def differences(before: Any, now: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted name, old, new) of all leaves that differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in now | before:
            found += differences(before.get(key), now.get(key), f"{prefix}.{key}" if prefix else key)
        return found
    return [] if before == now else [(prefix, before, now)]
