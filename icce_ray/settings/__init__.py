"""Settings of a run: `models` and `stages` have every field with its default, `loading` reads files and options.

Errors at construction name the field, its value, the limit and the remedy, so bad settings fail before any work.
"""

from icce_ray.settings.loading import SettingsError, load, load_as
from icce_ray.settings.models import PlanSettings, PredictSettings, ResourceSettings, Settings, TrackingSettings
from icce_ray.settings.stages import EmbedSettings, HeadsSettings, ListSettings, NeighborsSettings

__all__ = [
    "EmbedSettings",
    "HeadsSettings",
    "ListSettings",
    "NeighborsSettings",
    "PlanSettings",
    "PredictSettings",
    "ResourceSettings",
    "Settings",
    "SettingsError",
    "TrackingSettings",
    "load",
    "load_as",
]
