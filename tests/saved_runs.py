"""Run directories for tests of displays: made row by row, without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sieverl.run_dir.rollouts import RolloutRow, write_rollouts

HOSTILE = (
    "<script>document.title='ran'</script>",
    "<img src=x onerror=\"document.title='ran'\">",
    "</p></li></ol><svg onload=document.title='ran'>",
    '" onmouseover="document.title=\'ran\'" x="',
    "javascript:document.title='ran'",
    "[click](javascript:alert(1)) {{ 7*7 }} {% include '/etc/passwd' %} ${7*7}",
    "<iframe src='https://example.com'></iframe><link rel=stylesheet href=https://example.com/x.css>",
    "\x1b]0;title\x07\x1b[2J\u202eesrever\u2066",
    "<!--</title><base href=https://example.com>",
    r"$\href{javascript:alert(1)}{x}$ $\includegraphics{https://example.com/x.png}$ \(\htmlData{a=b}{x}\)",
    r"$\def\a{\a\a}\a$ $\rule{9999em}{9999em}$ \boxed{" + "{" * 500 + "}",
    "\u200b\ufeff&lt;script&gt;&#x3C;script&#x3E;",
)
WORDS = ("all", "wrong", "right", "seven times eight", r"so \boxed{56}")


def response(step: int, group: int, sample: int, correct: bool, text: str = "", **changes: Any) -> RolloutRow:
    """A response whose tokens are the bytes of its text."""
    text = text or f"{WORDS[sample % len(WORDS)]} \\boxed{{{group + 1 if correct else group}}}"
    ids = list(text.encode(errors="replace")[:200])
    values: dict[str, Any] = {
        "step": step, "group": group, "sample": sample, "prompt_id": 10 + group, "prompt": f"{group} + 1 = ?",
        "answer": str(group + 1), "response": text, "reward": float(correct), "correct": correct,
        "status": "correct" if correct else "incorrect", "length": len(ids), "truncated": False,
        "extracted": str(group + 1) if correct else str(group), "kept": True, "reason": None,
        "advantage": 1.0 if correct else -1.0, "logp": -2.0, "policy_version": step - 1, "tokens": ids,
        "engine_logp": [-0.5 * (i % 9) for i in range(len(ids))],
        "learner_logp": [-0.5 * (i % 9) - 0.01 for i in range(len(ids))],
    }  # fmt: skip
    return RolloutRow(**{**values, **changes})


def make_run(folder: Path, name: str = "one", steps: int = 3, seed: int = 0) -> Path:
    """A run of groups: 0 is all wrong, 1 mixed, 2 all right; two evaluations; a tokenizer of bytes."""
    run = folder / name
    run.mkdir(parents=True)
    recipe = f'algorithm = "reinforce_rej"\nsteps = {steps}\nseed = {seed}\n[verify]\nname = "math"\n'
    (run / "recipe.toml").write_text(recipe + "[rollout]\nsamples = 4\n")
    with (run / "metrics.jsonl").open("w") as log:
        for step in range(steps + 1):
            held = {"eval/demo/avg@4": 0.25 + 0.1 * step, "eval_ci/demo/avg@4/low": 0.2, "eval_ci/demo/avg@4/high": 0.9}
            trained = {
                "reward/accuracy": 0.5, "reward/mean": 0.5, "select/kept_fraction": 0.25, "select/all_wrong": 0.5,
                "select/all_correct": 0.25, "policy/entropy": 1.0 / (1 + step), "rollout/length_mean": 20.0,
            }  # fmt: skip
            log.write(
                json.dumps({"step": step, **(trained if step else {}), **(held if step in (0, steps) else {})}) + "\n"
            )
    for step in range(1, steps + 1):
        write_rollouts(run, step, [response(step, g, k, *_of_group(g, k)) for g in range(3) for k in range(4)])
    for step in (0, steps):
        evaluated: dict[str, Any] = {"kept": None, "reason": None, "advantage": None, "learner_logp": None}
        rows = [response(step, g, k, k < g + (step > 0), **evaluated) for g in range(3) for k in range(4)]
        write_rollouts(run, step, rows, "eval")
    make_tokenizer(run / "tokenizer.json")
    return run


def _of_group(group: int, sample: int) -> tuple[bool]:
    return (group == 2 or (group == 1 and sample < 2),)


def make_tokenizer(path: Path) -> None:
    """A tokenizer whose ids are bytes, so that one character may take several tokens."""
    from tokenizers import Tokenizer, decoders, models
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = _byte_letters()
    assert set(alphabet.values()) <= set(ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: byte for byte, letter in alphabet.items()}, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(path))


def _byte_letters() -> dict[int, str]:
    """GPT-2's letters for bytes: printable ones stand for themselves, others come after 256."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}
