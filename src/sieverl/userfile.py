"""What users define in Python, an algorithm or a verifier: in a file of theirs, or in the program that trains."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from sieverl.errors import UsageError, nearest
from sieverl.files import user_path

GIVEN = "given:"  # how the name of what a program gave begins
_given: dict[str, object] = {}


def load_file(source: str) -> ModuleType:
    """Import a Python file as a module; it can import the files next to it. Raises whatever the file raises."""
    file = user_path(source).resolve()
    sys.path.append(str(file.parent))
    spec = importlib.util.spec_from_file_location(f"sieverl_user_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def give(value: object, name: str) -> str:
    """Keep a function or an algorithm of this program, and return the name by which a recipe names it.

    >>> found = give(len, "<lambda>")
    >>> found, given(found) is len
    ('given:lambda', True)
    """
    name = "".join(letter for letter in name if letter.isalnum() or letter == "_") or "nameless"
    _given[name] = value
    return f"{GIVEN}{name}"


def given(path: str) -> object:
    """What this program gave under a name. Raises a UsageError where it gave nothing of that name."""
    name = path.removeprefix(GIVEN)
    if name not in _given:
        raise UsageError(
            f"{path} was given by a Python program, and this one gave {', '.join(_given) or 'nothing'}."
            f"{nearest(name, _given)} Call sieverl.train with it again, or put it in a file: FILE.py:{name}"
        )
    return _given[name]
