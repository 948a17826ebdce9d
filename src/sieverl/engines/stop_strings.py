"""Whether a response has reached a stop string, from its newest tokens.

One character may take several tokens and one token may hold several characters, so the last bytes are decoded and the
texts are compared, never the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sieverl.types import BoolArray, IntArray, Tokenizer

CHARACTER = 4  # bytes of UTF-8 at most
SPARE = 8  # tokens that may decode to nothing


def stopped(tokenizer: Tokenizer, tokens_BL: IntArray, stop: Sequence[str]) -> BoolArray:
    """Whether a stop string is in the text of the newest tokens of each response, bool [B].

    Some tokenizers decode a whole run of bytes to U+FFFD when it begins inside a character; then it is decoded again
    from one to three bytes later.
    """
    window = max(len(s.encode()) for s in stop) + SPARE
    tails = [row[-window:] for row in tokens_BL.tolist()]
    texts = decode_continuations(tokenizer, tails)
    found_B = np.array([any(s in text for s in stop) for text in texts])
    for row in np.flatnonzero(~found_B):
        if "\ufffd" in texts[row]:
            later = decode_continuations(tokenizer, [tails[row][cut:] for cut in range(1, CHARACTER)])
            found_B[row] = any(s in text for text in later for s in stop)
    return found_B


def decode_continuations(tokenizer: Tokenizer, responses: Sequence[Sequence[int]]) -> list[str]:
    """The text of tokens as it follows other text: at the start of a text, decoders strip a leading space."""
    before = list(tokenizer.encode("a", add_special_tokens=False))
    given = [before, *([*before, *response] for response in responses)]
    start, *texts = tokenizer.batch_decode(given, clean_up_tokenization_spaces=False)
    return [text[len(start) :] for text in texts]
