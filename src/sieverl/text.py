"""Text that others wrote, made safe to store and to print."""

from __future__ import annotations

import re

# What moves the cursor, sets a title or a link, hides text, or shows it in another order: control characters but for
# newline and tab, line separators, marks of direction, tags, and half characters (lone surrogates).
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The text with every character that steers a terminal or hides text written as its escape.

    >>> printable("a\x1b]0;title\x07b\u202e"), printable("two\nlines")
    ('a\\x1b]0;title\\x07b\\u202e', 'two\nlines')
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def storable(text: str) -> str:
    r"""The text with U+FFFD for each lone surrogate, which UTF-8 (and so Parquet and every tokenizer) cannot hold.

    >>> storable("a\ud800b").encode()
    b'a\xef\xbf\xbdb'
    """
    return _SURROGATE.sub("\ufffd", text)
