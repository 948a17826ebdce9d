"""The answer that a response votes for in maj@k."""

from __future__ import annotations

from typing import Any

import pytest

from sieverl.evaluation.votes import answer_reader


@pytest.mark.parametrize(
    ("spec", "texts"),
    [
        ({"name": "math"}, [r"\boxed{1,200}", r"\boxed{1200.0}", "so it is 1200", r"it is $1200$ \text{cm}"]),
        ({"name": "math", "rules": "lenient"}, [r"\boxed{\dfrac{x}{2}}", r"thus $\frac{x}{2}$.", r"\(\frac{x}{2}\)"]),
        ({"name": "math", "after": "A:"}, ["5, 6\nA: 7", r"A: \boxed{7}", "A: 7.0"]),
        ({"name": "math", "boxes": "first"}, [r"\boxed{1} \boxed{2}", r"\boxed{1} \boxed{3}"]),
        ({"name": "choice"}, ["The answer is (B).", r"\boxed{\text{B}}", "2 of 3: option B"]),
        ({"name": "string"}, ["New  York", r"\boxed{new york}"]),
        ({"name": "reasoning_gym"}, ["<answer>3 1</answer>", "hm <answer> 3 1</answer>"]),
        ({"name": "sum", "parts": [{"name": "number"}]}, ["4 apples", r"\boxed{4}"]),
        ({"name": "mine.py:reward"}, ["first 3, then 4", "4"]),
    ],
)
def test_answers_that_look_alike_vote_together(spec: dict[str, Any], texts: list[str]) -> None:
    read = answer_reader(spec)
    assert len({read(text) for text in texts}) == 1
    assert read(texts[0]) is not None
    assert read("") is None


def test_answers_that_differ_vote_apart() -> None:
    read = answer_reader({"name": "math"})
    texts = ["", r"\boxed{3}", r"\boxed{-3}", r"\boxed{x^2}", r"\boxed{x^3}", r"$x^2+1$ or 1", r"\boxed{(1,2)}"]
    texts += [r"\boxed{" + "7" * 5000 + "}", r"\boxed{" + "7" * 5001 + "}"]
    assert len({read(text) for text in texts}) == len(texts)
