"""Load a Python file of the user's: an algorithm, a verifier."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load_file(source: str) -> ModuleType:
    """The module of a Python file; files beside it can be imported from it. Raises whatever the file raises."""
    file = Path(source).expanduser().resolve()
    sys.path.append(str(file.parent))
    found = importlib.util.spec_from_file_location(f"sieverl_user_{file.stem}", file)
    if found is None or found.loader is None:
        raise FileNotFoundError(file)
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module
