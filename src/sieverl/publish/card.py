"""The model card of a run: what was trained, on what, how well it does, and what nobody has tested.

Nothing of the machine is in it: paths become names, and of the recipe only numbers, choices and known names are shown.
Every text that others wrote is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import tomli_w
from huggingface_hub import ModelCard, ModelCardData

from sieverl.algorithms.axes import with_axes
from sieverl.algorithms.describe import formula
from sieverl.algorithms.named import ALGORITHMS
from sieverl.assets import MODELS
from sieverl.data.catalog import SOURCES
from sieverl.data.locate import DatasetRef, locate
from sieverl.errors import DataError, SieveRLError
from sieverl.publish.text import code, cut, hub_id, inline, name_only
from sieverl.recipe import Recipe, build, keys
from sieverl.run_dir.saved import SavedRun
from sieverl.types import JsonObject

TEXTS = ("algorithm", "model.path", "data.source", "data.split", "evaluate.name", "evaluate.source", "evaluate.split",
         "verify.name")  # keys of the recipe whose text is a name; of a path its last part is shown  # fmt: skip
PROMPT = ("data.system", "data.suffix")  # what the model has to be asked with


def recipe_of(run: SavedRun) -> Recipe:
    """The recipe of a run. Raises a DataError where it cannot be read."""
    try:
        return build(run.recipe)
    except SieveRLError as error:
        raise DataError(f"the recipe of {run.path} cannot be used: {error}; push needs the run's own") from error


def card(run: SavedRun, repo: str, step: int, dtype: str) -> ModelCard:
    """The card of the model of a run after a step, as it is in `repo`; its metadata is checked by the Hub's library."""
    recipe = recipe_of(run)
    parts = [
        *_title(recipe, repo, step),
        *_use(recipe, repo, dtype),
        *_training(recipe, step),
        *_results(run, recipe, step),
    ]
    parts += [*_limits(recipe), *_settings(recipe), *_versions(run)]
    return ModelCard(f"---\n{_metadata(recipe, repo).to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


def _metadata(recipe: Recipe, repo: str) -> ModelCardData:
    base, sets = hub_id(recipe.model.path), [d for d in (_dataset(recipe.data.source),) if d]
    tags = [
        "reinforcement-learning",
        "rlvr",
        "sieverl",
        *([recipe.algorithm] if recipe.algorithm in ALGORITHMS else []),
    ]
    return ModelCardData(
        base_model=base,
        datasets=sets or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=tags,
        model_name=repo.rpartition("/")[2],
    )


def _dataset(source: str) -> str | None:
    """The Hub id of a data source; None for a file or a generated task."""
    ref = _located(source)
    return ref.hub if ref else None


def _located(source: str) -> DatasetRef | None:
    try:
        return locate(source, {}) if source else None
    except SieveRLError:
        return None


def source_name(source: str) -> str:
    """A data source without the folders of this machine.

    >>> source_name("gsm8k"), source_name("/home/me/secret/rows.jsonl"), source_name("gsm8k@/home/me/copy")
    ('gsm8k', 'rows.jsonl', 'gsm8k')
    """
    name, at, rest = source.partition("@")
    if at and name in SOURCES:
        return name if "/" in rest else source
    ref = _located(source)
    return source if ref and (ref.hub or ref.task) else name_only(source)


# --- parts of the page ------------------------------------------------------------------------------


def _title(recipe: Recipe, repo: str, step: int) -> Iterator[str]:
    base = hub_id(recipe.model.path)
    made_of = f"[{base}](https://huggingface.co/{base})" if base else _base_name(recipe)
    yield f"# {inline(repo.rpartition('/')[2])}"
    yield (
        f"{made_of}, fine-tuned for {step:,} steps with reinforcement learning from verifiable rewards by "
        f"SieveRL, algorithm {inline(name_only(recipe.algorithm))}."
    )


def _base_name(recipe: Recipe) -> str:
    path = recipe.model.path
    return "a small model that SieveRL ships" if path in MODELS else f"a local model, {inline(name_only(path))}"


def _use(recipe: Recipe, repo: str, dtype: str) -> Iterator[str]:
    chat = recipe.data.template != "plain"
    ask = (
        'prompt = tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False, '
        "add_generation_prompt=True)"
        if chat
        else "prompt = question"
    )
    yield "## How to load it"
    yield code(
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{repo}")\n'
        f'model = AutoModelForCausalLM.from_pretrained("{repo}", dtype="{dtype}")\n'
        f'question = "..."\n{ask}\n'
        f'inputs = tokenizer(prompt, return_tensors="pt"{", add_special_tokens=False" if chat else ""})\n'
        f"output = model.generate(**inputs, do_sample=True, temperature={recipe.rollout.temperature:g}, top_k=0, "
        f"max_new_tokens={recipe.rollout.max_tokens})\n"
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))',
        "python",
    )
    for key, what in (("system", "system message"), ("suffix", "text after each question")):
        text = getattr(recipe.data, key)
        if text:
            yield f"It was trained with this {what}" + (" (the paper's instruction):" if text == "boxed" else ":")
            yield code(cut(text))


def _training(recipe: Recipe, step: int) -> Iterator[str]:
    yield "## Training"
    rows = [("base model", hub_id(recipe.model.path) or _base_name(recipe))]
    rows += list(_algorithm(recipe))
    rows += [
        ("data", f"{inline(source_name(recipe.data.source))}, split {inline(recipe.data.split)}"),
        ("verifier", inline(name_only(recipe.verify.name))),
        ("weights", f"LoRA of rank {recipe.model.lora.rank}, merged" if recipe.model.lora.rank else "all trained"),
        ("steps", f"{step:,} of {recipe.rollout.prompts} prompts with {recipe.rollout.samples} responses each"),
    ]
    yield "\n".join(["| | |", "|-|-|", *(f"| {name} | {value} |" for name, value in rows)])


def _algorithm(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Its name, paper and formula; one from a file of the user's is named, and its code is not run."""
    if recipe.algorithm not in ALGORITHMS:
        yield "algorithm", f"{inline(name_only(recipe.algorithm))}, which is not part of SieveRL"
        return
    named = with_axes(ALGORITHMS[recipe.algorithm], recipe.chosen_axes)
    yield (
        "algorithm",
        f"{recipe.algorithm}: {inline(named.about)}" + (f" ({inline(named.paper)})" if named.paper else ""),
    )
    yield "formula", inline(formula(named))


def _results(run: SavedRun, recipe: Recipe, step: int) -> Iterator[str]:
    yield "## Results"
    metric, name = run.heldout, recipe.evaluate.name
    if metric is None:
        yield "There was no held-out evaluation, so nothing says how well the model does."
        return
    about = (
        f"Held-out prompts of {inline(source_name(recipe.evaluate.source))}, split {inline(recipe.evaluate.split)}, at "
        f"most {recipe.evaluate.limit}, temperature {recipe.evaluate.temperature:g}; mean of {recipe.evaluate.samples} "
        "samples a prompt with its 95% interval over prompts."
    )
    yield about
    rows = {int(row["step"]): row for row in run.rows}
    lines = [f"| model | {inline(name)}, {inline(metric.rpartition('/')[2])} |", "|-|-|"]
    for label, which in (("before training", 0), (f"this model, after step {step:,}", step)):
        lines.append(f"| {label} | {_score(rows.get(which, {}), metric)} |")
    yield "\n".join(lines)


def _score(row: Mapping[str, Any], metric: str) -> str:
    value = row.get(metric)
    low, high = (row.get(f"{metric.replace('eval/', 'eval_ci/', 1)}/{end}") for end in ("low", "high"))
    if not isinstance(value, int | float):
        return "not measured"
    measured = isinstance(low, int | float) and isinstance(high, int | float)
    return f"{value:.1%}" + (f" ({low:.1%} to {high:.1%})" if measured else "")


def _limits(recipe: Recipe) -> Iterator[str]:
    yield "## What it was not tested for"
    told = recipe.evaluate.source and f" beyond the held-out prompts of {inline(source_name(recipe.evaluate.source))}"
    yield (
        f"Nothing was measured{told or ''}: neither other tasks and languages, nor longer conversations, nor responses "
        f"of more than {recipe.rollout.max_tokens:,} tokens, nor safety, bias or factual truth. The reward was the "
        f"verdict of the verifier {inline(name_only(recipe.verify.name))}: a response may please it for the wrong "
        "reason. The licence and the limits of the base model apply."
    )


def _settings(recipe: Recipe) -> Iterator[str]:
    yield "## Recipe"
    yield "What differs from SieveRL's defaults. Paths are shown as names, and free text is left out."
    yield code(tomli_w.dumps(public(recipe)), "toml")


def public(recipe: Recipe) -> JsonObject:
    """The keys of the recipe that differ from their defaults and say nothing of the machine or of secrets.

    >>> public(build({"seed": 3, "run_dir": "/home/me/runs", "data": {"source": "/home/me/a.jsonl"}}))
    {'seed': 3, 'data': {'source': 'a.jsonl'}}
    """
    out: JsonObject = {}
    values, plain = recipe.model_dump(), Recipe().model_dump()
    for key, field in keys():
        value, default = _at(values, key), _at(plain, key)
        if value == default or value is None:
            continue
        shown = source_name(str(value)) if key.endswith(".source") else name_only(str(value))
        if key in TEXTS:
            value = hub_id(str(value)) or shown if key == "model.path" else shown
        elif not _is_choice(field.annotation, value):
            continue
        *path, last = key.split(".")
        table = out
        for part in path:
            table = table.setdefault(part, {})
        table[last] = value
    return out


def _at(table: JsonObject, key: str) -> Any:
    value: Any = table
    for part in key.split("."):
        value = value[part]
    return value


def _is_choice(annotation: Any, value: object) -> bool:
    """Whether a value is a number, or one of the words that its key takes."""
    numbers = value if isinstance(value, tuple | list) else [value]
    if all(isinstance(x, int | float) for x in numbers):
        return True
    several = [annotation, *get_args(annotation)]
    return any(get_origin(kind) is Literal and value in get_args(kind) for kind in several)


def _versions(run: SavedRun) -> Iterator[str]:
    versions = run.starts[-1].get("versions") if run.starts else None
    found = versions if isinstance(versions, dict) else {}
    lines = [f"{inline(name)} {inline(version)}" for name, version in found.items() if isinstance(version, str)]
    yield "## Versions"
    yield ", ".join(lines) if lines else "Not known."
