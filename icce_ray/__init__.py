"""Unlabelled images to K classes, a classifier for new images, and the evidence for both, without one label.

    icce_ray.run(icce_ray.load_settings({"source": "photos/", "clusters": 20, "out": "runs/photos"}))
    icce_ray.predict("runs/photos", "new-photos/", "runs/photos-new")
    icce_ray.ICCE(n_clusters=20).fit_predict(features)          # a feature matrix, without Ray

Nothing heavy is imported before one of these names is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from icce_ray.version import __version__

if TYPE_CHECKING:
    from icce_ray.commands import evaluate, predict
    from icce_ray.estimator import ICCE
    from icce_ray.pipeline import run
    from icce_ray.refining import refine
    from icce_ray.settings import Settings
    from icce_ray.settings import load as load_settings

__all__ = ["ICCE", "Settings", "__version__", "evaluate", "load_settings", "predict", "refine", "run"]

_WHERE = {
    "ICCE": ("icce_ray.estimator", "ICCE"),
    "Settings": ("icce_ray.settings", "Settings"),
    "evaluate": ("icce_ray.commands", "evaluate"),
    "load_settings": ("icce_ray.settings", "load"),
    "predict": ("icce_ray.commands", "predict"),
    "refine": ("icce_ray.refining", "refine"),
    "run": ("icce_ray.pipeline", "run"),
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: `import icce_ray` alone costs milliseconds."""
    if name not in _WHERE:
        raise AttributeError(f"module 'icce_ray' has no attribute {name!r}")
    import importlib

    module, attribute = _WHERE[name]
    return getattr(importlib.import_module(module), attribute)
