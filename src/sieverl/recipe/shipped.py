"""The shipped recipes by name, so that `sieverl train gsm8k` works wherever the package is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sieverl.assets import RECIPES
from sieverl.errors import UsageError, nearest


def shipped() -> Mapping[str, Path]:
    """Every shipped recipe by its name.

    >>> "gsm8k" in shipped()
    True
    """
    return {path.stem: path for path in sorted(RECIPES.glob("*.toml"))}


def find(recipe: str | Path) -> Path:
    """The file of a recipe: a file of the user's, or else a shipped one of that name. Raises a UsageError for neither.

    >>> find("paper").name
    'paper.toml'
    """
    file, known = Path(recipe), shipped()
    if file.is_file():
        return file
    if str(recipe) in known:
        return known[str(recipe)]
    hint = nearest(str(recipe).removesuffix(".toml"), known)
    raise UsageError(
        f"there is no recipe {recipe}.{hint} `sieverl train` takes a TOML file, or the name of a shipped recipe: "
        f"{', '.join(known)}"
    )


def run_dir_of(recipes: Sequence[str | Path]) -> str:
    """Where a run is kept whose recipes name no directory.

    >>> run_dir_of(["recipes/base.toml", "lora.toml"])
    'runs/base-lora'
    """
    return f"runs/{'-'.join(Path(recipe).stem for recipe in recipes)}"


def about(file: Path) -> str:
    """What a shipped recipe is: its first line, which is a comment.

    >>> about(find("paper"))
    'The method and settings of arXiv 2504.11343.'
    """
    return file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
