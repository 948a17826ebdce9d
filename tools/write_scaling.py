"""The tables of docs/scaling.md, from the plan itself: `python tools/write_scaling.py` writes them into the page."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from pages import filled

from sieverl.display.plan import duration, size
from sieverl.planning.lengths import Lengths
from sieverl.planning.machine import GPUS, Efficiency, Machine
from sieverl.planning.memory import layer_activations
from sieverl.planning.plan import Choice, Plan, cheapest, choices
from sieverl.planning.setting import Setting
from sieverl.planning.shape import BUILT_IN, Shape, from_config
from sieverl.planning.work import Work

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "scaling.md"
RECIPE = Setting(gpus=1, micro_batch_tokens=32768)
# the paper's: 1,024 prompts, 4 responses each of at most 3,072 tokens, 2 updates; and one of long responses
PAPER = Work(1024, 4, 256, Lengths(1024, 3, 3072), kept=0.5, updates=2, old=True)
LONG = Work(1024, 16, 256, Lengths(2500, 3, 8192), kept=0.5, updates=2, old=True)
SCENARIOS = (
    ("1.5B on 8 H100", "Qwen2.5-1.5B", "H100", 8, PAPER),
    ("7B on 8 H100", "Qwen2.5-7B", "H100", 8, PAPER),
    ("7B on 64 H100", "Qwen2.5-7B", "H100", 64, PAPER),
    ("70B on 512 H100", "Llama-3-70B", "H100", 512, LONG),
    ("7B on one RTX4090", "Qwen2.5-7B", "RTX4090", 1, PAPER),
)
SHARES = (0.75, 0.5, 0.25)  # of the responses that are kept


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; all columns but the first and the last are numbers."""
    lines = [header, ["-", *["-:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" if i != 1 else "|" + "|".join(line) + "|"
                     for i, line in enumerate(lines))  # fmt: skip


def chosen(name: str, gpu: str, gpus: int, work: Work) -> tuple[list[Choice], Choice]:
    """All ways to run it, and the one that the plan takes."""
    plan = Plan(BUILT_IN[name], replace(RECIPE, gpus=gpus), work, GPUS[gpu])
    found = choices(plan)
    best = cheapest(found, plan)
    assert best is not None, f"nothing fits for {name} on {gpus} {gpu}"
    return found, best


def settings_table() -> str:
    """What the plan takes for each scenario, and the memory it needs."""
    rows = []
    for title, name, gpu, gpus, work in SCENARIOS:
        plan = (best := chosen(name, gpu, gpus, work)[1]).plan
        changes = "<br>".join(f"`{option}`" for option in plan.setting.options(replace(RECIPE, gpus=gpus)))
        rows.append([title, size(plan.peak), best.name, changes])
    return table(["", "GB a GPU", "layout", "added to the recipe"], rows)


def time_table() -> str:
    """Seconds of each phase, and what binds the longest one."""
    rows = []
    for title, name, gpu, gpus, work in SCENARIOS:
        plan = chosen(name, gpu, gpus, work)[1].plan
        longest = max(plan.phases, key=lambda phase: phase.seconds)
        sent = sum(phase.sent for phase in plan.phases)
        seconds = [duration(phase.seconds) for phase in plan.phases if phase.name != "verify"]
        bound = f"{longest.name}: {longest.bound}"
        rows.append([title, *seconds, duration(plan.seconds), size(sent), bound])
    return table(["", "generate", "score", "update", "sync", "step, s", "GB sent by a GPU", "bound by"], rows)


def saved_table() -> str:
    """The share of a step that selection saves."""
    rows = []
    for title, name, gpu, gpus, work in SCENARIOS:
        plan = chosen(name, gpu, gpus, work)[1].plan
        shares = [replace(plan, work=replace(work, kept=kept)).saved for kept in SHARES]
        rows.append([title, *(f"{share:.0%}" for share in shares)])
    return table(["", *(f"{kept:.0%} kept" for kept in SHARES)], rows)


def ways_table(title: str) -> str:
    """All ways of one scenario."""
    _, name, gpu, gpus, work = next(scenario for scenario in SCENARIOS if scenario[0] == title)
    rows = []
    for choice in chosen(name, gpu, gpus, work)[0]:
        time = duration(choice.plan.seconds) if choice.plan.fits else "too large"
        rows.append([choice.name, size(choice.plan.peak), size(choice.plan.host), time])
    return table([title, "GB a GPU", "host GB", "step, s"], rows)


# --- what was measured -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """A number that was measured, and what the plan says of it."""

    what: str
    measured: float
    planned: float
    unit: str

    @property
    def row(self) -> list[str]:
        error = self.planned / self.measured - 1
        return [self.what, f"{self.measured:.4g} {self.unit}", f"{self.planned:.4g} {self.unit}", f"{error:+.0%}"]


# The CPU of bench/results.jsonl: 210 GFLOP/s in float32 and 440 in bfloat16 (docs/benchmarks.md). Two numbers are
# fitted: `update` to the update of `large` in float32, `prefill` (products of few rows) to the float32 rollout of
# `long-tail`. Memory bandwidth is not in the results; 20 GB/s is that of two channels.
CPU = Machine(
    "CPU", 24e9, 20e9, 430e9, 5e9, 5e9, 20e9, latency=1e-4, context=0.0,
    efficiency=Efficiency(update=0.74, prefill=0.34, decode=0.9, link=1.0, reserve=0.0),
)  # fmt: skip


def bench_shape(name: str, hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, vocab: int) -> Shape:
    """The model of a workload of bench/workloads.py."""
    sizes = {"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers}
    sizes |= {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocab}
    return from_config({"model_type": "qwen2", **sizes}, name)


LONG_TAIL = bench_shape("long-tail", 384, 1024, 6, 6, 3, 64)
LARGE = bench_shape("large", 640, 1728, 8, 10, 5, 64)


def bench_plan(shape: Shape, dtype: str, prompts: int, tokens: float, limit: int) -> Plan:
    """The plan of a workload whose update has `tokens` tokens; prompts have 32 tokens, lengths are geometric."""
    lengths = Lengths((tokens - prompts * 32) / (prompts * 8), 4.6, limit)
    setting = replace(RECIPE, dtype=dtype, micro_batch_tokens=4096)
    return Plan(shape, setting, Work(prompts, 8, 32, lengths), CPU)


def phase(plan: Plan, name: str) -> float:
    """Seconds of one phase."""
    return next(one.seconds for one in plan.phases if one.name == name)


def cpu_rows() -> list[Measured]:
    """The newest lines of bench/results.jsonl against the plan."""
    last = {}
    for line in (ROOT / "bench" / "results.jsonl").read_text().splitlines():
        row = json.loads(line)
        last[row["bench"], row["workload"]] = row
    out = []
    for shape, prompts, limit in ((LARGE, 4, 256), (LONG_TAIL, 32, 512)):
        row = last["learner", shape.name]
        for dtype, measured in (("float32", row["ours"]), ("bfloat16", row["also"][0]["ours"])):
            plan = bench_plan(shape, dtype, prompts, row["learner_tokens"][dtype], limit)
            out.append(Measured(f"update, {shape.name}, {dtype}", measured, phase(plan, "update"), "s"))
    row = last["rollout", "long-tail"]
    rates = {"float32": row["also"][0]["peer"], "bfloat16": row["ours"]}
    for dtype, rate in rates.items():
        mean = row["mean_length"][f"ours {dtype}"]
        plan = bench_plan(LONG_TAIL, dtype, 32, 32 * (32 + 8 * mean), 512)
        planned = 256 * mean / phase(plan, "generate")
        out.append(Measured(f"rollout, long-tail, {dtype}", rate, planned, "tokens/s"))
    row = last["memory", "length"]
    beyond = 4096 * LONG_TAIL.layers * layer_activations(LONG_TAIL) * 4 / 1e6
    out.append(Measured("memory of an update beyond the states, length 512", row["peer"], beyond, "MB"))
    return out


def fit_length(seconds: float, plan: Plan) -> Plan:
    """The plan with the mean response length at which scoring takes `seconds`."""
    low, high = 1.0, float(plan.work.lengths.limit)
    for _ in range(20):
        mean = (low + high) / 2
        plan = replace(plan, work=replace(plan.work, lengths=replace(plan.work.lengths, mean=mean)))
        low, high = (mean, high) if phase(plan, "score") < seconds else (low, mean)
    return plan


def verl_rows(tail: float = 8.0) -> tuple[list[Measured], float]:
    """verl's colocated 7B on H20 GPUs; the length, which is not published, is taken from its time of old log-probs."""
    layout = replace(RECIPE, gpus=32, strategy="fsdp", shard=32, engine="vllm", max_num_seqs=1024)
    work = Work(512, 16, 150, Lengths(1000, tail, 28_000), updates=16, old=True)
    plan = fit_length(107.71, Plan(BUILT_IN["Qwen2.5-7B"], layout, work, GPUS["H20"]))
    published = {32: (790.10, 357.41, 107.71, 313.81), 64: (365.28, 150.72, 70.26, 133.41),
                 128: (356.30, 177.85, 53.92, 113.81)}  # fmt: skip
    out = []
    for gpus, times in published.items():
        one = replace(plan, setting=replace(plan.setting, gpus=gpus, shard=gpus))
        planned = (one.seconds, *(phase(one, name) for name in ("generate", "score", "update")))
        for name, measured, ours in zip(("step", "generate", "old log-probs", "update"), times, planned, strict=True):
            out.append(Measured(f"{gpus} H20, {name}", measured, ours, "s"))
    return out, plan.work.lengths.mean


def nemo_rows() -> list[Measured]:
    """NeMo RL v0.4's on-policy GRPO on H100s, whose sequence lengths are published."""
    layout = replace(RECIPE, strategy="fsdp", engine="vllm", max_num_seqs=1024, micro_batch_tokens=8192)
    layout = replace(layout, activation_checkpointing=True)
    out = []
    for name, gpus, split, length, tail, measured in (
        ("Llama-3.1-8B", 16, 1, 1060, 3.0, 97.7),
        ("Qwen3-32B", 32, 4, 3206, 1.4, 393.0),
    ):
        work = Work(64, 32, 100, Lengths(length - 100, tail, 4096), updates=4, old=True, reference=True)
        setting = replace(layout, gpus=gpus, shard=gpus, tensor_parallel=split)
        plan = Plan(BUILT_IN[name], setting, work, GPUS["H100"])
        out.append(Measured(f"{name} on {gpus} H100, step", measured, plan.seconds, "s"))
    return out


def measured_table(rows: list[Measured]) -> str:
    """Measured and planned, with the error of the plan."""
    return table(["", "measured", "planned", "error"], [row.row for row in rows])


def parts() -> dict[str, str]:
    """Every table of the page, by the name of its place."""
    verl, mean = verl_rows()
    default = next(row for row in verl_rows(tail=3.0)[0] if "generate" in row.what)
    fitted = (
        f"Mean response length, fitted: {mean:.0f} tokens. With the default tail of 3 instead of 8, generation on\n"
        f"32 H20 would be planned as {default.planned:.0f} s."
    )
    return {
        "settings": settings_table(),
        "time": time_table(),
        "saved": saved_table(),
        "ways 7B on 8 H100": ways_table("7B on 8 H100"),
        "ways 7B on one RTX4090": ways_table("7B on one RTX4090"),
        "cpu": measured_table(cpu_rows()),
        "verl": measured_table(verl) + "\n\n" + fitted,
        "nemo": measured_table(nemo_rows()),
    }


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), parts()), encoding="utf-8")
