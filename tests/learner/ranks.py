"""Run under torchrun by test_learner: each mini-batch's gradient on two ranks and on one, written to a file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from conftest import SIZES
from toys import SUMS, batch, gradient, learner
from transformers import AutoConfig, AutoModelForCausalLM

from sieverl.algorithms import Algorithm, get_algorithm
from sieverl.algorithms import objective as obj
from sieverl.algorithms.objective import Penalty
from sieverl.distributed.world import World, init_distributed
from sieverl.learner.batches import pack
from sieverl.learner.halving import Budget
from sieverl.model.packed import Layout
from sieverl.model.policy import Policy

# name -> the algorithm and the responses that are masked
CASES: dict[str, tuple[Algorithm, list[int]]] = {
    name: (get_algorithm(name), []) for name in ("grpo", "reinforce_rej", "iterative_dpo", "ppo")
}
# PPO with some responses masked that a penalty over all sampled ones needs
CASES["M7"] = (replace(get_algorithm("ppo"), penalties=(Penalty(obj.k2, 0.1, "sampled"),)), [0, 5, 9, 20])


def gradients(name: str, world: World, is_mine: Callable[[int], bool]) -> torch.Tensor:
    """The gradients of all mini-batches, and the critic after each, in one vector."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("qwen2", **SIZES)
    model = AutoModelForCausalLM.from_config(config).double().eval()
    responses, rollouts = batch()
    algorithm, masked = CASES[name]
    credit = algorithm.credit(responses)
    whole = ~np.isin(np.arange(len(responses)), masked)
    credit = replace(credit, keep=credit.keep & whole, selected=credit.selected & whole)
    own = {row: s for row, s in rollouts.items() if is_mine(row)}
    batches = pack(responses, credit, own, algorithm, 2)
    run = learner(model, algorithm, world=world)
    run.score(batches)
    parts = []
    for b in batches:
        if run.critic is not None:
            run.critic.update(b, run.policy, Budget(100, world), world)
            parts.append(torch.cat([p.detach().flatten() for p in run.critic.trained.values()]))
        run.backward(b, dict.fromkeys(SUMS, 0.0))
        parts.append(gradient(run))
    return torch.cat(parts)


def one_runs_out_of_memory(world: World) -> tuple[list[torch.Tensor], list[int], float]:
    """The gradient of one process and of two of which the second has little memory; what the ranks then go on with."""
    algorithm = get_algorithm("reinforce")
    forward, grads = Policy.response_hidden, []

    def limited(policy: Policy, packed: Layout) -> torch.Tensor:
        if len(packed.ids_P) > 40:
            raise MemoryError
        return forward(policy, packed)

    for ranks in (World(), world):
        responses, rollouts = batch()
        own = {row: s for row, s in rollouts.items() if ranks.size == 1 or row % 2 == world.rank}
        batches = pack(responses, algorithm.credit(responses), own, algorithm, 1)
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", **SIZES)).eval().double()
        run = learner(model, algorithm, world=ranks)
        Policy.response_hidden = limited if ranks.rank == 1 else forward  # type: ignore[method-assign, assignment]
        run.backward(batches[0], dict.fromkeys(SUMS, 0.0))
        grads.append(gradient(run))
    times = run.budget.agree()
    return grads, world.all_gather(run.budget.tokens), times


if __name__ == "__main__":
    torch.set_num_threads(1)
    world = init_distributed()
    for name in CASES:
        one = gradients(name, World(), lambda row: True)
        cases = {"both": lambda row: row // 4 % 2 == world.rank, "idle": lambda row: world.rank == 0}
        for case, is_mine in cases.items():
            two = gradients(name, world, is_mine)
            if world.rank == 0:
                torch.save((one, two), Path(sys.argv[1]) / f"{name}-{case}.pt")
    halved = one_runs_out_of_memory(world)
    if world.rank == 0:
        torch.save(halved, Path(sys.argv[1]) / "halved.pt")
    torch.distributed.destroy_process_group()
