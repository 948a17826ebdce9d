"""Which prompts are left out before training, and why. Each filter gives back what it keeps and what it drops."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from sieverl.data.chat import SUFFIXES, Template, render
from sieverl.data.rows import Dropped
from sieverl.types import Prompt, Row, Verdict

Sifted = tuple[list[Prompt], list[Dropped]]


def sift(prompts: Iterable[Prompt], reason: str, fault: Callable[[Prompt], str | None]) -> Sifted:
    """Drops each prompt that `fault` says something about.

    >>> kept, dropped = sift([Prompt(0, "a", {}), Prompt(1, "", {})], "empty", lambda p: None if p.text else "no text")
    >>> [p.id for p in kept], [(d.id, d.reason, d.detail) for d in dropped]
    ([0], [(1, 'empty', 'no text')])
    """
    kept: list[Prompt] = []
    dropped: list[Dropped] = []
    for prompt in prompts:
        detail = fault(prompt)
        if detail is None:
            kept.append(prompt)
        else:
            dropped.append(Dropped(prompt.id, f"row {prompt.id + 1}", reason, detail, prompt.row))
    return kept, dropped


def too_long(prompts: Iterable[Prompt], tokenizer: Any, template: Template, max_tokens: int) -> Sifted:
    """Drops prompts of more than `max_tokens` tokens, counted as the model sees them (chat template and suffix too)."""

    def fault(prompt: Prompt) -> str | None:
        length = len(render(tokenizer, prompt, template))
        return f"{length} tokens, more than {max_tokens}" if length > max_tokens else None

    return sift(prompts, "too long", fault)


def duplicates(prompts: Iterable[Prompt]) -> Sifted:
    """Drops each prompt whose normalised text came before; of several the first is kept.

    >>> rows = [Prompt(0, "What is  2+2?", {"answer": "4"}), Prompt(1, "what is 2+2?", {"answer": "5"})]
    >>> duplicates(rows)[1][0].detail
    "same text as row 1, with the answer '5' instead of '4'"
    """
    first: dict[str, Prompt] = {}

    def fault(prompt: Prompt) -> str | None:
        earlier = first.setdefault(normalise(full_text(prompt)), prompt)
        if earlier is prompt:
            return None
        mine, its = prompt.row.get("answer"), earlier.row.get("answer")
        return f"same text as row {earlier.id + 1}" + (f", with the answer {mine!r} instead of {its!r}" * (mine != its))

    return sift(prompts, "duplicate", fault)


def overlapping(
    prompts: Sequence[Prompt], benchmarks: Mapping[str, Sequence[Prompt]], n: int = 13, common: int = 10
) -> Sifted:
    """Drops prompts that share `n` words in a row with a prompt of a benchmark, or all their text.

    Words are runs of letters and digits in lower case. What more than `common` prompts share with the benchmarks is a
    phrase ("where m and n are relatively prime positive integers") and does not count, unless it makes up over half
    of the benchmark's prompt. After GPT-3 (arXiv 2005.14165, appendix C). A rewording is not found.
    """
    questions = [(f"{name} row {q.id + 1}", full_text(q)) for name, qs in benchmarks.items() for q in qs]
    texts = {normalise(text): where for where, text in reversed(questions)}
    grams = [set(ngrams(text, n)) for _, text in questions]
    index: dict[tuple[str, ...], list[int]] = {}
    for number, found in enumerate(grams):
        for gram in found:
            index.setdefault(gram, []).append(number)
    # In the order of the text, each once, so that the first is named.
    shared = {p.id: list(dict.fromkeys(gram for gram in ngrams(full_text(p), n) if gram in index)) for p in prompts}
    counts = Counter(gram for found in shared.values() for gram in found)

    def fault(prompt: Prompt) -> str | None:
        if where := texts.get(normalise(full_text(prompt))):
            return f"same text as {where}"
        for gram in shared[prompt.id]:
            if counts[gram] <= common:
                return f"shares with {questions[index[gram][0]][0]}: {' '.join(gram)}"
        parts = Counter(number for gram in shared[prompt.id] for number in index[gram])
        most = next((number for number, part in parts.most_common() if 2 * part > len(grams[number])), None)
        return None if most is None else f"has more than half of {questions[most][0]}"

    return sift(prompts, "in a benchmark", fault)


def unverifiable(
    prompts: Sequence[Prompt],
    verdicts: Callable[[Sequence[tuple[str, Row]]], Sequence[Verdict]],
    gold: Callable[[Row], str | None],
) -> Sifted:
    """Drops prompts whose own gold answer the verifier does not accept: no response could be right.

    `gold` writes the response that must be right (None: there is none, and the row is kept), `verdicts` scores them.
    """
    responses = [(prompt, gold(prompt.row)) for prompt in prompts]
    asked = [(prompt, response) for prompt, response in responses if response is not None]
    told = verdicts([(response, prompt.row) for prompt, response in asked])
    failed = {p.id: (response, v) for (p, response), v in zip(asked, told, strict=True) if not v.correct}

    def fault(prompt: Prompt) -> str | None:
        if prompt.id not in failed:
            return None
        response, verdict = failed[prompt.id]
        return f"the verifier says {verdict.status.value} to the gold answer itself, {response[:80]!r}"

    return sift(prompts, "unverifiable", fault)


def full_text(prompt: Prompt) -> str:
    """The text of a prompt with every turn but the system's, less a suffix of `SUFFIXES`."""
    turns = [m["content"] for m in prompt.messages or () if m["role"] != "system"]
    text = "\n\n".join(turns) or prompt.text
    for suffix in SUFFIXES.values():
        text = text.removesuffix(suffix.strip()).rstrip()
    return text


def normalise(text: str) -> str:
    """One form for texts that differ in case, white space or Unicode form only.

    >>> normalise(" What  is\\nx² + 1? ") == normalise("what is x2 + 1?")
    True
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def ngrams(text: str, n: int) -> Iterator[tuple[str, ...]]:
    """Every `n` words in a row, none when there are fewer; the code of figures ([asy]) has no words.

    >>> list(ngrams("Find $x+1$, please. [asy] draw((0,0)); [/asy]", 3))
    [('find', 'x', '1'), ('x', '1', 'please')]
    """
    words = re.findall(r"\w+", re.sub(r"\[asy\].*?\[/asy\]", " ", normalise(text)))
    return zip(*(words[i:] for i in range(n)), strict=False)
