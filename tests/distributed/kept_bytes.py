"""Run under torchrun by test_sharding: `kept_bytes.py GROUP`, activation checkpointing of a sharded model.

The gradients are the sums over the ranks of those of the whole model, with it and without; it keeps fewer bytes.
"""

from __future__ import annotations

import sys

import torch
from families import make
from toys import group

from sieverl.distributed.fsdp import Sharding, whole
from sieverl.distributed.world import World, init_distributed
from sieverl.model.packed import layout
from sieverl.model.policy import Policy


def backward(policy: Policy, world: World) -> tuple[list[torch.Tensor], int]:
    """The gradients of this rank's micro-batch, and the bytes that its forward keeps beside parameters."""
    packed, kept = layout(group(world.rank), policy.device), 0

    def keep(x: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += 0 if isinstance(x, torch.nn.Parameter) else x.nbytes
        return x

    def compute() -> torch.Tensor:
        return policy.logp(policy.response_hidden(packed), packed.target_T, 1.0, False)[0]

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        logp_T = policy.with_weights(compute)
    logp_T.sum().backward()
    return [whole(p.grad) for p in policy.parameters.values() if p.grad is not None], kept


if __name__ == "__main__":
    world = init_distributed()
    policy = Policy(make("qwen2", torch.float64), None)
    wanted, _ = backward(policy, world)
    for grad in wanted:
        world.all_reduce(grad)
    kept = []
    for again in (False, True):
        policy = Policy(make("qwen2", torch.float64), None, activation_checkpointing=again)
        policy.shard(Sharding(world.size, int(sys.argv[1])))
        found, bytes_kept = backward(policy, world)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        kept.append(bytes_kept)
    assert kept[1] < kept[0] / 2, kept
    torch.distributed.destroy_process_group()
