"""Rollouts by transformers on demand: `python -m bench.peers.generate --workload short --model DIR`.

Runs in TRL's environment. For each `step` on standard input: one batch of responses, and one line
`{"seconds", "tokens_per_second", ...}` on standard output.
`padding_waste` is the fraction of decoded positions (rows x forward passes) that are no token of a response.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig

from bench.peers.serve import open_output, peak_mb, wait
from bench.workloads import WORKLOADS, Workload, read_prompts

Engine = Callable[[list[list[int]]], tuple[list[int], int]]  # prompts -> length of each response, decoded positions


def padded(model, tokenizer, how: GenerationConfig, workload: Workload) -> Engine:
    """`generate`: one batch, left-padded prompts, until the longest response ends."""

    def run(prompts: list[list[int]]) -> tuple[list[int], int]:
        batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
        out = model.generate(**batch, generation_config=how)[:, batch["input_ids"].shape[1] :]
        ends = out == tokenizer.eos_token_id
        lengths = torch.where(ends.any(1), ends.int().argmax(1) + 1, out.shape[1])
        return lengths.tolist(), out.numel()

    return run


def continuous(model, tokenizer, how: GenerationConfig, workload: Workload) -> Engine:
    """`generate_batch`: continuous batching, its cache sized for the workload (else it takes most of the memory)."""
    page = 32
    longest = workload.max_tokens + 64
    config = ContinuousBatchingConfig(
        page_size=page,
        num_blocks=workload.responses * -(-longest // page),
        max_batch_tokens=1024,
        max_requests_per_batch=workload.responses,
    )

    def run(prompts: list[list[int]]) -> tuple[list[int], int]:
        out = model.generate_batch(prompts, generation_config=how, continuous_batching_config=config)
        if len(out) < len(prompts):
            raise RuntimeError(f"generate_batch gave {len(out)} of {len(prompts)} responses; see its messages above.")
        lengths = [len(response.generated_tokens) for response in out.values()]
        return lengths, sum(lengths)

    return run


ENGINES = {"generate": padded, "continuous": continuous}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", choices=WORKLOADS, required=True)
    parser.add_argument("--model", type=Path, required=True, help="directory in Hugging Face format")
    parser.add_argument("--engine", choices=ENGINES, default="generate")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--cache", choices=["dynamic", "static"], default="dynamic", help="of generate")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    workload = WORKLOADS[options.workload]
    write = open_output()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype)).eval()
    how = GenerationConfig(
        max_new_tokens=workload.max_tokens,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        cache_implementation={"dynamic": None, "static": "static"}[options.cache],
        disable_compile=True,
    )
    run = ENGINES[options.engine](model, tokenizer, how, workload)
    prompts = cycle([row["prompt"] for row in read_prompts(options.model / "prompts.jsonl")])
    while wait():
        batch = tokenizer(list(islice(prompts, workload.prompts)))["input_ids"]
        repeated = [ids for ids in batch for _ in range(workload.samples)]
        began = time.perf_counter()
        with torch.no_grad():  # continuous batching fails under inference_mode
            lengths, positions = run(repeated)
        seconds = time.perf_counter() - began
        write(
            {
                "seconds": seconds,
                "tokens": sum(lengths),
                "tokens_per_second": sum(lengths) / seconds,
                "padding_waste": 1 - sum(lengths) / positions,
                "mean_length": sum(lengths) / len(lengths),
                "longest": max(lengths),
                "peak_mb": peak_mb(),
            }
        )


if __name__ == "__main__":
    main()
