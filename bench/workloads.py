"""The work that SieveRL and its peers are timed on: a model directory, prompts, sizes and a reward, the same for all.

Imports nothing outside the standard library until a model is made, so that every peer's environment can read it.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import string
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from math import log
from pathlib import Path

ASSETS = Path(__file__).parents[1] / "src/sieverl/assets"
BASE = ASSETS / "base"
STEPS_OF_PROMPTS = 8  # distinct prompts for this many steps, then they repeat


def boxed(response: str, answer: str) -> float:
    r"""1 when the last `\boxed{}` of the response holds the integer `answer`, else 0.

    >>> boxed("3*8=24\n\\boxed{24}", "24"), boxed("24", "24")
    (1.0, 0.0)
    """
    found = re.findall(r"\\boxed\{(-?\d+)\}", response)
    return float(bool(found) and int(found[-1]) == int(answer))


def even(response: str, answer: str) -> float:
    """1 when the sum of the character codes is even: right about half of the time for random text.

    >>> even("ab", ""), even("aa", "")
    (0.0, 1.0)
    """
    return float(sum(map(ord, response)) % 2 == 0)


@dataclass(frozen=True)
class Workload:
    """One RL step: `prompts` x `samples` responses of at most `max_tokens`, `reward(text, answer)`, one optimiser step.

    The model is Qwen2. `mean_tokens` is the mean length that random weights are tuned to give; the shipped
    model of *short* has a mean of its own, which is printed with each measurement.
    """

    name: str
    max_tokens: int
    mean_tokens: float
    reward: Callable[[str, str], float]
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    prompts: int = 32
    samples: int = 8
    learning_rate: float = 1e-6
    tied: bool = False  # the output layer is the embedding table
    stored: str = "float32"  # the dtype of the weights in the file

    @property
    def responses(self) -> int:
        return self.prompts * self.samples


SHORT = Workload("short", 64, 37, boxed, 261, 128, 352, layers=4, heads=4, kv_heads=2)
LONG_TAIL = Workload("long-tail", 512, 90, even, 64, 384, 1024, layers=6, heads=6, kv_heads=3)
TINY = Workload("tiny", 16, 8, even, 64, 64, 128, layers=2, heads=2, kv_heads=1, prompts=4, samples=4)
LARGE = Workload("large", 256, 90, even, 64, 640, 1728, layers=8, heads=10, kv_heads=5, prompts=4)  # 36M parameters
# The sizes of Qwen2.5's configurations, and their whole vocabulary on the smallest model.
QWEN_05B = Workload(
    "qwen2.5-0.5b", 512, 200, even, 151936, 896, 4864, layers=24, heads=14, kv_heads=2, prompts=64, tied=True
)
QWEN_15B = Workload(
    "qwen2.5-1.5b", 512, 200, even, 151936, 1536, 8960, layers=28, heads=12, kv_heads=2, prompts=64, tied=True
)
QWEN_7B = Workload(
    "qwen2.5-7b", 512, 200, even, 152064, 3584, 18944, layers=28, heads=28, kv_heads=4, prompts=64, stored="bfloat16"
)
TOY = Workload("toy", 16, 8, even, 151936, 64, 128, layers=2, heads=2, kv_heads=1, prompts=4, samples=4, tied=True)
BIG = Workload("100M", 256, 90, even, 8192, 768, 2432, layers=12, heads=12, kv_heads=4, prompts=4)
WORKLOADS = {w.name: w for w in (SHORT, LONG_TAIL, LARGE, TINY, BIG, QWEN_05B, QWEN_15B, QWEN_7B, TOY)}


def make_model(workload: Workload, directory: Path) -> Path:
    """Write model and tokenizer (Hugging Face format) and `prompts.jsonl` into `directory`, the same bits each time.

    `prompts.jsonl` has rows of `prompt` (the text as the model sees it), `question` (bare) and `answer`. *short* takes
    the shipped model (where it is missing: random weights of its shape, and a warning); its prompts need reasoning-gym.
    """
    directory.mkdir(parents=True, exist_ok=True)
    shipped = workload is SHORT and (BASE / "config.json").exists()
    if shipped:
        shutil.copytree(BASE, directory, dirs_exist_ok=True)
    else:
        if workload is SHORT:
            print(f"{BASE} is missing: random weights, every response wrong", file=sys.stderr)
        _random_model(workload, directory)
    count = STEPS_OF_PROMPTS * workload.prompts
    write_prompts(directory / "prompts.jsonl", demo_prompts(directory, "data", count) if shipped else _noise(count))
    return directory


def write_prompts(path: Path, rows: list[dict[str, str]]) -> None:
    """One JSON object a line, as `read_prompts` reads it."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_prompts(path: Path) -> list[dict[str, str]]:
    """The rows of a `prompts.jsonl`."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def demo_prompts(model: Path, section: str, count: int) -> list[dict[str, str]]:
    """The first `count` rows of the demo's `data` or `evaluate` source, rendered by the chat template of `model`."""
    import reasoning_gym
    from transformers import AutoTokenizer

    source = tomllib.loads((ASSETS / "recipes" / "demo.toml").read_text())[section]
    options = {key: value for key, value in source["options"].items() if key != "prompt"}
    data = reasoning_gym.create_dataset(source["source"].partition(":")[2], **options)
    render = AutoTokenizer.from_pretrained(model).apply_chat_template
    rows = []
    for item in (data[i] for i in range(count)):
        question = item["metadata"]["expression"]
        chat = [{"role": "user", "content": question}]
        prompt = render(chat, tokenize=False, add_generation_prompt=True)
        rows.append({"prompt": prompt, "question": question, "answer": item["answer"]})
    return rows


def shape(workload: Workload) -> dict[str, int | bool]:
    """The sizes of the workload's model, as Qwen2Config names them."""
    return {
        "vocab_size": workload.vocabulary,
        "hidden_size": workload.hidden,
        "intermediate_size": workload.intermediate,
        "num_hidden_layers": workload.layers,
        "num_attention_heads": workload.heads,
        "num_key_value_heads": workload.kv_heads,
        "tie_word_embeddings": workload.tied,
    }


def add_accuracy_options(parser: argparse.ArgumentParser) -> None:
    """The options of a training run that is timed until it has gained accuracy, ours or a peer's."""
    parser.add_argument("--prompts", type=Path, required=True, help="JSONL to train on, in order, repeated")
    parser.add_argument("--evaluation", type=Path, required=True, help="JSONL to evaluate on")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=5, help="steps between evaluations")
    parser.add_argument("--gain", type=float, default=0.15, help="stop when accuracy is up by this much")
    parser.add_argument("--prompts-per-step", type=int, default=32)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--samples-evaluated", type=int, default=4, help="the k of avg@k")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--warmup-steps", type=int, default=0)
    parser.add_argument("--adam-beta2", type=float, default=0.999)


def _noise(count: int) -> list[dict[str, str]]:
    rng = random.Random(0)
    lengths = [rng.randint(16, 48) for _ in range(count)]
    texts = ["".join(rng.choices(string.ascii_letters + string.digits, k=length)) for length in lengths]
    return [{"prompt": text, "question": text, "answer": ""} for text in texts]


def _random_model(workload: Workload, directory: Path) -> None:
    """Random weights whose end-of-text probability is the same everywhere, so that lengths are geometric.

    One channel of the residual stream is 1 at every position and nothing writes to it; the head reads the logit of
    end-of-text from that channel alone. (Where the head is tied, the channel adds the same to every other logit.)
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    end = workload.vocabulary - 1
    plain = string.ascii_letters + string.digits + " "
    more = (chr(code) for code in range(0x100, 0x30000) if not 0xD800 <= code < 0xE000)  # no surrogates
    characters = [*plain, *more][:end]  # every id is a character, so that every response has a text
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(characters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<|end|>"])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|end|>",
        clean_up_tokenization_spaces=False,
    ).save_pretrained(directory)

    config = Qwen2Config(
        **shape(workload),
        max_position_embeddings=max(1024, 2 * workload.max_tokens),
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
        dtype="float32",
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).eval()
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=end)
    chance = _stop_chance(workload.mean_tokens, workload.max_tokens)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 1.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        head = model.lm_head.weight
        if not workload.tied:
            head[:, 0] = 0
        head[end] = 0
        hidden = model.model(torch.randint(end, (16, 64))).last_hidden_state
        others = (hidden @ head[:end].T).logsumexp(-1)
        head[end, 0] = (log(chance / (1 - chance)) + others.mean()) / hidden[..., 0].mean()
    model.to(getattr(torch, workload.stored)).save_pretrained(directory)


def _stop_chance(mean: float, longest: int) -> float:
    """The chance of stopping at each token for which lengths cut at `longest` average `mean` (bisection).

    >>> round(1 / _stop_chance(90, 512), 1)
    90.3
    """
    low, high = 1e-6, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 - (1 - middle) ** longest) / middle > mean else (low, middle)
    return low
