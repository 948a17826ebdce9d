"""The tokens of a response with a number each, cut so that they can be coloured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

REPLACEMENT = "\ufffd"  # what half of a character decodes to
LONGEST = 8  # tokens that may make up one character
STEPS = 5  # shades on each side of zero


class Decoder(Protocol):
    """What is used of `tokenizers.Tokenizer`."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...


@dataclass(frozen=True)
class Piece:
    """Some text, the number of the first token in it, and its value and shade; shades are from -5 to 5, 0 is plain."""

    text: str
    first: int
    value: float | None
    shade: int


def pieces(decoder: Decoder, ids: Sequence[int]) -> list[tuple[str, int, int]]:
    """(text, first token, number of tokens) of a response, several tokens together where one is half a character."""
    out: list[tuple[str, int, int]] = []
    start, before = 0, 0
    for end in range(1, len(ids) + 1):
        context = decoder.decode(ids[before:start], skip_special_tokens=False) if start > before else ""
        text = decoder.decode(ids[before:end], skip_special_tokens=False)[len(context) :]
        if text.endswith(REPLACEMENT) and end - start < LONGEST and end < len(ids):
            continue
        out.append((text, start, end - start))
        before, start = start, end
    return out


Values = Callable[[Mapping[str, Any]], Sequence[float] | None]  # the values of a response's tokens; None where unknown


def _differences(row: Mapping[str, Any]) -> list[float] | None:
    ours, theirs = row.get("learner_logp"), row.get("engine_logp")
    if not ours or not theirs or len(ours) != len(theirs):
        return None
    return [a - b for a, b in zip(ours, theirs, strict=True)]


def _ratios(row: Mapping[str, Any]) -> list[float] | None:
    found = _differences(row)
    return None if found is None else [math.exp(min(x, 50.0)) for x in found]


def _advantages(row: Mapping[str, Any]) -> list[float] | None:
    return None if row.get("advantage") is None else [row["advantage"]] * len(row.get("tokens") or ())


@dataclass(frozen=True)
class Colour:
    """One way of colouring: its label, what it means, the values, and the value from which on the shade is full."""

    label: str
    about: str
    values: Values
    full: float
    neutral: float = 0.0


COLOURS: dict[str, Colour] = {
    "engine": Colour(
        "log-prob", "of the token as it was sampled: red is a surprise", lambda row: row["engine_logp"], 4
    ),
    "learner": Colour("log-prob, learner", "as the learner computed it", lambda row: row["learner_logp"], 4),
    "advantage": Colour("advantage", "of the response: blue is made likelier, red less likely", _advantages, 1),
    "ratio": Colour("ratio", "of the learner's to the engine's probability: 1 is the same", _ratios, 0.2, 1.0),
    "mismatch": Colour("engine mismatch", "learner's less engine's log-prob; 0 is the same", _differences, 0.1),
}


def coloured(decoder: Decoder, row: Mapping[str, Any], name: str) -> list[Piece]:
    """The pieces of a response, shaded by the colouring `name`; plain where its values are not known."""
    colour = COLOURS[name]
    cut = pieces(decoder, row.get("tokens") or ())
    values = colour.values(row)
    if values is None or len(values) != len(row.get("tokens") or ()):
        return [Piece(text, first, None, 0) for text, first, _ in cut]
    out = []
    for text, first, count in cut:
        some = values[first : first + count]
        value = max(some, key=lambda x: abs(x - colour.neutral))
        out.append(Piece(text, first, value, shade(value - colour.neutral, colour.full)))
    return out


def shade(value: float, full: float) -> int:
    """From -5 to 5: how strongly a value is shown that is full from `full` on.

    >>> [shade(x, 4.0) for x in (0.0, -0.1, -2.0, -9.0, 4.0)]
    [0, 0, -3, -5, 5]
    """
    if not math.isfinite(value):
        return 0
    return max(-STEPS, min(STEPS, math.floor(abs(value) / full * STEPS + 0.5) * (1 if value > 0 else -1)))
