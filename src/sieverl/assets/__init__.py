"""What is shipped: the tiny base model, and recipes to start from (`sieverl recipes` lists them)."""

from __future__ import annotations

from pathlib import Path

RECIPES = Path(__file__).parent / "recipes"
RECIPE = RECIPES / "demo.toml"
BASE = Path(__file__).parent / "base"
