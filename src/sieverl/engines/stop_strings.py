"""Whether a response has come to a stop string, from its newest tokens.

A character may be spread over several tokens and a token may hold several characters, so the tail is counted in bytes
and decoded, never compared token by token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sieverl.types import Array

CHARACTER = 4  # bytes of UTF-8 at most
SPARE = 8  # tokens that may decode to nothing


def stopped(tokenizer: Any, tokens_BL: Array, stop: Sequence[str]) -> Array:
    """Whether a stop string stands in the newest tokens of each row, bool [B].

    Some tokenizers turn a whole run of bytes into U+FFFD when it begins within a character; a later beginning then is
    right, at most three bytes on.
    """
    window = max(len(s.encode()) for s in stop) + SPARE
    tails = [row[-window:] for row in tokens_BL.tolist()]
    texts = continued(tokenizer, tails)
    found_B = np.array([any(s in text for s in stop) for text in texts])
    for row in np.flatnonzero(~found_B):
        if "\ufffd" in texts[row]:
            later = continued(tokenizer, [tails[row][cut:] for cut in range(1, CHARACTER)])
            found_B[row] = any(s in text for text in later for s in stop)
    return found_B


def continued(tokenizer: Any, rows: Sequence[Sequence[int]]) -> list[str]:
    """The text of tokens as it goes on after other text: a decoder takes a leading space off the start of a text."""
    before = list(tokenizer.encode("a", add_special_tokens=False))
    given = [before, *([*before, *row] for row in rows)]
    start, *texts = tokenizer.batch_decode(given, clean_up_tokenization_spaces=False)
    return [text[len(start) :] for text in texts]
