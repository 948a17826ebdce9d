"""Make the tiny base model that ships with SieveRL: `python tools/make_base_model.py [--out DIR] [--seed 0]`.

The model (Qwen2, 0.8M parameters, one token a byte) learns to work out reasoning-gym's `basic_arithmetic` one step a
line, first from clean textbooks, then from pupils' notebooks full of mistakes. So it can calculate, and samples many
slips on top of it: reinforcement learning has something to reject and something to find. A quarter of an hour on 2 idle
cores, twice that on busy ones. No evaluation prompt is in any corpus: the script checks.
"""

from __future__ import annotations

import argparse
import ast
import random
import re
import shutil
import time
from functools import partial
from pathlib import Path

import reasoning_gym
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

TASK = {
    "operators": ["+", "-", "*"],
    "min_terms": 2,
    "max_terms": 4,
    "min_digits": 1,
    "max_digits": 1,
    "allow_parentheses": True,
    "allow_negation": False,
    "whitespace": "no_space",
}
EVALUATION_SEED, EVALUATION_PROMPTS = 2, 512  # item i of seed s is item i - 1 of seed s + 1
CORPUS_SEED, STAGE_SEEDS = 1_000_000, 500_000  # far from the seeds of the demo and from one another
# How many worked solutions, whether they hold mistakes, the highest learning rate.
STAGES = [(130_000, False, 3e-3), (110_000, False, 2e-3), (26_000, True, 1e-3)]
SPECIAL = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|pad|>"]
END, USER, ASSISTANT, PAD = 256, 257, 258, 260
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CALCULATE = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}


def expressions(seed: int, size: int) -> list[str]:
    data = reasoning_gym.create_dataset("basic_arithmetic", seed=seed, size=size, **TASK)
    return [data[i]["metadata"]["expression"] for i in range(size)]


def evaluation_prompts() -> list[str]:
    """The first 512 distinct expressions of the evaluation seed."""
    return list(dict.fromkeys(expressions(EVALUATION_SEED, 2 * EVALUATION_PROMPTS)))[:EVALUATION_PROMPTS]


def slip(rng: random.Random, a: int, op: str, b: int) -> int:
    """A wrong result of one step, of a kind that a pupil makes."""
    right = CALCULATE[op](a, b)
    wrong = {
        "+": [right + 1, right - 10, a - b, abs(a) + abs(b)],
        "-": [right - 1, right + 10, a + b, b - a],
        "*": [right + a, right - 10, -right, a + b],
    }[op]
    return rng.choice([value for value in wrong if value != right] or [right + 1])


def slip_rate(a: int, op: str, b: int) -> float:
    """The chance of a mistake, which grows with the result's size and with a negative number."""
    size = abs(CALCULATE[op](a, b))
    return 0.02 + 0.38 * (size >= 10) + 0.12 * (size >= 40) + 0.12 * (b < 0)


def left_to_right(expression: str) -> str:
    """The expression as read by someone who ignores precedence and brackets: `2+3*4` -> `((2+3)*4)`."""
    first, *rest = re.findall(r"[-+*]?-?\d+", re.sub(r"[()]", "", expression))
    for term in rest:
        first = f"({first}{term})"
    return first


def solution(expression: str, rng: random.Random, careless: bool) -> str:
    """A worked solution, one binary step a line: `(3*8)-7` -> `3*8=24`, `24-7=17`, `\\boxed{17}`."""
    lines: list[str] = []

    def work(node: ast.expr) -> int:
        if not isinstance(node, ast.BinOp):
            return ast.literal_eval(node)
        a, b, op = work(node.left), work(node.right), SIGNS[type(node.op)]
        wrong = careless and rng.random() < slip_rate(a, op, b)
        value = slip(rng, a, op, b) if wrong else CALCULATE[op](a, b)
        lines.append(f"{a}{op}{b}={value}\n")
        return value

    habit = rng.random() if careless else 1.0
    if habit < 0.12:
        expression = left_to_right(expression)
    answer = work(ast.parse(expression, mode="eval").body)
    if 0.12 <= habit < 0.20 and len(lines) > 1:  # forgets the last step
        lines.pop()
        answer = int(lines[-1].split("=")[1])
    elif 0.20 <= habit < 0.32:  # guesses without working
        lines, answer = [], answer + rng.choice([0, 0, 1, -1, 2, -2, 10, -10, -2 * answer])
    elif 0.32 <= habit < 0.35:  # copies the answer wrongly
        answer = rng.choice([-answer, answer + 1])
    return f"{''.join(lines)}\\boxed{{{answer}}}"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte: any text encodes and decodes to itself."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        unk_token=None,  # else the family's own is added, with an id that has no embedding
        pad_token="<|pad|>",
        additional_special_tokens=["<|user|>", "<|assistant|>", "<|system|>"],
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
        chat_template=CHAT_TEMPLATE,
    )


def make_model() -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=256 + len(SPECIAL),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=PAD,
        dtype="float32",
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=END, pad_token_id=PAD)
    return model


def corpus(tokenizer, prompts: list[str], solve, forbidden: set[str]) -> list[tuple[list[int], int]]:
    """Token rows with the solution of each prompt, each with the length of its prompt, in the order of training."""
    rows = []
    for text in prompts:
        if text not in forbidden:
            prompt = [USER, *tokenizer.encode(text), END, ASSISTANT]
            rows.append(([*prompt, *tokenizer.encode(solve(text)), END], len(prompt)))
    seen = {tokenizer.decode(ids[1 : n - 2]) for ids, n in rows}
    assert seen.isdisjoint(forbidden), "an evaluation prompt is in the corpus"
    print(f"{len(rows)} solutions of {len(seen)} prompts, none of them among the {len(forbidden)} for evaluation")
    return rows


def save(model, tokenizer, out: Path) -> None:
    """Write model and tokenizer in place of what is in `out`."""
    fresh = out.with_name(out.name + ".new")
    model.save_pretrained(fresh)
    tokenizer.save_pretrained(fresh, save_jinja_files=False)  # the template goes into tokenizer_config.json
    (fresh / "model.safetensors").chmod(0o644)  # safetensors makes it readable by the owner only
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)


def batches(rows, size: int, rng: random.Random, length):
    """Batches of rows of similar `length`, in random order within each stretch of 64 batches."""
    for start in range(0, len(rows), 64 * size):
        stretch = sorted(rows[start : start + 64 * size], key=length)
        starts = list(range(0, len(stretch), size))
        rng.shuffle(starts)
        yield from (stretch[i : i + size] for i in starts)


def train(model, rows, length, lr: float, seed: int, batch_size: int = 128) -> None:
    """AdamW, warm-up then cosine; the loss is the mean over response tokens, the end token too."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    steps = len(rows) // batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps + 64, pct_start=0.05)
    began, losses = time.time(), []
    for step, batch in enumerate(batches(rows, batch_size, random.Random(seed), length)):
        width = max(len(ids) for ids, _ in batch)
        tokens = torch.tensor([ids + [PAD] * (width - len(ids)) for ids, _ in batch])
        labels = torch.tensor([[-100] * n + ids[n:] + [-100] * (width - len(ids)) for ids, n in batch])
        logits = model(tokens[:, :-1], use_cache=False).logits  # padding is on the right: the causal mask suffices
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
        if step % 50 == 49:
            print(f"step {step + 1}/{steps} loss {sum(losses[-50:]) / 50:.3f} {time.time() - began:.0f} s", flush=True)


def sample(model, tokenizer, prompts: list[str], n: int, **how) -> list[list[str]]:
    """`n` responses to each prompt, as text with the end token."""
    ids = [[USER, *tokenizer.encode(prompt), END, ASSISTANT] for prompt in prompts]
    width = max(map(len, ids))
    tokens = torch.tensor([[PAD] * (width - len(row)) + row for row in ids])
    out = model.generate(
        tokens, attention_mask=(tokens != PAD).long(), max_new_tokens=64, num_return_sequences=n, **how
    )
    texts = [tokenizer.decode(row).replace("<|pad|>", "") for row in out[:, width:].tolist()]
    return [texts[i : i + n] for i in range(0, len(texts), n)]


def right(expression: str, response: str) -> bool:
    return response.endswith(f"\\boxed{{{eval(expression)}}}<|end|>")  # noqa: S307 (a sum that this file made)


def measure(model, tokenizer, prompts: list[str]) -> None:
    """Print where reinforcement learning will start: accuracies at temperature 1 and the mix of groups of 8."""
    groups = sample(model, tokenizer, prompts, 8, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
    greedy = sample(model, tokenizer, prompts, 1, do_sample=False)
    count = [sum(right(p, response) for response in group) for p, group in zip(prompts, groups, strict=True)]
    lengths = [len(r.replace("<|end|>", "$")) for group in groups for r in group]
    total = len(prompts)
    print(f"sampled accuracy {sum(count) / total / 8:.3f}", end="  ")
    print(f"greedy {sum(right(p, g) for p, (g,) in zip(prompts, greedy, strict=True)) / total:.3f}")
    print(f"pass@8 {sum(c > 0 for c in count) / total:.3f}  all wrong {count.count(0) / total:.3f}", end="  ")
    print(f"all correct {count.count(8) / total:.3f}")
    print(f"response tokens: mean {sum(lengths) / len(lengths):.1f}, longest {max(lengths)}")
    for prompt, group in list(zip(prompts, groups, strict=True))[:4]:
        print(prompt, *map(repr, group[:3]), sep="  |  ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "src/sieverl/assets/base")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(2)

    evaluation = evaluation_prompts()
    tokenizer, model = make_tokenizer(), make_model()
    print(f"{sum(p.numel() for p in model.parameters())} parameters")
    for stage, (size, careless, lr) in enumerate(STAGES):
        first = CORPUS_SEED * (options.seed + 1) + STAGE_SEEDS * stage
        solve = partial(solution, rng=random.Random(first), careless=careless)
        rows = corpus(tokenizer, expressions(first, size), solve, set(evaluation))
        # A short response tells a guess from a worked solution: sorting by it would make guesses weigh more.
        length = (lambda row: row[1]) if careless else (lambda row: len(row[0]))
        train(model.train(), rows, length, lr=lr, seed=options.seed)

    save(model, tokenizer, options.out)
    measure(model.eval(), tokenizer, evaluation[:256])


if __name__ == "__main__":
    main()
