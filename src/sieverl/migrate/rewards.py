"""Reward functions of a TRL script as our verifier: a file with the functions and what they use, and its table."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sieverl.migrate.draft import Draft, Source
from sieverl.migrate.script import Call, Script, called
from sieverl.types import JsonObject

THINK = r"^<think>(?!.*<think>)(.*?)</think>.*$"
OF_TRL: dict[str, JsonObject] = {  # trl.rewards, by our verifiers
    "accuracy_reward": {"name": "math"},
    "reasoning_accuracy_reward": {"name": "math"},
    "think_format_reward": {"name": "regex", "pattern": THINK, "whole": True, "dot_all": True},
}
OVERLONG = 'axes.shape = "overlong" is the penalty of DAPO on the last fifth of rollout.max_tokens'
MODEL = "a reward model is not built in: write a function that asks it, with verify.network where it is a server"
AS_MESSAGES = '''

def as_messages(function):
    """The script made chats of its prompts. Here prompts may be text: completions become messages all the same."""

    @functools.wraps(function)
    def call(**columns):
        chats = [c if isinstance(c, list) else [{"role": "assistant", "content": c}] for c in columns["completions"]]
        return function(**{**columns, "completions": chats})

    return call

'''


class Part(NamedTuple):
    """A reward function of a script: its verifier, or why there is none."""

    shown: str
    verifier: JsonObject | None
    why: str = ""


def rewards_of(script: Script, given: ast.expr | None, file: Path, draft: Draft) -> None:
    """Put the `reward_funcs` of a trainer into [verify], and those that the script defines into `file`."""
    node = script.meant(given)
    listed = node.elts if isinstance(node, ast.List | ast.Tuple) else [given] if given is not None else []
    copied = [item.id for item in listed if isinstance(item, ast.Name) and item.id in definitions(script)]
    parts = [part_of(script, item, file) for item in listed if item is not None]
    if copied:
        draft.files[str(file)] = copy_of(script, copied, draft)
    weigh(parts, draft)


def weigh(parts: Sequence[Part], draft: Draft, weights: object = None) -> None:
    """One verifier, or the weighted sum of several. Those without a verifier are listed."""
    for part in parts:
        if part.why:
            draft.note("reward_funcs", Source(part.shown), part.why)
    weights = weights if weights is not None else draft.values.pop("reward_weights", None)
    known = isinstance(weights, list) and len(weights) == len(parts)
    if weights is not None and not known:
        draft.note("reward_weights", weights, f"not one number for each of {len(parts)} functions; set verify.parts")
    given = weights if known and isinstance(weights, list) else [1.0] * len(parts)
    kept = [(part.verifier, weight) for part, weight in zip(parts, given, strict=True) if part.verifier]
    if not kept:
        draft.set("verify.name", "math", "no reward function could be taken over; docs/verifiers.md has the others")
    elif len(kept) == 1:
        for name, value in kept[0][0].items():
            draft.set(f"verify.{name}", value, "reward_funcs" if name == "name" else "")
    else:
        draft.set("verify.name", "sum", "several reward_funcs; whether a response is correct is said by the first part")
        draft.set("verify.parts", [{**part, "weight": float(weight)} for part, weight in kept], "with reward_weights")


def named(name: str) -> Part:
    """A reward function as `trl grpo` names it: one of TRL's, or a dotted path."""
    if name in OF_TRL:
        return Part(name, OF_TRL[name])
    if name == "get_soft_overlong_punishment":
        return Part(name, None, OVERLONG)
    module, _, function = name.rpartition(".")
    return Part(name, {"name": f"{module}:{function}"}) if module else Part(name, None, MODEL)


def part_of(script: Script, node: ast.expr, file: Path) -> Part:
    """One of the `reward_funcs`."""
    shown = ast.unparse(node)
    if isinstance(node, ast.Name) and node.id in definitions(script):
        return Part(shown, {"name": f"{file}:{node.id}"})
    made = script.meant(node)
    if isinstance(made, Call) and called(made) == "get_soft_overlong_punishment":
        return Part(shown, None, OVERLONG)
    if isinstance(node, ast.Name | ast.Attribute):
        name = node.id if isinstance(node, ast.Name) else node.attr
        module = imported_from(script, node)
        if module == "trl.rewards" or (module == "trl" and name in OF_TRL):
            return named(name)
        if module:
            return Part(shown, {"name": f"{module}:{name}"})
        return Part(shown, None, "not a function at the top of the script; move it there, or to a file of its own")
    if isinstance(node, ast.Constant):
        return Part(shown, None, MODEL)
    return Part(shown, None, "made when the script runs; write it as a function at the top of a file")


def imported_from(script: Script, node: ast.Name | ast.Attribute) -> str:
    """The module that a name is imported from, or an empty string."""
    for found in script.nodes:
        if isinstance(found, ast.ImportFrom) and isinstance(node, ast.Name):
            if not found.level and any((a.asname or a.name) == node.id for a in found.names):
                return found.module or ""
        elif isinstance(found, ast.Import) and isinstance(node, ast.Attribute):
            root = ast.unparse(node.value)
            if any((a.asname or a.name) == root for a in found.names):
                return next(a.name for a in found.names if (a.asname or a.name) == root)
    return ""


def definitions(script: Script) -> dict[str, ast.FunctionDef]:
    """The functions at the top of the script."""
    return {node.name: node for node in script.tree.body if isinstance(node, ast.FunctionDef)}


def bound(statement: ast.stmt) -> set[str]:
    """The names that a statement at the top of the script binds."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    names: set[str] = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
    return names


def copy_of(script: Script, functions: Sequence[str], draft: Draft) -> str:
    """The source of functions, and of the imports, names and functions of the script that they use."""
    top = [(statement, bound(statement)) for statement in script.tree.body if not is_main(statement)]
    todo, taken = set(functions), set[int]()
    while todo:
        name = todo.pop()
        for place, (statement, names) in enumerate(top):
            if name in names and place not in taken:
                taken.add(place)
                todo |= {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)} - names
    kept = [top[place][0] for place in sorted(taken)]
    for statement in kept:
        calls = [node for node in ast.walk(statement) if isinstance(node, Call)]
        if isinstance(statement, ast.Assign | ast.AnnAssign) and any("from_pretrained" in called(c) for c in calls):
            draft.note(
                "reward_funcs", Source(ast.unparse(statement)), "copied: each worker runs this line as it starts"
            )
    chats = speaks_of_roles(script)
    imports = [s for s in kept if isinstance(s, ast.Import | ast.ImportFrom)]
    others = [s for s in kept if not isinstance(s, ast.Import | ast.ImportFrom)]
    lines = [
        f'"""Reward functions of {plain_name(script.path)}, copied by `sieverl init`. They run in the workers."""',
        "",
    ]
    lines += [source(script, statement) for statement in imports if not of_the_future(statement)]
    lines[1:1] = ["", "from __future__ import annotations"] if any(map(of_the_future, script.tree.body)) else []
    lines += ["import functools", AS_MESSAGES.rstrip()] if chats else []
    for statement in others:
        gap = ["", ""] if isinstance(statement, ast.FunctionDef | ast.ClassDef) else []
        lines += [*gap, source(script, statement)]
    lines += ["", ""] + [f"{name} = as_messages({name})" for name in functions] if chats else []
    return "\n".join(lines).rstrip() + "\n"


def plain_name(path: str) -> str:
    """The name of a file as it may stand in a docstring."""
    return re.sub(r"[^\w.-]", "_", Path(path).name)


def of_the_future(statement: ast.stmt) -> bool:
    """Whether it is `from __future__ import ...`, which must come first."""
    return isinstance(statement, ast.ImportFrom) and statement.module == "__future__"


def is_main(statement: ast.stmt) -> bool:
    """Whether it is `if __name__ == "__main__":`."""
    return isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test)


def source(script: Script, statement: ast.stmt) -> str:
    """The lines of a statement, with its decorators and comments."""
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    first = min([statement.lineno, *(node.lineno for node in decorators)])
    return "\n".join(script.text.splitlines()[first - 1 : statement.end_lineno])


def speaks_of_roles(script: Script) -> bool:
    """Whether the script makes messages: then its reward functions get messages, too."""
    keys = [key for node in script.nodes if isinstance(node, ast.Dict) for key in node.keys]
    return any(isinstance(key, ast.Constant) and key.value == "role" for key in keys)


def system_prompts(script: Script) -> Mapping[str, None]:
    """The system messages that the script makes, where they are literals."""
    found: dict[str, None] = {}
    for node in script.nodes:
        message = script.value(node) if isinstance(node, ast.Dict) else None
        if isinstance(message, dict) and message.get("role") == "system":
            content = message.get("content")
            if isinstance(content, str) and not isinstance(content, Source):
                found[content] = None
    return found
