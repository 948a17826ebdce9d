"""The imports of every file of the package, read from its source."""

from __future__ import annotations

import ast
from pathlib import Path

Graph = dict[str, set[str]]


def imports(package: Path) -> Graph:
    """module -> modules of the package that it imports anywhere; those for type checking only are left out."""
    files = {name_of(path, package): path for path in sorted(package.rglob("*.py"))}
    return {name: {m for m in found(path, set(files)) if m in files and m != name} for name, path in files.items()}


def name_of(path: Path, package: Path) -> str:
    parts = [package.name, *path.relative_to(package).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def statements(path: Path) -> list[ast.Import | ast.ImportFrom]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    return [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def found(path: Path, known: set[str]) -> set[str]:
    """What a file imports; `from package import module` is the module, not the package."""
    names: set[str] = set()
    for node in statements(path):
        for alias in node.names:
            whole = f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name
            names.add(whole if whole in known else str(getattr(node, "module", "")))
    return names


def reached(start: str, graph: Graph) -> set[str]:
    """All that `start` imports, and what that imports."""
    seen: set[str] = set()
    todo = list(graph[start])
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += graph[name]
    return seen


def circles(graph: Graph) -> set[tuple[str, ...]]:
    """Groups of modules that import each other."""
    all_reached = {name: reached(name, graph) for name in graph}
    return {
        tuple(sorted(other for other in all_reached[name] if name in all_reached[other]))
        for name in graph
        if name in all_reached[name]
    }


def room(name: str) -> str:
    """The folder of a module, or the module itself where it stands directly in the package."""
    return ".".join(name.split(".")[:2])


def rooms(graph: Graph) -> Graph:
    """The same between folders."""
    out: Graph = {room(name): set() for name in graph}
    for name, others in graph.items():
        out[room(name)] |= {room(other) for other in others} - {room(name)}
    return out
