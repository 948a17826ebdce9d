"""Filters that drop prompts before training. Each returns the prompts that it keeps and the rows that it drops."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from sieverl.data.chat import SUFFIXES, Template, render_all
from sieverl.data.rows import Dropped
from sieverl.types import Prompt, Row, Tokenizer, Verdict

Sifted = tuple[list[Prompt], list[Dropped]]


def sift(prompts: Iterable[Prompt], reason: str, fault: Callable[[Prompt], str | None]) -> Sifted:
    """Drops each prompt in which `fault` finds a fault, which it returns as text; `reason` is the name of this filter.

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


def too_long(prompts: Iterable[Prompt], tokenizer: Tokenizer, template: Template, max_tokens: int) -> Sifted:
    """Drops prompts of more than `max_tokens` tokens, counted with the chat template and the suffix."""

    prompts = list(prompts)
    tokens = render_all(tokenizer, prompts, template)
    lengths = {prompt.id: len(ids) for prompt, ids in zip(prompts, tokens, strict=True)}

    def fault(prompt: Prompt) -> str | None:
        length = lengths[prompt.id]
        return f"{length} tokens, more than {max_tokens}" if length > max_tokens else None

    return sift(prompts, "too long", fault)


def duplicates(prompts: Iterable[Prompt]) -> Sifted:
    """Drops each prompt that has the same normalised text as an earlier one.

    >>> rows = [Prompt(0, "What is  2+2?", {"answer": "4"}), Prompt(1, "what is 2+2?", {"answer": "5"})]
    >>> duplicates(rows)[1][0].detail
    "same text as row 1, with the answer '5' instead of '4'"
    """
    first: dict[str, Prompt] = {}

    def fault(prompt: Prompt) -> str | None:
        earlier = first.setdefault(normalise(full_text(prompt)), prompt)
        if earlier is prompt:
            return None
        answer, first_answer = prompt.row.get("answer"), earlier.row.get("answer")
        same = f"same text as row {earlier.id + 1}"
        return same if answer == first_answer else f"{same}, with the answer {answer!r} instead of {first_answer!r}"

    return sift(prompts, "duplicate", fault)


def overlapping(
    prompts: Sequence[Prompt], benchmarks: Mapping[str, Sequence[Prompt]], n: int = 13, common: int = 10
) -> Sifted:
    """Drops prompts that share `n` consecutive words, or the whole text, with a prompt of a benchmark.

    Words are runs of letters and digits in lower case. An n-gram that more than `common` prompts share with the
    benchmarks is a common phrase ("where m and n are relatively prime positive integers") and does not count, unless
    such n-grams are over half of the benchmark's prompt. The method is GPT-3's (arXiv 2005.14165, appendix C);
    it does not find a benchmark's question in other words.
    """
    questions = [(f"{name} row {q.id + 1}", full_text(q)) for name, qs in benchmarks.items() for q in qs]
    texts = {normalise(text): where for where, text in reversed(questions)}
    grams = [set(ngrams(text, n)) for _, text in questions]
    index: dict[tuple[str, ...], list[int]] = {}
    for number, found in enumerate(grams):
        for gram in found:
            index.setdefault(gram, []).append(number)
    # in the order of the text and without repetitions, so that the first one is named
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
    """Drops prompts whose own gold answer the verifier does not accept, since no response could be correct.

    `gold` writes a response that must be correct, or returns None if it cannot; then the prompt is kept. `verdicts`
    verifies (response, row) pairs.
    """
    responses = [(prompt, gold(prompt.row)) for prompt in prompts]
    asked = [(prompt, response) for prompt, response in responses if response is not None]
    found = verdicts([(response, prompt.row) for prompt, response in asked])
    failed = {p.id: (response, v) for (p, response), v in zip(asked, found, strict=True) if not v.correct}

    def fault(prompt: Prompt) -> str | None:
        if prompt.id not in failed:
            return None
        response, verdict = failed[prompt.id]
        return f"the verifier says {verdict.status.value} to the gold answer itself, {response[:80]!r}"

    return sift(prompts, "unverifiable", fault)


def full_text(prompt: Prompt) -> str:
    """The text of a prompt: all its messages but the system prompt, without a suffix of `SUFFIXES`."""
    turns = [m["content"] for m in prompt.messages or () if m["role"] != "system"]
    text = "\n\n".join(turns) or prompt.text
    for suffix in SUFFIXES.values():
        text = text.removesuffix(suffix.strip()).rstrip()
    return text


def normalise(text: str) -> str:
    """The same text for texts that differ only in case, white space or Unicode form.

    >>> normalise(" What  is\\nx² + 1? ") == normalise("what is x2 + 1?")
    True
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def ngrams(text: str, n: int) -> Iterator[tuple[str, ...]]:
    """All runs of `n` consecutive words; the code of figures ([asy]) does not count.

    >>> list(ngrams("Find $x+1$, please. [asy] draw((0,0)); [/asy]", 3))
    [('find', 'x', '1'), ('x', '1', 'please')]
    """
    words = re.findall(r"\w+", re.sub(r"\[asy\].*?\[/asy\]", " ", normalise(text)))
    return zip(*(words[i:] for i in range(n)), strict=False)
