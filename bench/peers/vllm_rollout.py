"""Rollouts by vLLM's CPU build on demand: `python -m bench.peers.vllm_rollout --workload short --model DIR`.

Runs in vLLM's environment. For each `step` on standard input: one batch of responses, and one line
`{"seconds", "tokens_per_second", ...}` on standard output. Nothing is padded, so `padding_waste` is 0.
"""

from __future__ import annotations

import argparse
import os
import time
from itertools import cycle, islice
from pathlib import Path

from bench.peers.serve import open_output, peak_mb, wait
from bench.workloads import WORKLOADS, read_prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", choices=WORKLOADS, required=True)
    parser.add_argument("--model", type=Path, required=True, help="directory in Hugging Face format")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--compile", action="store_true", help="let vLLM compile the model (start-up is not timed)")
    parser.add_argument("--cache-gb", type=int, default=4)
    options = parser.parse_args()
    workload = WORKLOADS[options.workload]
    write = open_output()
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # one process, so that its peak memory is the engine's
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(options.cache_gb)
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=str(options.model),
        dtype=options.dtype,
        max_model_len=workload.max_tokens + 64,
        max_num_seqs=workload.responses,
        enforce_eager=not options.compile,
        seed=0,
    )
    how = SamplingParams(n=workload.samples, temperature=1.0, max_tokens=workload.max_tokens)
    prompts = cycle([row["prompt"] for row in read_prompts(options.model / "prompts.jsonl")])
    while wait():
        batch = list(islice(prompts, workload.prompts))
        began = time.perf_counter()
        responses = engine.generate(batch, how, use_tqdm=False)
        seconds = time.perf_counter() - began
        lengths = [len(sample.token_ids) for response in responses for sample in response.outputs]
        write(
            {
                "seconds": seconds,
                "tokens": sum(lengths),
                "tokens_per_second": sum(lengths) / seconds,
                "padding_waste": 0.0,
                "mean_length": sum(lengths) / len(lengths),
                "longest": max(lengths),
                "peak_mb": peak_mb(),
            }
        )


if __name__ == "__main__":
    main()
