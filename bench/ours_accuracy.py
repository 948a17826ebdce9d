"""How fast SieveRL gains accuracy, as `bench.peers.trl_accuracy` measures TRL: `python -m bench.ours_accuracy ...`.

Prints `{"step", "seconds", "accuracy"}` before training and every `--every` steps; the seconds are those of training
alone, the accuracy is avg@k at temperature 1 over the evaluation prompts.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from bench.ours import accuracy, make_side, memory_mb, rl_step
from bench.peers.serve import open_output
from bench.workloads import SHORT, add_accuracy_options, read_prompts
from sieverl.recipe import Train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    add_accuracy_options(parser)
    parser.add_argument("--algorithm", default="grpo")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--micro-batch-tokens", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write = open_output()
    torch.set_num_threads(options.threads)
    train = Train(
        lr=options.learning_rate,
        warmup_updates=options.warmup_steps,
        betas=(0.9, options.adam_beta2),
        micro_batch_tokens=options.micro_batch_tokens,
    )
    workload = replace(SHORT, max_tokens=options.max_tokens)
    rows, held = read_prompts(options.prompts), read_prompts(options.evaluation)
    side = make_side(workload, options.model, options.dtype, train, rows, options.seed)
    seconds = 0.0
    target = None
    for number in range(options.steps + 1):
        if number:
            seconds += rl_step(side, options.algorithm, prompts=options.prompts_per_step, samples=options.samples)[
                "seconds"
            ]
        if number % options.every == 0 or number == options.steps:
            now = accuracy(side, held, options.samples_evaluated, options.seed + 1)
            write({"step": number, "seconds": seconds, "accuracy": now, "peak_mb": memory_mb()})
            target = now + options.gain if target is None else target
            if now >= target:
                break
    side.environment.pool.close()


if __name__ == "__main__":
    main()
