"""What is shipped: the tiny base model and the recipe of the demo."""

from __future__ import annotations

from pathlib import Path

RECIPE = Path(__file__).parent / "demo.toml"
BASE = Path(__file__).parent / "base"
