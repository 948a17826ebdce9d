"""What is shipped: two tiny models, and recipes to start from (`sieverl recipes` lists them)."""

from __future__ import annotations

from pathlib import Path

from sieverl.errors import UsageError

RECIPES = Path(__file__).parent / "recipes"
RECIPE = RECIPES / "demo.toml"
BASE = Path(__file__).parent / "base"
MODELS = {"": BASE, "base": BASE, "hasty": Path(__file__).parent / "hasty"}  # by what a recipe calls them


def model_place(name: str) -> str:
    """Where the model is that a recipe names: of a shipped one its directory; a directory or a Hub id is itself.

    Raises a UsageError where a model here has the name of a shipped one.

    >>> model_place("") == model_place("base") == str(BASE), model_place("Qwen/Qwen2.5-0.5B")
    (True, 'Qwen/Qwen2.5-0.5B')
    """
    if name and name in MODELS and (Path(name) / "config.json").is_file():
        raise UsageError(
            f"{name} is a model that SieveRL ships, and there is another one in ./{name}: write ./{name} for that one"
        )
    return str(MODELS.get(name, name))
