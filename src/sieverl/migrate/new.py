"""A first recipe for a model and data: the data is read, so that what is written can run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sieverl.errors import UsageError
from sieverl.migrate.draft import Draft, short
from sieverl.types import Prompt

READ = 100  # rows that are looked at
BOXED = ("math", "number", "choice", "string")  # verifiers that look for a box
USUAL = {"rollout.max_tokens": 512, "train.lr": 1e-6}
SHIPPED = {"rollout.max_tokens": 64, "train.lr": 2e-4}  # of the model that comes with SieveRL, as in its demo


@dataclass(frozen=True)
class Wishes:
    """What a recipe is for. Without an algorithm or a verifier, one is chosen."""

    model: str
    data: str
    algorithm: str = ""
    verifier: str = ""
    split: str = "train"
    columns: Mapping[str, str] = field(default_factory=dict)


def new_recipe(wishes: Wishes) -> tuple[Draft, Prompt]:
    """The recipe, and the first prompt of the data. Raises a DataError or a UsageError for what cannot work."""
    from sieverl.data import load_prompts

    check_model(wishes.model)
    gym = wishes.data.startswith("reasoning_gym:")
    options = {"size": READ} if gym else {}
    prompts = load_prompts(wishes.data, columns=wishes.columns, split=wishes.split, limit=READ, options=options)
    verifier = wishes.verifier or verifier_for(prompts, gym)
    draft = Draft(title="Made by `sieverl init`. What is not here has its default.")
    draft.set("algorithm", wishes.algorithm or "reinforce_rej")
    draft.set("steps", 100)
    if wishes.model:
        draft.set("model.path", wishes.model)
    draft.set("data.source", wishes.data)
    if not gym:
        draft.set("data.split", wishes.split)
    else:
        draft.set("data.options", {"seed": 0, "size": 10_000}, "options of the task go here, too")
    if wishes.columns:
        draft.set("data.columns", dict(wishes.columns))
    draft.set("data.template", "auto")
    if verifier in BOXED and wishes.model:  # the shipped model boxes its answers unasked
        draft.set("data.suffix", "boxed", "asks for the answer in a box, which the verifier looks for")
    draft.set("verify.name", verifier)
    sizes = {"rollout.prompts": 32, "rollout.samples": 8, **(USUAL if wishes.model else SHIPPED)}
    for key, value in {**sizes, "checkpoint.every": 50}.items():
        draft.set(key, value)
    draft.ending = (
        "Held-out evaluation: [evaluate] with source and every = 10. Adapters only: [model.lora] with rank = 32.",
        "Every key: `sieverl train --help` and docs/recipe.md. Memory: `sieverl plan RECIPE.toml`.",
    )
    draft.recipe()
    return draft, prompts[0]


def check_model(model: str) -> None:
    """Raise a UsageError for what is neither a model's directory nor a Hub id."""
    path = Path(model).expanduser()
    if model and path.is_dir() and not (path / "config.json").is_file():
        raise UsageError(f"--model {model} has no config.json; give a Hugging Face directory or a Hub id")
    if model and not path.exists() and not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", model):
        raise UsageError(f"--model {short(model)} is no directory and no Hub id; give one such as Qwen/Qwen2.5-0.5B")


def verifier_for(prompts: Sequence[Prompt], gym: bool) -> str:
    """The verifier that fits the gold answers.

    >>> verifier_for([Prompt(0, "?", {"answer": "B"}, None)], gym=False)
    'choice'
    """
    if gym:
        return "reasoning_gym"
    letters = all(re.fullmatch(r"\(?[A-J]\)?", str(prompt.row.get("answer"))) for prompt in prompts)
    return "choice" if letters else "math"
