"""Nothing that a model wrote is evaluated as Python, by us or by a library that a verifier calls.

SymPy's parser turns text into Python and evaluates it with all builtins, and some of reasoning-gym's scorers call
`eval` on the answer. In a worker both get a checked version: arithmetic, lists and SymPy's own functions, no more.
"""

from __future__ import annotations

import ast
import importlib
import operator
import sys
from collections.abc import Callable, Mapping
from typing import Any

OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow, ast.LShift: operator.lshift,
    ast.RShift: operator.rshift, ast.BitOr: operator.or_, ast.BitXor: operator.xor, ast.BitAnd: operator.and_,
    ast.UAdd: operator.pos, ast.USub: operator.neg, ast.Invert: operator.invert,
}  # fmt: skip
# What code of SymPy's parser consists of, beside names and calls, which are looked at one by one.
EXPRESSION = (
    *(ast.Expression, ast.Constant, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.Tuple, ast.List, ast.Load),
    *(ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.keyword),
)
# Functions of SymPy that are no classes and compute on expressions alone.
FUNCTIONS = ("sqrt", "cbrt", "root", "real_root", "diff", "integrate", "limit", "expand")
LONGEST = 10_000  # characters


class RefusedError(ValueError):
    """Text that is not an expression of the kind that is evaluated."""


def evaluate(text: str) -> Any:
    """The value of a literal, a list of them, or arithmetic of numbers: what reasoning-gym's scorers use `eval` for.

    >>> evaluate("[1, 'a', (2.5, -3)]"), evaluate("(0x10 << 2) + 1")
    ([1, 'a', (2.5, -3)], 65)
    >>> evaluate("__import__('os')")
    Traceback (most recent call last):
    sieverl.verify.guard.RefusedError: not a literal: Call
    """
    if len(text) > LONGEST:
        raise RefusedError(f"longer than {LONGEST} characters")
    return _value(ast.parse(text.strip(), mode="eval").body)


def _value(node: ast.AST) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.List):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(item) for item in node.elts)
    if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.operand))
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise RefusedError(f"not a literal: {type(node).__name__}")


def check_code(code: str, *names: Mapping[str, object] | None) -> None:
    """Refuse code of SymPy's parser that is more than operators and calls of SymPy's classes. Raises RefusedError."""
    basic = importlib.import_module("sympy").Basic
    if len(code) > LONGEST:
        raise RefusedError(f"longer than {LONGEST} characters")
    for node in ast.walk(ast.parse(code.strip(), mode="eval")):
        if isinstance(node, ast.Call):
            target = node.func.func if isinstance(node.func, ast.Call) else node.func  # Function('f')(x)
            name = target.id if isinstance(target, ast.Name) else ""
            found = next((table[name] for table in names if table and name in table), None)
            if name not in FUNCTIONS and not (isinstance(found, type) and issubclass(found, basic)):
                raise RefusedError(f"it calls {name or 'what has no name'}, which is no function of mathematics")
        elif isinstance(node, ast.Name):
            if node.id.startswith("_"):
                raise RefusedError(f"it uses the name {node.id[:40]}")
        elif not isinstance(node, EXPRESSION):
            raise RefusedError(f"it is no expression of mathematics: {type(node).__name__}")


def guard_sympy() -> None:
    """Check whatever SymPy's parser is about to evaluate, whoever called it, for the rest of this process."""
    parser: Any = importlib.import_module("sympy.parsing.sympy_parser")
    if getattr(parser.stringify_expr, "checked", False):
        return
    original = parser.stringify_expr

    def stringify_expr(s: str, local_dict: Any, global_dict: Any, transformations: Any) -> str:
        code: str = original(s, local_dict, global_dict, transformations)
        check_code(code, local_dict, global_dict)
        return code

    vars(stringify_expr)["checked"] = True
    parser.stringify_expr = stringify_expr


def guard_reasoning_gym() -> None:
    """Give every loaded module of reasoning-gym an `eval` that is `evaluate`, and guard SymPy's parser."""
    guard_sympy()
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "reasoning_gym":
            vars(module)["eval"] = evaluate
