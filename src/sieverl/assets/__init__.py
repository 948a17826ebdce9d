"""What is shipped: two tiny models, and recipes to start from (`sieverl recipes` lists them)."""

from __future__ import annotations

from pathlib import Path

RECIPES = Path(__file__).parent / "recipes"
RECIPE = RECIPES / "demo.toml"
BASE = Path(__file__).parent / "base"
MODELS = {"": BASE, "base": BASE, "hasty": Path(__file__).parent / "hasty"}  # by what a recipe calls them


def model_place(name: str) -> str:
    """Where the model is that a recipe names: of a shipped one its directory; a directory or a Hub id is itself.

    A directory here that has the name of a shipped model is meant.

    >>> model_place("") == model_place("base") == str(BASE), model_place("Qwen/Qwen2.5-0.5B")
    (True, 'Qwen/Qwen2.5-0.5B')
    """
    return str(MODELS[name]) if name in MODELS and not (name and Path(name).is_dir()) else name
