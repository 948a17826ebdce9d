"""A TRL training script as a recipe: its GRPOConfig, GRPOTrainer, LoraConfig and load_dataset calls. Nothing runs."""

from __future__ import annotations

import ast
from pathlib import Path

from sieverl.errors import UsageError
from sieverl.migrate.draft import Draft, Source
from sieverl.migrate.lora import adapters, quantization
from sieverl.migrate.rewards import rewards_of, system_prompts
from sieverl.migrate.script import Call, Script, argument, called, chain
from sieverl.types import JsonObject

FILES = ("json", "parquet")  # of load_dataset, with data_files
UNCHANGED = ("shuffle", "with_format", "load_dataset", "load_from_disk")
MAPPED = (
    "is not run: SieveRL reads the source itself and renders the chat. If prompts or columns need more, write the rows "
    "once, with .to_parquet('train.parquet') at the end of the script's own chain, and set the source to that file"
)


def script_to_draft(script: Script, rewards_file: Path, draft: Draft) -> JsonObject:
    """Put what a script says into `draft`, but for its GRPOConfig, which is returned as it is given."""
    trainers, configs = script.calls("GRPOTrainer"), script.calls("GRPOConfig")
    if not trainers and not configs:
        others = sorted({called(n) for n in script.nodes if isinstance(n, Call) and called(n).endswith("Trainer")})
        has = f"; it has {', '.join(others)}, and only GRPO can be taken over" if others else ""
        raise UsageError(f"{script.path} has no GRPOTrainer(...) and no GRPOConfig(...){has}")
    trainer = trainers[0] if trainers else None
    if len(trainers) > 1:
        draft.note("GRPOTrainer", None, f"the script has {len(trainers)}; the first is taken over")
    given = config_of(script, trainer, configs, draft)
    if trainer is None:
        draft.note("GRPOTrainer", None, "the script has none; set model.path, data.source and verify.name")
        return given
    model_of(script, argument(trainer, "model", 0), draft)
    peft = script.meant(argument(trainer, "peft_config"))
    if isinstance(peft, Call):
        adapters(script.keywords(peft), draft)
    elif peft is not None and ast.unparse(peft) != "None":
        draft.note("peft_config", Source(ast.unparse(peft)), "not known before the script runs; set model.lora.rank")
    quantized = script.meant(argument(trainer, "quantization_config"))
    if isinstance(quantized, Call):
        quantization(script.keywords(quantized), draft)
    dataset_of(script, argument(trainer, "train_dataset", 3), "data", draft)
    if (held_out := argument(trainer, "eval_dataset", 4)) is not None:
        dataset_of(script, held_out, "evaluate", draft)
    if isinstance(given.get("reward_weights"), list):
        draft.values["reward_weights"] = given["reward_weights"]
    rewards_of(script, argument(trainer, "reward_funcs", 1), rewards_file, draft)
    prompts_of(script, draft)
    for word in trainer.keywords:
        if word.arg in NO_COUNTERPART and ast.unparse(word.value) not in ("None", "[]"):
            draft.note(word.arg, Source(ast.unparse(word.value)), NO_COUNTERPART[word.arg])
    return given


NO_COUNTERPART = {
    "callbacks": "a run has no callbacks in a recipe; metrics.jsonl is written at every step",
    "optimizers": "AdamW is the one optimiser",
    "tools": "a response is one turn; tools are not built in",
    "rollout_func": "rollout.engine samples; an engine of your own is a seam of design.md",
    "environment_factory": "a response is one turn; environments are not built in",
    "reward_processing_classes": "a reward model is a function of yours",
    "processing_class": "the tokenizer is that of model.path",
}


def config_of(script: Script, trainer: Call | None, configs: list[Call], draft: Draft) -> JsonObject:
    """The keywords of the trainer's GRPOConfig, and what the script sets on it afterwards."""
    named = argument(trainer, "args", 2) if trainer else None
    found = script.meant(named)
    if isinstance(found, Call) and called(found) == "GRPOConfig":
        config = found
    elif configs:
        config = configs[0]
        if len(configs) > 1:
            draft.note("GRPOConfig", None, f"the script has {len(configs)}; the first is taken over")
    else:
        if named is not None:
            draft.note(
                "args",
                Source(ast.unparse(named)),
                "comes from the command line or a file when the script runs: give that to sieverl init --from",
            )
        return {}
    given = script.keywords(config, positional=("output_dir",))
    name = next((n for n, value in script.stands_for.items() if value is config), None)
    for node in script.nodes:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == name:
            assert isinstance(node, ast.Assign)
            if node in script.tree.body:
                given[target.attr] = script.value(node.value)
            else:
                draft.note(target.attr, Source(ast.unparse(node)), "set where the script runs; not taken over")
    return {key: value for key, value in given.items() if value is not None}


def model_of(script: Script, node: ast.expr | None, draft: Draft) -> None:
    """The model: its name, or that of a `from_pretrained` call."""
    found = script.meant(node)
    if isinstance(found, Call) and called(found) == "from_pretrained":
        given = script.keywords(found, positional=("model_name",))
        path = next((given[k] for k in ("model_name", "pretrained_model_name_or_path") if k in given), None)
        if given.get("attn_implementation"):
            draft.set("model.attention", given["attn_implementation"], "attn_implementation")
        quantized = script.meant(argument(found, "quantization_config"))
        if isinstance(quantized, Call):
            quantization(script.keywords(quantized), draft)
        if given.get("load_in_4bit") is True:
            draft.set("model.quantization", "nf4", "load_in_4bit")
        if "revision" in given:
            draft.note("revision", given["revision"], "download that revision to a folder, and set model.path to it")
    else:
        path = script.value(node) if node is not None else None
    if isinstance(path, str) and not isinstance(path, Source):
        draft.set("model.path", path, "the trainer's model")
    else:
        shown = Source(ast.unparse(node)) if node is not None else None
        draft.note("model", shown, "not known before the script runs; set model.path")


def dataset_of(script: Script, node: ast.expr | None, table: str, draft: Draft) -> None:
    """Where a dataset comes from; what the script does to it is listed."""
    links = links_of(script, node)
    loads = [call for call in links if called(call) in ("load_dataset", "load_from_disk")]
    every = script.calls("load_dataset") + script.calls("load_from_disk")
    if not loads and len(every) == 1 and table == "data":
        draft.note("train_dataset", Source(ast.unparse(node)) if node else None, "taken from the one load_dataset call")
        loads = every
        links += script.calls("map") + script.calls("filter")
    if not loads:
        shown = Source(ast.unparse(node)) if node is not None else None
        draft.note("eval_dataset" if table == "evaluate" else "train_dataset", shown, f"set {table}.source")
        return
    loaded(script, loads[0], node, table, draft)
    for call in links:
        if called(call) == "select" and call.args:
            rows = script.meant(call.args[0])
            count = (
                script.value(rows.args[0]) if isinstance(rows, Call) and called(rows) == "range" and rows.args else 0
            )
            if isinstance(count, int) and count > 0 and isinstance(rows, Call) and len(rows.args) == 1:
                draft.set(f"{table}.limit", count, "select(range(...))")
                continue
        if called(call) not in UNCHANGED:
            text = f"{called(call)}({', '.join(ast.unparse(a) for a in call.args)})"
            draft.note("eval_dataset" if table == "evaluate" else "train_dataset", Source(text), MAPPED)


def links_of(script: Script, node: ast.expr | None) -> list[Call]:
    """The calls of a chain, also those of the names that it starts from."""
    found: list[Call] = []
    for _ in range(20):
        node = script.meant(node)
        links = list(chain(node))
        found += [call for call in links if call not in found]
        while node is not None and not isinstance(node, ast.Name):
            node = node.func if isinstance(node, Call) else getattr(node, "value", None)
        if not isinstance(node, ast.Name) or node.id not in script.stands_for:
            break
    return found


def loaded(script: Script, load: Call, node: ast.expr | None, table: str, draft: Draft) -> None:
    """`load_dataset(...)` as a source and a split."""
    given = script.keywords(load, positional=("path", "name"))
    path, name, files = given.get("path"), given.get("name"), given.get("data_files")
    if path in FILES and isinstance(files, dict):
        files = files.get("test" if table == "evaluate" else "train", next(iter(files.values()), None))
    files = files[0] if isinstance(files, list) and files else files
    source = files if path in FILES else path
    if not isinstance(source, str) or isinstance(source, Source) or path in ("csv", "text"):
        shown = Source(ast.unparse(load))
        draft.note("load_dataset", shown, f"JSONL, JSON, Parquet and the Hub are read; set {table}.source")
        return
    hub = isinstance(name, str) and not isinstance(name, Source) and path not in FILES
    draft.set(f"{table}.source", f"{source}:{name}" if hub else source, ast.unparse(load))
    if given.get("revision"):
        draft.set(f"{table}.options", {"revision": given["revision"]}, "load_dataset revision")
    split = given.get("split") or subscript_of(script, node) or "train"
    head, _, rest = str(split).partition("[")
    if rest.startswith(":") and rest[1:-1].isdigit():
        draft.set(f"{table}.limit", int(rest[1:-1]), f"split {split}")
    elif rest:
        draft.note("split", split, f"a part of a split; set {table}.limit, or write that part to a file")
    draft.set(f"{table}.split", head, "")


def subscript_of(script: Script, node: ast.expr | None) -> str:
    """The split of `load_dataset(...)["train"]`, wherever in the chain it stands."""
    node = script.meant(node)
    for _ in range(40):
        if isinstance(node, ast.Subscript):
            split = script.value(node.slice)
            return split if isinstance(split, str) and not isinstance(split, Source) else ""
        if isinstance(node, Call | ast.Attribute):
            inner = node.func if isinstance(node, Call) else node.value
            node = script.meant(inner) if isinstance(inner, ast.Name) else inner
        else:
            return ""
    return ""


def prompts_of(script: Script, draft: Draft) -> None:
    """What the script puts around a prompt, and how its reward functions read the answer."""
    systems = list(system_prompts(script))
    if len(systems) == 1:
        draft.set("data.system", systems[0], "the script's system message")
    elif systems:
        draft.note("system", systems, "several system messages; set data.system")
    if any("####" in text for text in draft.files.values()):
        draft.set("data.options", {"extract": "plain"}, "a reward function takes the answer from a worked solution")
