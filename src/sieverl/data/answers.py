"""From what a dataset calls its answer to the gold answer as text: a worked solution, a list, a number, a box."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from sieverl.errors import UsageError, nearest

Extract = Callable[[Any], "str | None"]
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_WORD = re.compile(r"(?<![\\\w])[^\W\d_]{2,}")
_PROSE = 20  # so many words are a worked solution, not an answer
_MARKED = re.compile(r"####|(?:final )?answer:|A:", re.IGNORECASE)
_TARGETS = ("target", "answer", "ground_truth", "final_answer", "value")


def last_boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{...}` (or `\fbox{...}`, `\boxed 5`), braces balanced; None without one.

    >>> last_boxed(r"first \boxed{1}, then $\boxed{\frac{1}{2}}$.")
    '\\frac{1}{2}'
    >>> last_boxed(r"it is $\boxed 5$"), last_boxed(r"never closed: \boxed{5")
    ('5', None)
    """
    starts = list(re.finditer(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*", text))
    if not starts:
        return None
    rest = text[starts[-1].end() :]
    if not rest.startswith("{"):
        bare = re.match(r"[^\s$.,]+", rest)
        return bare[0] if bare else None
    depth = 0
    for mark in re.finditer(r"\\.|[{}]", rest, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(mark[0], 0)
        if depth == 0:
            return rest[1 : mark.start()].strip()
    return None


def plain(value: Any) -> str | None:
    """The value as text: a whole float without its point, a list of one as its item, a dict (verl's) as its target.

    A dict whose target is empty gives what its solution has in the box.

    >>> plain(27.0), plain(["$x$"]), plain([1, 2]), plain({"target": "0", "solution": "..."}), plain("  ")
    ('27', '$x$', '1, 2', '0', None)
    """
    if isinstance(value, dict):
        found = next((text for key in _TARGETS if (text := plain(value.get(key)))), None)
        return found or boxed(value.get("solution"))
    if isinstance(value, list | tuple):
        items = [plain(item) or "" for item in value]
        return ", ".join(items) if items and all(items) else None
    if value is None or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None


def boxed(value: Any) -> str | None:
    """The last box of a worked solution; None when there is none."""
    text = plain(value)
    return (last_boxed(text) or None) if text else None


def after(marker: str) -> Extract:
    """A function that takes what follows the last `marker`, up to the end of that line, thousands commas removed.

    >>> after("####")("16 * 70 = 1120\\n#### 1,120")
    '1120'
    """

    def extract(value: Any) -> str | None:
        _, found, tail = (plain(value) or "").rpartition(marker)
        lines = tail.strip().splitlines()
        return _THOUSANDS.sub("", lines[0]).strip() if found and lines else None

    return extract


def integer(value: Any) -> str | None:
    """A whole number in its usual form: 27.0, "027" and "27" are all "27"; other text as it is."""
    text = plain(value)
    return str(int(text)) if text and re.fullmatch(r"-?\d+", text) else text


def auto(value: Any) -> str | None:
    """What follows `####`, `A:` or `Answer:` in the last of several lines, else the last box, else the text itself.

    None for a worked solution that marks no answer: taken as it is, no response could ever equal it.

    >>> auto("so 3\\n#### 3"), auto("thus \\\\boxed{x^2}."), auto("x^2"), auto(27.0)
    ('3', 'x^2', 'x^2', '27')
    """
    text = plain(value)
    if text is None:
        return None
    lines = text.splitlines()
    if (marked := _MARKED.match(lines[-1])) and (len(lines) > 1 or marked[0] == "####"):
        return after(marked[0])(text)
    if re.search(r"\\(boxed|fbox)\b", text):
        return last_boxed(text) or None
    return text if len(_WORD.findall(text)) < _PROSE else None


def json_list(value: Any) -> str | None:
    """A list written as JSON text, as some published sets have it: '["1", "2"]' is "1, 2"."""
    text = plain(value)
    if text and text.startswith("["):
        try:
            return plain(json.loads(text))
        except json.JSONDecodeError:
            return text
    return text


EXTRACT: dict[str, Extract] = {
    "auto": auto,
    "plain": plain,
    "boxed": boxed,
    "gsm8k": after("####"),
    "integer": integer,
    "json_list": json_list,
}


def extractor(name: str) -> Extract:
    """The extraction of that name, or `after:MARKER`. Raises UsageError for another name.

    >>> extractor("after:A:")("40 + 120\\nA: 160")
    '160'
    """
    kind, _, marker = name.partition(":")
    if kind == "after" and marker:
        return after(marker)
    if name not in EXTRACT:
        raise UsageError(
            f"unknown answer extraction {name!r}; allowed: {', '.join(EXTRACT)}, after:MARKER.{nearest(name, EXTRACT)}"
        )
    return EXTRACT[name]
