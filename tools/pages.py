"""Pages of docs/ with parts that a tool writes."""

from __future__ import annotations

from collections.abc import Mapping


def filled(page: str, parts: Mapping[str, str]) -> str:
    """The page with its parts as the tool gives them, each between `<!-- NAME -->` and `<!-- end -->`."""
    for name, text in parts.items():
        before, found, rest = page.partition(f"<!-- {name} -->\n")
        assert found, f"the page has no place for {name}"
        page = before + found + text.strip("\n") + "\n" + rest[rest.index("<!-- end -->") :]
    return page
