"""Which file it is that somebody has, and what makes a recipe of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from sieverl.errors import SieveRLError, UsageError, first_line, nearest
from sieverl.migrate import trl, verl
from sieverl.migrate.draft import Draft
from sieverl.migrate.script import Script, notebook, read_text
from sieverl.migrate.shell import overrides
from sieverl.migrate.trl_command import COMMAND, command_to_draft
from sieverl.migrate.trl_fields import FIELDS
from sieverl.migrate.trl_script import script_to_draft

OF_VERL = ("actor_rollout_ref", "algorithm", "trainer", "critic", "reward_model", "custom_reward_function")


@dataclass(frozen=True)
class Target:
    """Where the recipe goes, and the processes that it is for."""

    output: Path
    processes: int = 1

    def beside(self, name: str) -> Path:
        """A file beside the recipe."""
        return self.output.with_name(f"{self.output.stem.replace('-', '_')}_{name}.py")


def convert(source: str | Path, output: str | Path = "recipe.toml", processes: int = 1) -> Draft:
    """The recipe of a TRL script or notebook, a YAML file of TRL or verl, or a shell script of verl.

    `output` is where the recipe will be, since files of rewards are put beside it; nothing is written here. Raises a
    UsageError for a file that is none of these, or that is not whole.
    """
    path = Path(source).expanduser()
    readers: dict[str, Callable[[str, Path, Target], Draft]] = {
        ".py": of_script, ".ipynb": of_notebook, ".yaml": of_yaml, ".yml": of_yaml, ".sh": of_shell, ".bash": of_shell,
    }  # fmt: skip
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            f"{path} is none of {', '.join(readers)}: give a TRL script or notebook, a YAML file of TRL or verl, or a "
            "shell script that starts verl"
        )
    draft = reader(read_text(path), path, Target(Path(output), processes))
    draft.title = f"Made by `sieverl init --from {path.name}`."
    try:
        draft.recipe()
    except UsageError as error:
        raise UsageError(f"{path} makes no recipe that can run: {error}") from error
    return draft


def of_script(text: str, path: Path, target: Target) -> Draft:
    """A script that uses TRL."""
    draft = Draft()
    given = script_to_draft(Script(text, str(path)), target.beside("rewards"), draft)
    trl.config_to_draft(given, trl.Around(target.processes, rows_of(draft)), draft)
    return draft


def of_notebook(text: str, path: Path, target: Target) -> Draft:
    """A Jupyter notebook that uses TRL."""
    return of_script(notebook(text, str(path)), path, target)


def of_shell(text: str, path: Path, target: Target) -> Draft:
    """A shell script that starts verl."""
    draft = Draft()
    verl.config_to_draft(overrides(text, str(path)), draft, str(target.beside("reward")), rows_of)
    return draft


def of_yaml(text: str, path: Path, target: Target) -> Draft:
    """A YAML file: verl's has its tables, TRL's has none."""
    tree = tree_of(text, path)
    draft = Draft()
    if any(isinstance(tree.get(name), Mapping) for name in OF_VERL) or any(name.startswith(OF_VERL) for name in tree):
        verl.config_to_draft(tree, draft, str(target.beside("reward")), rows_of)
        return draft
    known = {**FIELDS, **COMMAND}
    if not any(name in known for name in tree):
        first = next(iter(tree), "nothing")
        raise UsageError(
            f"{path} has no setting of TRL's GRPOConfig and no table of verl's; it starts with {first!r}."
            + nearest(str(first), known)
        )
    rest = command_to_draft(tree, draft)
    trl.config_to_draft(rest, trl.Around(target.processes, rows_of(draft)), draft)
    return draft


def tree_of(text: str, path: Path) -> Mapping[str, object]:
    """The tables of a YAML file; tags that make objects are refused, and so are aliases, which can multiply."""
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise UsageError(f"{path} has YAML aliases (*name); write the values out")
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path} is not YAML that can be read here: {first_line(error)}") from error
    if not isinstance(tree, Mapping) or not all(isinstance(name, str) for name in tree):
        raise UsageError(f"{path} has no settings: a YAML file of NAME: VALUE lines is expected")
    return tree


def rows_of(draft: Draft) -> int | None:
    """The rows of the training data, if it is a file that is here: then epochs can be counted in steps."""
    source = str(draft.values.get("data.source", ""))
    if not source or not Path(source).expanduser().exists():
        return None
    from sieverl.data import load_prompts

    limit = draft.values.get("data.limit")
    try:
        return len(load_prompts(source, split=str(draft.values.get("data.split", "train")),
                                limit=limit if isinstance(limit, int) else None))  # fmt: skip
    except SieveRLError:
        return None  # training will say what is wrong with it
