"""The recipe: everything that a run depends on."""

from sieverl.recipe.load import RENAMED, Overrides, build, load
from sieverl.recipe.recipe import Recipe, keys, to_toml
from sieverl.recipe.tables import AlarmSetting, Checkpoint, Data, Evaluate, Rollout, Trackers, Train

__all__ = [
    "RENAMED",
    "AlarmSetting",
    "Checkpoint",
    "Data",
    "Evaluate",
    "Overrides",
    "Recipe",
    "Rollout",
    "Trackers",
    "Train",
    "build",
    "keys",
    "load",
    "to_toml",
]
