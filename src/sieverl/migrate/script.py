"""Read a Python script by its syntax tree. Nothing of it runs: values are literals, and names that are one once."""

from __future__ import annotations

import ast
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sieverl.errors import UsageError, first_line
from sieverl.migrate.draft import Source

LARGEST = 2_000_000  # bytes of a script or a configuration
DEEPEST = 40  # names that stand for names
NUMBERS = {
    ast.Add: "__add__",
    ast.Sub: "__sub__",
    ast.Mult: "__mul__",
    ast.Div: "__truediv__",
    ast.FloorDiv: "__floordiv__",
}
Call = ast.Call


def read_text(path: Path) -> str:
    """The text of a script or a configuration. Raises a UsageError for a file that can be neither."""
    if not path.is_file():
        raise UsageError(f"there is no file {path}; give a TRL script (.py), a YAML file of TRL or verl, or verl's .sh")
    if path.stat().st_size > LARGEST:
        raise UsageError(
            f"{path} has {path.stat().st_size:,} bytes; a script or a configuration has {LARGEST:,} at most"
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {first_line(error)}") from error


class Script:
    """A script's tree, and what its names stand for."""

    def __init__(self, text: str, path: str) -> None:
        """Raises a UsageError, with the line, for text that is not Python."""
        try:
            self.tree = ast.parse(text)
            nodes = list(ast.walk(self.tree))
        except SyntaxError as error:
            raise UsageError(f"{path}:{error.lineno or 1} is not Python that can be read here: {error.msg}") from error
        except (ValueError, RecursionError, MemoryError) as error:  # null bytes; thousands of brackets
            raise UsageError(f"{path} is not Python that can be read here: {first_line(error)}") from error
        self.text, self.path, self.nodes = text, path, nodes
        self.stands_for = self._names()

    def _names(self) -> dict[str, ast.expr]:
        """Names that are bound once in the whole file, with the expression they are bound to."""
        bound: Counter[str] = Counter()
        value: dict[str, ast.expr] = {}
        for node in self.nodes:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
                bound[node.id] += 1
            elif isinstance(node, ast.arg):
                bound[node.arg] += 1
            elif isinstance(node, ast.alias):
                bound[(node.asname or node.name).partition(".")[0]] += 1
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                bound[node.name] += 1
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                value[node.targets[0].id] = node.value
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
                value[node.target.id] = node.value
            elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
                bound[node.target.id] += 1
        return {name: node for name, node in value.items() if bound[name] == 1}

    def calls(self, name: str) -> list[Call]:
        """The calls of something of that name, `trl.NAME(...)` too, in the order of the file."""
        found = [node for node in self.nodes if isinstance(node, Call) and called(node) == name]
        return sorted(found, key=lambda call: (call.lineno, call.col_offset))

    def meant(self, node: ast.expr | None) -> ast.expr | None:
        """What a name stands for, if it is bound once; any other expression is itself."""
        for _ in range(DEEPEST):
            if not isinstance(node, ast.Name) or node.id not in self.stands_for:
                return node
            node = self.stands_for[node.id]
        return node

    def value(self, node: ast.expr, depth: int = 0) -> object:
        """The value of an expression, or its source text. Keys of a dict are known, its values may be source text."""
        if depth > DEEPEST:
            return Source(ast.unparse(node)[:200])
        found = self._value(node, depth + 1)
        return Source(ast.unparse(node)) if found is Ellipsis else found

    def _value(self, node: ast.expr, depth: int) -> object:
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, str | int | float | bool | None) else Ellipsis
        if isinstance(node, ast.Name) and node.id in self.stands_for:
            found = self.value(self.stands_for[node.id], depth)
            return Ellipsis if isinstance(found, Source) else found
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            items = [self.value(item, depth) for item in node.elts]
            return Ellipsis if any(isinstance(item, Source) for item in items) else items
        if isinstance(node, ast.Dict):
            names = [self.value(key, depth) if key else Ellipsis for key in node.keys]
            if not all(isinstance(name, str) and not isinstance(name, Source) for name in names):
                return Ellipsis
            return {str(name): self.value(value, depth) for name, value in zip(names, node.values, strict=True)}
        if isinstance(node, ast.UnaryOp | ast.BinOp | ast.JoinedStr | ast.Attribute):
            return self._computed(node, depth)
        if isinstance(node, Call) and called(node) == "dict" and not node.args:
            return {word.arg: self.value(word.value, depth) for word in node.keywords if word.arg}
        return Ellipsis

    def _computed(self, node: ast.expr, depth: int) -> object:
        """Signs, sums and products of numbers, sums of text, f-strings, `torch.bfloat16`."""
        if isinstance(node, ast.Attribute):
            return node.attr if isinstance(node.value, ast.Name) and node.value.id == "torch" else Ellipsis
        if isinstance(node, ast.UnaryOp):
            number = self.value(node.operand, depth)
            negative = isinstance(node.op, ast.USub) and isinstance(number, int | float)
            return -number if negative and isinstance(number, int | float) else Ellipsis
        if isinstance(node, ast.JoinedStr):
            parts = [self.value(p.value if isinstance(p, ast.FormattedValue) else p, depth) for p in node.values]
            plain = all(isinstance(p, str | int) and not isinstance(p, Source) for p in parts)
            return "".join(map(str, parts)) if plain else Ellipsis
        assert isinstance(node, ast.BinOp)
        left, right = self.value(node.left, depth), self.value(node.right, depth)
        if isinstance(left, Source) or isinstance(right, Source):
            return Ellipsis
        if isinstance(left, str) and isinstance(right, str) and isinstance(node.op, ast.Add):
            return (left + right)[:100_000]
        numbers = all(isinstance(v, int | float) and abs(v) < 1e15 for v in (left, right))
        if not numbers or type(node.op) not in NUMBERS or (right == 0 and isinstance(node.op, ast.Div | ast.FloorDiv)):
            return Ellipsis
        found = getattr(left, NUMBERS[type(node.op)])(right)
        return getattr(float(str(left)), NUMBERS[type(node.op)])(right) if found is NotImplemented else found

    def keywords(self, call: Call, positional: tuple[str, ...] = ()) -> dict[str, object]:
        """The arguments of a call by name, `**` of a literal dict included; `positional` names the first ones."""
        given: dict[str, object] = {}
        for name, argument in zip(positional, call.args, strict=False):
            given[name] = self.value(argument)
        for word in call.keywords:
            value = self.value(word.value)
            if word.arg:
                given[word.arg] = value
            else:
                given |= value if isinstance(value, dict) else {f"**{value}": Source(str(value))}
        return given


def called(call: Call) -> str:
    """The last part of what is called: `load_dataset` of `datasets.load_dataset(...)`."""
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def argument(call: Call, name: str, place: int | None = None) -> ast.expr | None:
    """An argument by its name, or by its place."""
    for word in call.keywords:
        if word.arg == name:
            return word.value
    return call.args[place] if place is not None and place < len(call.args) else None


def chain(node: ast.expr | None) -> Iterator[Call]:
    """The calls of `f(...).g(...).h(...)`, the last one first; subscripts between them are passed over."""
    while node is not None:
        if isinstance(node, Call):
            yield node
            node = node.func.value if isinstance(node.func, ast.Attribute) else None
        elif isinstance(node, ast.Subscript | ast.Attribute):
            node = node.value
        else:
            return


def notebook(text: str, path: str) -> str:
    """The Python of a Jupyter notebook, without the lines that are commands."""
    import json

    try:
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        lines = [line for cell in cells for line in "".join(cell["source"]).splitlines()]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path} is no Jupyter notebook: {first_line(error)}") from error
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!"))) + os.linesep
