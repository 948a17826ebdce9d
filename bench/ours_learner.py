"""Updates of SieveRL's learner on demand, without rollouts: `python -m bench.ours_learner --workload long-tail`.

Random weights, random tokens, geometric lengths as the workload has them (or all of `--length`). Each request is a JSON
line: `{"do": "update", "keep": 0.25}`, `{"do": "update", "algorithm": "raft", "masked": true}`, `{"do": "products"}`
(the bare matrix products of an update) or `{"do": "memory"}`. One JSON line comes back.
"""

from __future__ import annotations

import argparse
import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from bench.arithmetic import update_flops
from bench.ours import HERE, STRATEGIES, How, shared_requests
from bench.peers.serve import answer, now, open_output, peak_mb
from bench.products import Products, peak_flops
from bench.workloads import WORKLOADS, Workload, shape
from sieverl.algorithms import get_algorithm
from sieverl.distributed.fsdp import Sharding
from sieverl.distributed.world import init_distributed
from sieverl.learner.batches import Sample, micro_batches, pack
from sieverl.learner.learner import Learner
from sieverl.model.load import DTYPES, new_adapters
from sieverl.model.packed import layout
from sieverl.model.policy import Policy
from sieverl.recipe import Train
from sieverl.types import Credit, Responses, Rollout

Row = dict[str, Any]


@dataclass
class Update:
    """A learner and one batch of responses; `rollouts` has their tokens, by row."""

    learner: Learner
    responses: Responses
    rollouts: dict[int, Rollout]
    workload: Workload
    how: How = HERE
    before_mb: float = 0.0  # resident before the model was made

    @cached_property
    def products(self) -> Products:
        """Made when it is asked for, since it takes the memory of another model."""
        return Products(self.workload, self.learner.policy.compute, self.how.device)

    def run(
        self,
        algorithm: str = "grpo",
        keep: float | None = None,
        groups: bool = False,
        masked: bool = False,
        micro_batch_tokens: int | None = None,
    ) -> Row:
        """One update. `keep`: that fraction of the rows or `groups`; `masked`: the others at weight zero."""
        learner = self.learner
        learner.algorithm = get_algorithm(algorithm)
        self._budget(micro_batch_tokens)
        credit = learner.algorithm.credit(self.responses) if keep is None else self._part(keep, groups)
        batches = pack(self.responses, credit, self.rollouts, learner.algorithm, 1)
        if masked:
            batches = [replace(batches[0], samples=self._all(credit))]
        tokens, forwards = learner.tokens_seen, learner.forwards
        if self.how.device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        began = now(self.how.device)
        learner.score(batches)
        learner.update(batches)
        return {
            "seconds": now(self.how.device) - began,
            "flops": self.flops(batches[0].samples),
            "peak_mb": peak_mb() if self.how.device == "cpu" else torch.cuda.max_memory_allocated() / 1e6,
            "kept": float(credit.keep.mean()),
            "kept_tokens": float(self.responses.length_R[credit.keep].sum() / self.responses.length_R.sum()),
            "learner_tokens": learner.tokens_seen - tokens,
            "forwards": learner.forwards - forwards,
        }

    def flops(self, samples: Sequence[Sample]) -> float:
        """Model FLOPs of an update on the samples."""
        lengths: dict[tuple[int, ...], list[int]] = {}  # of the responses to a prompt
        for s in samples:
            lengths.setdefault(tuple(s.prompt_tokens), []).append(len(s.response_tokens))
        groups = [(len(prompt), responses) for prompt, responses in lengths.items()]
        return update_flops(self.workload, groups, self.how.lora_rank)

    def _budget(self, tokens: int | None) -> None:
        if tokens:
            self.learner.budget.tokens = tokens

    def _part(self, keep: float, groups: bool) -> Credit:
        """Every so many rows, or whole groups, of those sorted by length, so that lengths stay the same; credit +1, -1.

        Rows leave nearly every prompt in, groups leave prompts out: filters by prompt drop groups, RAFT drops rows.
        """
        rows = len(self.responses)
        unit_R = self.responses.prompt_R if groups else np.arange(rows)
        length_U = np.bincount(unit_R, self.responses.length_R)
        rank_U = np.argsort(np.argsort(length_U, kind="stable"))
        keep_U = np.floor((rank_U + 1) * keep) > np.floor(rank_U * keep)
        advantage_R = np.where(np.arange(rows) % 2, 1.0, -1.0)
        return Credit(keep_U[unit_R], advantage_R, advantage_R, keep_U[unit_R])

    def _all(self, credit: Credit) -> list[Sample]:
        return [
            Sample.of(rollout, float(credit.advantage[row]) * bool(credit.keep[row]), bool(credit.keep[row]))
            for row, rollout in self.rollouts.items()
        ]

    def bare(self, micro_batch_tokens: int | None = None) -> Row:
        """The matrix products of an update that keeps everything."""
        self._budget(micro_batch_tokens)
        samples = [Sample.of(rollout) for rollout in self.rollouts.values()]
        batches = []
        for group in micro_batches(samples, self.learner.budget.tokens):
            chosen = [samples[i] for i in group]
            where = layout(chosen, self.learner.policy.device)
            batches.append((len(where.ids_P), len(where.target_T), [len(s) - 1 for s in chosen]))
        return {"seconds": self.products.update(batches)}

    def memory(self) -> Row:
        """Peak memory of an update beyond weights, gradients and optimiser state, in MB (10^6 bytes).

        After a first update, which makes the optimiser's state, the kernel's high-water mark is set back; gradients
        are freed between updates, so their size is subtracted.
        """
        started = now()
        self.run(keep=1.0)
        ctypes.CDLL(None).malloc_trim(0)  # return free memory to the system first
        before = _status_mb("VmRSS")
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        self.run(keep=1.0)
        gradients = sum(p.numel() * p.element_size() for p in self.learner.policy.parameters.values()) / 1e6
        peak = _status_mb("VmHWM")
        return {
            "seconds": now() - started,
            "update_mb": peak - self.before_mb,
            "beyond_mb": peak - before - gradients,
            "peak_mb": peak_mb(),
            "weights_mb": gradients,
        }


def _status_mb(name: str) -> float:
    with open("/proc/self/status") as file:
        return next(int(row.split()[1]) for row in file if row.startswith(name + ":")) * 1024 / 1e6


def make_update(  # many parameters: what may differ between two sides
    workload: Workload,
    dtype: str,
    micro_batch_tokens: int,
    length: int,
    how: How = HERE,
    recompute: bool = False,
) -> Update:
    """A batch with rewards as on real prompts: each prompt's chance of a right answer is drawn from Beta(1/2, 1/2)."""
    g = np.random.default_rng(0)
    rows = workload.responses
    length_R = np.minimum(g.geometric(1 / workload.mean_tokens, rows), workload.max_tokens)
    prompt_R = np.repeat(np.arange(workload.prompts), workload.samples)
    prompts = [g.integers(workload.vocabulary, size=int(g.integers(16, 49))).tolist() for _ in range(workload.prompts)]
    if length:
        length_R, prompts = np.full(rows, length - 32), [p[:16] * 2 for p in prompts]
    reward_R = (g.random(rows) < g.beta(0.5, 0.5, workload.prompts)[prompt_R]).astype(float)
    rollouts = {}
    for row in range(rows):
        n = int(length_R[row])
        response = g.integers(workload.vocabulary, size=n).tolist()
        logp = [-np.log(workload.vocabulary)] * n
        group = int(prompt_R[row])
        if group % how.world.size == how.world.rank:
            rollouts[row] = Rollout(group, row, response, logp, False, group, prompts[group])
    cut_R = length_R == workload.max_tokens
    responses = Responses(prompt_R, reward_R, reward_R == 1, length_R, cut_R, max_tokens=int(length_R.max()))
    train = Train(lr=workload.learning_rate, micro_batch_tokens=micro_batch_tokens)
    before = _status_mb("VmRSS")
    model = make_model(workload, how.device)
    if how.lora_rank:
        model = new_adapters(model, how.lora_rank, 2.0 * how.lora_rank, "all-linear")
    policy = Policy(model, None, DTYPES[dtype], activation_checkpointing=recompute)
    if how.strategy == "fsdp" and how.world.size > 1:
        policy.shard(Sharding(how.world.size))
    learner = Learner(policy, get_algorithm("grpo"), train, world=how.world)
    return Update(learner, responses, rollouts, workload, how, before)


def make_model(workload: Workload, device: str = "cpu") -> Any:
    """A Qwen2 of the workload's shape with random float32 weights."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    torch.manual_seed(0)
    config = Qwen2Config(**shape(workload), max_position_embeddings=1 << 15)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", choices=WORKLOADS, required=True)
    parser.add_argument("--vocabulary", type=int, help="instead of the workload's")
    parser.add_argument("--length", type=int, default=0, help="of every sample, prompt and response")
    parser.add_argument("--prompts", type=int, help="instead of the workload's")
    parser.add_argument("--samples", type=int, help="of a prompt, instead of the workload's")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--micro-batch-tokens", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--lora-rank", type=int, default=0, help="train adapters of this rank; 0: all weights")
    parser.add_argument("--strategy", choices=STRATEGIES, default="replicated", help="under torchrun")
    parser.add_argument("--activation-checkpointing", action="store_true")
    options = parser.parse_args()
    write, world = open_output(), init_distributed()
    torch.set_num_threads(options.threads)
    workload = WORKLOADS[options.workload]
    changes = {"vocabulary": options.vocabulary, "prompts": options.prompts, "samples": options.samples}
    workload = replace(workload, **{key: value for key, value in changes.items() if value})
    how = How(options.device, lora_rank=options.lora_rank, world=world, strategy=options.strategy)
    again = options.activation_checkpointing
    update = make_update(workload, options.dtype, options.micro_batch_tokens, options.length, how, again)

    def peak() -> Row:
        return {"flops": peak_flops(DTYPES[options.dtype], how.device)}

    known: dict[str, Callable[..., Row]] = {
        "update": update.run,
        "products": update.bare,
        "memory": update.memory,
        "peak": peak,
    }
    for request in shared_requests(world):
        found = world.all_gather(answer(known, request))
        if world.rank == 0:
            write({**found[0], "update_mb": max(row.get("update_mb", 0.0) for row in found)})
    if world.size > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
