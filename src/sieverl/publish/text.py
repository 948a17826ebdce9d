"""Text on a page that anybody may read: escaped, and without the places of a machine."""

from __future__ import annotations

import html
import re
from pathlib import Path

from sieverl.text import printable

HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
SECRET = re.compile(r"\b(?:hf_|sk-|ghp_|gho_|github_pat_|xox[abp]-|AKIA)[\w-]{8,}")
PLACE = re.compile(r"(?:~|(?<![\w:/.])(?:[A-Za-z]:)?)[/\\](?:[^\s/\\'\"<>|]+[/\\])+(?=[^\s/\\'\"<>|])")
LONGEST = 2000


def hub_id(path: str) -> str | None:
    """The path of a model if it is a Hub id, and no folder.

    >>> hub_id("Qwen/Qwen2.5-0.5B"), hub_id("/data/qwen"), hub_id("")
    ('Qwen/Qwen2.5-0.5B', None, None)
    """
    return path if HUB.fullmatch(path) and not Path(path).exists() else None


def name_only(text: str) -> str:
    r"""The last part of a path; anything else as it is.

    >>> name_only("/home/me/mine.py:hard"), name_only("C:\\Users\\me\\mine.py:hard"), name_only("math")
    ('mine.py:hard', 'mine.py:hard', 'math')
    """
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1]


def without_places(text: str) -> str:
    """The text with the folders of each path, and whatever looks like a token of a service, taken out.

    >>> without_places("read /home/me/data/x.json with hf_abcdefghijkl and/or https://example.org/a/b")
    'read x.json with [left out] and/or https://example.org/a/b'
    """
    return SECRET.sub("[left out]", PLACE.sub("", text))


def cut(text: str) -> str:
    """The text without places, cut where it is long."""
    return without_places(text[:LONGEST]) + (" [...]" if len(text) > LONGEST else "")


def inline(text: object) -> str:
    """A text in one line of Markdown, in which nothing is markup.

    >>> inline("a|b <script> [x](javascript:y)")
    'a&#124;b &lt;script&gt; &#91;x&#93;(javascript:y)'
    """
    line = " ".join(printable(without_places(str(text))).split())[:300]
    return re.sub(r"[|\[\]*_`~#\\!{}$]", lambda found: f"&#{ord(found[0])};", html.escape(line, quote=False))


def code(text: str, language: str = "") -> str:
    """A block of code whose fence is longer than any in the text.

    >>> code("a ``` b")
    '````\\na ``` b\\n````'
    """
    text = printable(text).rstrip("\n")
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
