"""RL steps and rollouts of SieveRL on demand: `python -m bench.ours --workload short --model DIR`.

Each request is a JSON line: `{"do": "step", "algorithm": "grpo", "everything": true}`, `{"do": "rollout"}` or
`{"do": "products"}` (the bare matrix products of the last rollout). One JSON line with `seconds` comes back.
`--device cuda`, another `--engine` and `--lora-rank` are for bench/gpu.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.arithmetic import GB, kv_cache_bytes
from bench.peers.serve import answer, now, open_output, peak_mb, requests, watch_memory
from bench.products import Products
from bench.workloads import WORKLOADS, Workload, boxed, even, read_prompts
from sieverl.algorithms import get_algorithm
from sieverl.data import Cursor
from sieverl.distributed.fsdp import Sharding
from sieverl.distributed.world import World, init_distributed
from sieverl.engines.builtin import BuiltinEngine
from sieverl.engines.protocol import Engine, Request, SamplingParams
from sieverl.engines.registry import ENGINES
from sieverl.errors import UsageError
from sieverl.learner.batches import pack
from sieverl.learner.learner import Learner
from sieverl.model.load import DTYPES, load_model, load_tokenizer, new_adapters, stop_ids
from sieverl.model.policy import Policy
from sieverl.recipe import Rollout, Train
from sieverl.rollout.collect import collect_rollouts
from sieverl.rollout.environment import Environment, PromptSet
from sieverl.rollout.verified import sample_verified
from sieverl.types import Prompt
from sieverl.verify import Pool

Row = dict[str, Any]
ALONE = World()
STRATEGIES = ("replicated", "fsdp")
VERIFIERS: dict[Callable[[str, str], float], dict[str, str]] = {
    boxed: {"name": "math"},
    even: {"name": "bench.rewards:even"},
}
MAX_ROWS = 512


@dataclass(frozen=True)
class How:
    """Where and with what: LoRA rank 0 trains all weights; importance weights are what a run has with other engines."""

    device: str = "cpu"
    engine: str = "torch"
    lora_rank: int = 0
    importance_weights: bool = False
    world: World = ALONE
    strategy: str = "replicated"


HERE = How()


@dataclass
class Side:
    """A model, what samples from it, what scores and what trains it; `rows` are the prompts, in order."""

    workload: Workload
    environment: Environment
    prompts: PromptSet
    learner: Learner
    rows: list[dict[str, str]]
    steps: int = 0
    lengths: tuple[list[int], list[int]] = ([], [])  # of the prompts and the responses of the last rollout
    device: str = "cpu"
    peak: Callable[[], float] = field(default_factory=lambda: memory_mb)

    def batch(self, prompts: int) -> PromptSet:
        """The next `prompts` prompts as a set of their own, repeated when used up; noise differs each time."""
        first = self.steps * prompts
        self.steps += 1
        index = [i % len(self.rows) for i in range(first, first + prompts)]
        chosen = [Prompt(i, self.rows[i]["question"], self.rows[i]) for i in index]
        tokens = [self.prompts.prompt_tokens[i] for i in index]
        return replace(self.prompts, prompts=chosen, prompt_tokens=tokens, seed=self.prompts.seed + self.steps)


def shared_requests(world: World) -> Iterator[Row]:
    """The requests that rank 0 reads, on every rank."""
    here = requests() if world.rank == 0 else iter(())
    while (request := world.all_gather(next(here, None))[0]) is not None:
        yield request


def make_side(  # many parameters: what may differ between two sides
    workload: Workload,
    model: Path,
    dtype: str,
    train: Train,
    rows: list[dict[str, str]],
    seed: int,
    how: How = HERE,
) -> Side:
    """Load everything. The clock of no step covers this."""
    peak = watch_memory(how.device) if how.device != "cpu" else memory_mb
    tokenizer = load_tokenizer(str(model))
    causal = load_model(str(model), dtype, how.device)
    if how.lora_rank:
        causal = new_adapters(causal, how.lora_rank, 2.0 * how.lora_rank, "all-linear")
    policy = Policy(causal, tokenizer, DTYPES[dtype])
    sampling = SamplingParams(workload.max_tokens, stop_ids(policy.causal, tokenizer))
    tokens = [tokenizer(row["prompt"], add_special_tokens=False)["input_ids"] for row in rows]
    engine = build_engine(how, policy, workload)
    if how.strategy == "fsdp" and how.world.size > 1:
        policy.shard(Sharding(how.world.size))
    engine.load(policy.weights(), version=0)
    pool = Pool(VERIFIERS[workload.reward])
    prompts = PromptSet([], tokens, sampling, seed * 1000)
    learner = Learner(policy, get_algorithm("grpo"), train, off_policy_engine=how.importance_weights, world=how.world)
    environment = Environment(engine, pool, tokenizer, how.world)
    return Side(workload, environment, prompts, learner, rows, device=how.device, peak=peak)


def build_engine(how: How, policy: Policy, workload: Workload) -> Engine:
    """The engine that a recipe would name. Raises a UsageError for one that is missing or takes another model."""
    if how.engine not in ENGINES:
        raise UsageError(f"SieveRL has no engine {how.engine!r}; it has {', '.join(ENGINES)}")
    cache_gb = kv_cache_bytes(workload, policy.compute.itemsize) / GB
    settings = Rollout(max_num_seqs=MAX_ROWS, kv_cache_gb=max(1.0, 1.1 * cache_gb))
    return ENGINES[how.engine].build(policy, settings, how.world)


def rl_step(
    side: Side,
    algorithm: str = "grpo",
    everything: bool = False,
    micro_batch_tokens: int | None = None,
    prompts: int | None = None,
    samples: int | None = None,
) -> Row:
    """Rollout, reward, credit and update. `everything`: responses without an advantage are computed all the same."""
    w, learner = side.workload, side.learner
    learner.algorithm = get_algorithm(algorithm)
    if micro_batch_tokens:
        learner.budget.tokens = micro_batch_tokens
    chosen = side.batch(prompts or w.prompts)
    size = Rollout(prompts=len(chosen.prompts), samples=samples or w.samples)
    tokens_before, forwards_before = learner.tokens_seen, learner.forwards
    began = now(side.device)
    batch = collect_rollouts(side.environment, chosen, learner.algorithm, Cursor(), size)
    sampled = now(side.device)
    credit = learner.algorithm.credit(batch.responses)
    if everything:
        credit = replace(credit, keep=np.ones_like(credit.keep))
    batches = pack(batch.responses, credit, batch.rollouts, learner.algorithm, 1)
    learner.score(batches)
    learner.update(batches)
    side.environment.engine.load(learner.policy.weights(), version=side.steps)
    ended = now(side.device)
    length_R = batch.responses.length_R
    return {
        "seconds": ended - began,
        "rollout_seconds": sampled - began,
        "update_seconds": ended - sampled,
        "tokens": int(length_R.sum()),
        "mean_length": float(length_R.mean()),
        "longest": int(length_R.max()),
        "reward": float(batch.responses.reward_R.mean()),
        "kept": float(credit.keep.mean()),
        "learner_tokens": learner.tokens_seen - tokens_before,
        "forwards": learner.forwards - forwards_before,
        "peak_mb": side.peak(),
    }


def rollout(side: Side) -> Row:
    """One batch of responses, without rewards."""
    w, engine = side.workload, side.environment.engine
    counts = engine if isinstance(engine, BuiltinEngine) else None  # which counts the slots of its batches
    chosen = side.batch(w.prompts)
    slots = counts.slots if counts else 0
    asked = [
        Request(p.id, ids, w.samples, chosen.seed, group=g)
        for g, (p, ids) in enumerate(zip(chosen.prompts, chosen.prompt_tokens, strict=True))
    ]
    began = now(side.device)
    found = engine.sample(asked, chosen.sampling)
    seconds = now(side.device) - began
    lengths = [len(r.tokens) for r in found]
    tokens = sum(lengths)
    side.lengths = ([len(ids) for ids in chosen.prompt_tokens], lengths)
    return {
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "padding_waste": 1 - (tokens - len(lengths)) / max(1, counts.slots - slots) if counts else 0.0,
        "mean_length": tokens / len(lengths),
        "longest": max(lengths),
        "peak_mb": side.peak(),
    }


def accuracy(side: Side, rows: Sequence[dict[str, str]], samples: int, seed: int) -> float:
    """avg@k over `rows` at temperature 1."""
    ids = [side.environment.tokenizer(row["prompt"], add_special_tokens=False)["input_ids"] for row in rows]
    asked = [Request(i, tokens, samples, seed, group=i) for i, tokens in enumerate(ids)]
    found = sample_verified(side.environment, asked, dict(enumerate(rows)), side.prompts.sampling)
    return sum(s.verdict.correct for s in found) / len(found)


def memory_mb() -> float:
    """Largest resident memory of this process and of its living children (the verifiers), in MB (10^6 bytes)."""
    total = peak_mb()
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text().split():
            status = Path("/proc", child, "status").read_text()
            peak = [row.split()[1] for row in status.splitlines() if row.startswith("VmHWM")]
            total += sum(map(int, peak)) * 1024 / 1e6
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", choices=WORKLOADS, required=True)
    parser.add_argument("--model", type=Path, required=True, help="directory in Hugging Face format")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--micro-batch-tokens", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--engine", default="torch")
    parser.add_argument("--lora-rank", type=int, default=0, help="train adapters of this rank; 0: all weights")
    parser.add_argument("--importance-weights", action="store_true", help="as a run has where an engine rounds")
    parser.add_argument("--strategy", choices=STRATEGIES, default="replicated", help="under torchrun")
    options = parser.parse_args()
    write, world = open_output(), init_distributed()
    torch.set_num_threads(options.threads)
    workload = WORKLOADS[options.workload]
    train = Train(lr=workload.learning_rate, micro_batch_tokens=options.micro_batch_tokens)
    rows = read_prompts(options.model / "prompts.jsonl")
    weighted = options.importance_weights
    how = How(options.device, options.engine, options.lora_rank, weighted, world, options.strategy)
    side = make_side(workload, options.model, options.dtype, train, rows, 0, how)

    @cache
    def products() -> Products:
        return Products(workload, DTYPES[options.dtype], options.device)

    def bare() -> Row:
        seconds, tokens = products().rollout(*side.lengths), sum(side.lengths[1])
        return {"seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds}

    known: dict[str, Callable[..., Row]] = {
        "step": partial(rl_step, side),
        "rollout": partial(rollout, side),
        "products": bare,
    }
    for request in shared_requests(world):
        found = world.all_gather(answer(known, request))
        if world.rank == 0:
            write({**found[0], "peak_mb": max(row.get("peak_mb", 0.0) for row in found)})
    side.environment.pool.close()
    if world.size > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
