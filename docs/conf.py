"""How `make docs` builds the site: the pages of this folder, and the Python reference from the docstrings."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from typing import Any

import sieverl

project = "SieveRL"
release = version = sieverl.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
myst_heading_anchors = 4  # links to headings are those of code hosts

html_theme = "furo"
html_title = f"SieveRL {release}"
html_copy_source = False

default_role = "code"  # a docstring's `name` is code, as in Markdown
add_module_names = False
python_maximum_signature_line_length = 100
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
ALIASES = ("ArrayLike", "FloatArray", "IntArray", "BoolArray", "FloatR", "IntR", "BoolR", "FloatT", "IntT", "IntS")
autodoc_type_aliases = {name: name for name in ALIASES}


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", readable)
    app.connect("autodoc-process-docstring", list_fields)
    app.connect("autodoc-skip-member", is_field)
    app.connect("include-read", to_pages)


# --- a class is a list of its fields, with types and defaults as they stand in the source -------------


def readable(app: object, what: str, name: str, obj: Any, options: object, signature: str, returns: str) -> Any:
    """No signature of a class, since its fields are listed below; names of types as they stand in the source."""
    if what == "class" and (is_dataclass(obj) or issubclass(obj, Enum)):
        return "", None
    return (re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", signature), returns) if signature else None


def list_fields(app: object, what: str, name: str, obj: Any, options: object, lines: list[str]) -> None:
    """Add the fields to the docstring."""
    if what == "class" and is_dataclass(obj):
        lines += ["", *(f"* ``{field.name}: {field.type}{default(field)}``" for field in fields(obj)), ""]
    if what == "class" and issubclass(obj, Enum):
        lines += ["", *(f"* ``{member.name} = {member.value!r}``" for member in obj), ""]


def default(field: Field[Any]) -> str:
    """The default of a field: the name of a function or value that has one, else the value."""
    if field.default is MISSING:
        return "" if field.default_factory is MISSING else f" = {field.default_factory.__name__}()"
    value = field.default
    return f" = {getattr(value, '__name__', None) or getattr(value, 'name', None) or repr(value)}"


def is_field(app: object, what: str, name: str, member: Any, skip: bool, options: object) -> bool | None:
    """Leave out of a class what is no method or property of its own: defaults of fields, functions among them."""
    own = isinstance(member, property) or "." in getattr(member, "__qualname__", "")
    return True if what == "class" and not own and not inspect.isclass(member) else None


# --- pages of the repository that the site includes ---------------------------------------------------


def to_pages(app: object, path: object, parent: object, content: list[str]) -> None:
    """Links from one of them to another lead to its page here."""
    content[0] = re.sub(
        r"\]\((CONTRIBUTING|CHANGELOG|SECURITY)\.md",
        lambda found: f"](docs/{PLACES[found[1]]}.md",
        content[0],
    )


PLACES = {"CONTRIBUTING": "contributing", "CHANGELOG": "changelog", "SECURITY": "security-policy"}
