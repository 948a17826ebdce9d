"""RL steps of TRL on demand: `python -m bench.peers.trl_step --workload short --model DIR` in TRL's own environment.

For each `step` on standard input: one line `{"seconds", "generate_seconds", "tokens", ...}` on standard output.
"""

from __future__ import annotations

import argparse

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from bench.peers.serve import now, open_output, wait, watch_memory
from bench.peers.trl_setup import add_options, make_trainer
from bench.workloads import WORKLOADS, read_prompts


class OnDemand(TrainerCallback):
    """Waits for a request before each step and reports after it: rollout, reward, update; waiting is not counted."""

    def __init__(self, write, device):
        self.write, self.device, self.peak = write, device, watch_memory(device)

    def _wait(self):
        """The next request, which the first process reads for all."""
        first = not dist.is_initialized() or dist.get_rank() == 0
        more = [wait() if first else False]
        if dist.is_initialized():
            dist.broadcast_object_list(more)
        return more[0]

    def on_step_begin(self, args, state, control, **_):
        if not self._wait():
            raise SystemExit(0)
        self.began = now(self.device)

    def on_step_end(self, args, state, control, **_):
        seconds = now(self.device) - self.began
        lengths = self.trainer.lengths
        if dist.is_initialized():
            of_ranks = [lengths] * dist.get_world_size()
            dist.all_gather_object(of_ranks, lengths)
            lengths = [length for part in of_ranks for length in part]
        if dist.is_initialized() and dist.get_rank():
            return
        self.write(
            {
                "seconds": seconds,
                "generate_seconds": self.trainer.generate_seconds,
                "tokens": sum(lengths),
                "mean_length": sum(lengths) / len(lengths),
                "longest": max(lengths),
                "reward": self.trainer._metrics["train"]["reward"][-1],
                "peak_mb": self.peak(),
            }
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", choices=WORKLOADS, required=True)
    add_options(parser)
    options = parser.parse_args()
    workload = WORKLOADS[options.workload]
    on_demand = OnDemand(open_output(), "cuda" if torch.cuda.is_available() else "cpu")
    on_demand.trainer = make_trainer(
        options,
        read_prompts(options.model / "prompts.jsonl"),
        workload.reward,
        prompts=workload.prompts,
        samples=workload.samples,
        max_tokens=workload.max_tokens,
        callbacks=[on_demand],
        learning_rate=workload.learning_rate,
    )
    on_demand.trainer.train()


if __name__ == "__main__":
    main()
