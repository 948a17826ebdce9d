"""Extract the gold answer, as text, from the answer column of a dataset: a worked solution, a list, a number, a box."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from sieverl.errors import UsageError, nearest
from sieverl.verify.extract import boxes_in

Extract = Callable[[object], str | None]  # (value of the answer column) -> gold answer, or None if it has none
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_WORD = re.compile(r"(?<![\\\w])[^\W\d_]{2,}")
_PROSE = 20  # a text of this many words is a worked solution, not an answer
_MARKED = re.compile(r"####|(?:final )?answer:|A:", re.IGNORECASE)
_TARGET_KEYS = ("target", "answer", "ground_truth", "final_answer", "value")


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` (or `\fbox{...}`, `\boxed 5`) of a solution; None without one.

    None also if it is empty or never closed: earlier boxes are intermediate results.

    >>> last_boxed(r"first \boxed{1}, then $\boxed{\frac{1}{2}}$.")
    '\\frac{1}{2}'
    >>> last_boxed(r"it is $\boxed 5$"), last_boxed(r"\boxed{4}, never closed: \boxed{5")
    ('5', None)
    """
    boxes = boxes_in(text, in_solution=True)
    return boxes[-1].content or None if boxes else None


def plain(value: object) -> str | None:
    """The value as text: a whole float without its decimal point, a list of one as its item, verl's dict as its target.

    A dict without a target gives the last box of its solution.

    >>> plain(27.0), plain(["$x$"]), plain([1, 2]), plain({"target": "0", "solution": "..."}), plain("  ")
    ('27', '$x$', '1, 2', '0', None)
    """
    if isinstance(value, dict):
        found = next((text for key in _TARGET_KEYS if (text := plain(value.get(key)))), None)
        return found or boxed_answer(value.get("solution"))
    if isinstance(value, list | tuple):
        items = [plain(item) or "" for item in value]
        return ", ".join(items) if items and all(items) else None
    if value is None or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None


def boxed_answer(value: object) -> str | None:
    """The content of the last box of a worked solution; None if there is none."""
    text = plain(value)
    return last_boxed(text) if text else None


def after(marker: str) -> Extract:
    """An extraction of what follows the last `marker`, to the end of its line, without thousands separators.

    >>> after("####")("16 * 70 = 1120\\n#### 1,120")
    '1120'
    """

    def extract(value: object) -> str | None:
        _, found, tail = (plain(value) or "").rpartition(marker)
        lines = tail.strip().splitlines()
        return _THOUSANDS.sub("", lines[0]).strip() if found and lines else None

    return extract


def integer(value: object) -> str | None:
    """A whole number in its usual form: 27.0, "027" and "27" are all "27"; any other text is left unchanged."""
    text = plain(value)
    return str(int(text)) if text and re.fullmatch(r"-?\d+", text) else text


def auto(value: object) -> str | None:
    """What follows `####`, `A:` or `Answer:` in the last line, else the content of the last box, else the whole text.

    `A:` and `Answer:` count in a text of several lines only. None for a worked solution that marks no answer, since no
    response could ever equal it.

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
        return last_boxed(text)
    return text if len(_WORD.findall(text)) < _PROSE else None


def json_list(value: object) -> str | None:
    """The items of a list that is written as JSON text, as in some published datasets: '["1", "2"]' is "1, 2"."""
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
    "boxed": boxed_answer,
    "gsm8k": after("####"),
    "integer": integer,
    "json_list": json_list,
}


def extractor(name: str) -> Extract:
    """The extraction of this name, or `after:MARKER`. Raises UsageError for an unknown name.

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
