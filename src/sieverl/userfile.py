"""Import a user's Python file, which defines an algorithm or a verifier."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load_file(source: str) -> ModuleType:
    """Import a Python file as a module; it can import the files next to it. Raises whatever the file raises."""
    file = Path(source).expanduser().resolve()
    sys.path.append(str(file.parent))
    spec = importlib.util.spec_from_file_location(f"sieverl_user_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
