"""Verdicts per second of the pool (2 workers) beside Math-Verify called in one process, on the same real responses.

    python bench/verify_bench.py [--workload math|gsm8k] [--rows 1000] [--no-cheap-path]

`math`: solutions of MATH, half of them against another row's answer. `gsm8k`: solutions by four systems, the answer
behind `A:`. Both sides first score as many other rows, since the grammar of Math-Verify is slow until it has seen each
construct. Prints one JSON line; `ours` and `peer` are responses per second of wall-clock time.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sieverl.verify import Pool
from sieverl.verify.verifier import undecided

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
PART = 200
Pairs = list[tuple[str, dict[str, Any]]]


def math_pairs(rows: int) -> Pairs:
    """Half of the solutions against their own answer, half against that of another row."""
    import pyarrow.parquet as pq

    table = pq.read_table(DATA / "math_train_verl.parquet", columns=["reward_model"]).to_pylist()
    found = [row["reward_model"]["ground_truth"] for row in table]
    found = random.Random(0).sample([row for row in found if row["target"].strip()], rows)
    return [(row["solution"], {"answer": found[i - i % 2]["target"]}) for i, row in enumerate(found)]


def gsm8k_pairs(rows: int) -> Pairs:
    """Solutions of four systems against the answer of the question."""
    lines = (DATA / "gsm8k_labelled_solutions.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    pairs = [
        (value["solution"], {"answer": row["ground_truth"].rpartition("A:")[2].strip()})
        for row in found
        for value in row.values()
        if isinstance(value, dict)
    ]
    return pairs[:rows]


WORKLOADS: dict[str, tuple[Callable[[int], Pairs], dict[str, Any]]] = {
    "math": (math_pairs, {"name": "math"}),
    "gsm8k": (gsm8k_pairs, {"name": "math", "after": "A:"}),
}


def peer(pairs: Pairs) -> float:
    """Seconds that Math-Verify takes, called as its README does, without its alarms."""
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    start = time.perf_counter()
    for response, row in pairs:
        gold = parse(rf"\boxed{{{row['answer']}}}", parsing_timeout=None)
        verify(gold, parse(response, parsing_timeout=None), timeout_seconds=None)
    return time.perf_counter() - start


def ours(pool: Pool, pairs: Pairs) -> float:
    """Seconds that the pool takes."""
    start = time.perf_counter()
    pool.verdicts(pairs)
    return time.perf_counter() - start


def main() -> None:
    """Warm both up on one half, measure on the other, print the line."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--workload", choices=WORKLOADS, default="math")
    arguments.add_argument("--rows", type=int, default=1000)
    arguments.add_argument("--no-cheap-path", action="store_true")
    given = arguments.parse_args()
    make, spec = WORKLOADS[given.workload]
    pairs = make(2 * given.rows)
    warm, measured = pairs[: given.rows], pairs[given.rows :]
    with Pool(spec, workers=2, timeout_s=30) as pool:
        if given.no_cheap_path:
            pool.verifier = replace(pool.verifier, cheap=undecided)
        ours(pool, warm)
        peer(warm)
        # In turn, since other programs may start and stop on the machine.
        parts = [measured[start : start + PART] for start in range(0, len(measured), PART)]
        times = [(ours(pool, part), peer(part)) for part in parts]
    our_speed, peer_speed = (len(measured) / sum(column) for column in zip(*times, strict=True))
    workload = f"{given.workload}, {len(measured)} responses" + ", no cheap path" * given.no_cheap_path
    line = {"bench": "verify", "workload": workload, "ours": round(our_speed, 1), "peer": round(peer_speed, 1)}
    print(json.dumps(line | {"ratio": round(our_speed / peer_speed, 2)}))


if __name__ == "__main__":
    main()
