"""Writes tests/fixtures/trl.json and verl.json: small inputs and what TRL and verl make of them.

Each library runs in an environment of its own, never in the project's:

    python -m venv /tmp/trl && /tmp/trl/bin/pip install torch==2.13.0 trl==1.16.0
    /tmp/trl/bin/python tools/make_reference_fixtures.py trl
    python -m venv /tmp/verl && /tmp/verl/bin/pip install torch==2.13.0 verl==0.9.1
    /tmp/verl/bin/python tools/make_reference_fixtures.py verl

TRL's numbers come out of its real trainers: rewards go in through a reward function, log-probs in place of the model's
forward. Per-token numbers are stored packed: the tokens of sequence 0, then those of sequence 1, and so on.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
LENGTHS = [5, 3, 7, 1, 4, 6]
GROUPS = [0, 0, 0, 1, 1, 1]
REWARDS = [1.0, 0.0, 1.0, 0.25, 0.75, 0.0]
GREEDY = [1.0, 1.0, 1.0, 0.25, 0.25, 0.25]
WIDTH, LONGEST = 7, 8  # columns of the padded tensors; max_tokens, which is more
MASK = torch.arange(WIDTH)[None, :] < torch.tensor(LENGTHS)[:, None]
Made = dict[str, Any]


def inputs() -> dict[str, list[float]]:
    """Packed tokens of six sequences; ratios on both sides of every clip, one token far from the reference."""
    g = np.random.default_rng(71)  # a seed whose ratios reach every branch, as the tests check
    size = sum(LENGTHS)
    old = -g.uniform(2.0, 4.0, size)
    logp = old + g.permutation(np.resize([-0.5, -0.11, 0.07, 0.23, 0.4, 1.3, 1.8], size))
    ref = logp + g.normal(0, 0.4, size)
    ref[3] = logp[3] + 3.0
    advantage = np.repeat(g.permutation([1.3, -0.7, 0.4, -1.6, 0.9, -0.2]), LENGTHS)
    packed = {"old": old, "logp": logp, "ref": ref, "advantage": advantage}
    packed |= {name: g.normal(0, 1, size) for name in ("value", "old_value", "target")}
    return {name: value.tolist() for name, value in packed.items()}


def padded(packed: Sequence[float], fill: float = 0.0) -> Tensor:
    """[sequences, WIDTH], float64."""
    out = torch.full(MASK.shape, fill, dtype=torch.float64)
    out[MASK] = torch.tensor(packed, dtype=torch.float64)
    return out


def packed(value: Tensor) -> list[float]:
    """The tokens of a padded tensor, in order."""
    return value.detach()[MASK].tolist()


def loss_and_gradient(function: Callable[[Tensor], Tensor], logp: Tensor) -> Made:
    """The loss, and its derivative by each token's log-prob."""
    leaf = logp.clone().requires_grad_()
    loss = function(leaf)
    loss.backward()
    assert leaf.grad is not None
    return {"loss": loss.item(), "gradient": packed(leaf.grad)}


def token_by_token(loss_of_mask: Callable[[Tensor], Tensor]) -> list[float]:
    """Per-token losses from a token mean, one token unmasked at a time."""
    out = []
    for place in MASK.nonzero().tolist():
        one = torch.zeros(MASK.shape, dtype=torch.int64)
        one[tuple(place)] = 1
        out.append(loss_of_mask(one).item())
    return out


# --- TRL --------------------------------------------------------------------------------------------


def from_trl() -> Made:
    """Numbers of GRPOTrainer, RLOOTrainer and DPOTrainer."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    x = {name: padded(value) for name, value in inputs().items()}
    sequences = len(LENGTHS)
    base = str(ROOT / "src" / "sieverl" / "assets" / "base")
    common = {"output_dir": tempfile.mkdtemp(), "use_cpu": True, "bf16": False, "report_to": [], "save_strategy": "no"}
    sampled = {"per_device_train_batch_size": sequences, "num_generations": 3, "max_completion_length": LONGEST}
    prompts = Dataset.from_list([{"prompt": "1+1"}] * sequences)

    def rewards(completions: list[str], **columns: Any) -> list[float]:
        return REWARDS[: len(completions)]

    def trainer(kind: Any, config: Any, **options: Any) -> Any:
        settings = config(**common, **sampled, **options)
        return kind(base, rewards, settings, train_dataset=prompts)

    def advantages(made: Any) -> list[float]:
        return made._generate_and_score_completions([{"prompt": "1+1"}] * sequences)["advantages"].tolist()

    def loss(made: Any, logp: Tensor, mask: Tensor = MASK, old: Tensor = x["old"]) -> Tensor:
        mask = mask.long()
        made.model.eval()
        ids = torch.zeros(MASK.shape, dtype=torch.int64)
        made._get_per_token_logps_and_entropies = lambda *args, **named: (logp, torch.zeros_like(logp), None)
        batch = {"prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1] + 1, "completion_ids": ids}
        batch |= {"completion_mask": mask, "advantages": x["advantage"][:, 0], "num_items_in_batch": mask.sum()}
        batch |= {"old_per_token_logps": old, "ref_per_token_logps": x["ref"], "old_logps": (old * MASK).sum(1)}
        return made._compute_loss(made.model, batch)

    out: Made = {}
    for scale in ("group", "batch", "none"):
        out[f"advantage/{scale}"] = advantages(trainer(GRPOTrainer, GRPOConfig, scale_rewards=scale))
    clip = {"epsilon": 0.2, "epsilon_high": 0.28}
    grpo: dict[str, Made] = {kind: {"loss_type": kind, **clip} for kind in ("grpo", "bnpo", "dr_grpo", "dapo")}
    grpo["cispo"] = {"loss_type": "cispo", "epsilon_high": 5.0}
    grpo["gspo"] = {"loss_type": "grpo", "importance_sampling_level": "sequence", **clip}
    grpo["k3"] = {"loss_type": "grpo", "beta": 0.04, "use_bias_correction_kl": False, **clip}
    grpo["k3_corrected"] = {**grpo["k3"], "use_bias_correction_kl": True}  # TRL's default
    for name, options in grpo.items():
        made = trainer(GRPOTrainer, GRPOConfig, **{"beta": 0.0, **options})
        out[f"loss/{name}"] = loss_and_gradient(partial(loss, made), x["logp"])
        if name in ("dapo", "cispo"):
            out[f"token_loss/{name}"] = token_by_token(partial(loss, made, x["logp"]))
    made = trainer(RLOOTrainer, RLOOConfig, beta=0.0)
    out["advantage/rloo"] = advantages(made)
    out["loss/rloo_on_policy"] = loss_and_gradient(lambda logp: loss(made, logp, old=x["logp"]), x["logp"])
    out["loss/dpo"] = dpo(DPOTrainer, DPOConfig, common, base, x)
    return {"versions": versions("trl", "torch"), "results": out}


def dpo(kind: Any, config: Any, common: Made, base: str, x: dict[str, Tensor]) -> Made:
    """Sequences 0, 1, 2 chosen against 3, 4, 5 with beta 0.1; the model's outputs are the given log-probs."""
    from datasets import Dataset

    pairs = Dataset.from_list([{"prompt": "1+1", "chosen": "2", "rejected": "3"}] * 3)
    made = kind(base, args=config(**common, beta=0.1, loss_type="sigmoid"), train_dataset=pairs)
    made.model.eval()
    made.precompute_ref_logps = True
    one = torch.ones(len(LENGTHS), 1, dtype=torch.int64)
    mask = torch.cat([0 * one, MASK.long()], 1)
    chosen, rejected = (x["ref"] * MASK).sum(1).chunk(2)
    batch = {"input_ids": torch.zeros_like(mask), "attention_mask": mask, "completion_mask": mask}
    batch |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}

    def loss(logp: Tensor) -> Tensor:
        zero = torch.zeros_like(logp)
        given = SimpleNamespace(log_probs=logp * MASK, entropy=zero, mean_logits=zero, is_top1=zero.bool())
        return made._compute_loss(lambda **named: given, batch, return_outputs=False)

    return loss_and_gradient(loss, x["logp"])


# --- verl -------------------------------------------------------------------------------------------


def from_verl() -> Made:
    """Numbers of verl.trainer.ppo.core_algos."""
    from verl.trainer.ppo import core_algos as core
    from verl.workers.config import ActorConfig

    x = {name: padded(value) for name, value in inputs().items()}
    mask = MASK.double()
    last = torch.tensor(LENGTHS) - 1

    def terminal() -> Tensor:  # anew each time: some of verl's functions write into it
        reward = torch.zeros_like(mask)
        reward[torch.arange(len(LENGTHS)), last] = torch.tensor(REWARDS, dtype=torch.float64)
        return reward

    def actor(**options: Any) -> Any:
        return ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, **options)

    index, alone = np.array(GROUPS), np.array([0, 0, 0, 1, 1, 2])
    config = SimpleNamespace(gamma=1.0)
    out: Made = {}
    out["advantage/grpo"] = core.compute_grpo_outcome_advantage(terminal(), mask, index)[0][:, 0].tolist()
    out["advantage/grpo_alone"] = core.compute_grpo_outcome_advantage(terminal(), mask, alone)[0][:, 0].tolist()
    centred, _ = core.compute_grpo_outcome_advantage(terminal(), mask, index, norm_adv_by_std_in_grpo=False)
    out["advantage/dr_grpo"] = centred[:, 0].tolist()
    out["advantage/rloo"] = core.compute_rloo_outcome_advantage(terminal(), mask, index)[0][:, 0].tolist()
    greedy = torch.tensor(GREEDY, dtype=torch.float64)
    out["advantage/remax"] = core.compute_remax_outcome_advantage(terminal(), greedy, mask)[0][:, 0].tolist()
    plus, _ = core.compute_reinforce_plus_plus_outcome_advantage(terminal(), mask, config=config)
    out["advantage/reinforce_plus_plus"] = packed(plus)
    for name, gamma, lam, kl in (("gae", 0.95, 0.9, 0.0), ("gae_one", 1.0, 1.0, 0.0), ("gae_kl", 1.0, 0.9, 0.1)):
        reward = core.compute_rewards(terminal(), x["old"], x["ref"], kl) * mask
        white, target = core.compute_gae_advantage_return(reward, x["value"], mask, gamma, lam)
        out[f"advantage/{name}"] = {"whitened": packed(white), "return": packed(target)}

    modes = ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")
    dual = actor(clip_ratio_low=0.2, clip_ratio_high=0.28, clip_ratio_c=3.0)

    def policy(name: str, mode: str, settings: Any, rows: Tensor = mask) -> Callable[[Tensor], Tensor]:
        function = core.get_policy_loss_fn(name)
        return lambda logp: function(x["old"], logp, x["advantage"], rows, mode, settings)[0]

    for mode in modes:
        out[f"loss/{mode}"] = loss_and_gradient(policy("vanilla", mode, dual), x["logp"])
    out["token_loss/vanilla"] = token_by_token(lambda one: policy("vanilla", "token-mean", dual, one)(x["logp"]))
    dropped = mask * torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 1.0])[:, None]
    out["loss/dropped"] = loss_and_gradient(policy("vanilla", "seq-mean-token-mean", dual, dropped), x["logp"])
    dual.global_batch_info["global_batch_size"] = len(LENGTHS)
    out["loss/dropped_global"] = loss_and_gradient(policy("vanilla", "seq-mean-token-mean", dual, dropped), x["logp"])
    sequence = actor(clip_ratio_low=0.2, clip_ratio_high=0.28)
    out["loss/gspo"] = loss_and_gradient(policy("gspo", "seq-mean-token-mean", sequence), x["logp"])
    weight = actor(clip_ratio_low=1.0, clip_ratio_high=4.0)
    out["loss/cispo"] = loss_and_gradient(policy("cispo", "token-mean", weight), x["logp"])

    def penalty_sum(name: str, logp: Tensor) -> Tensor:
        return (core.kl_penalty(logp, x["ref"], name) * mask).sum()

    for name in ("k1", "kl", "k2", "mse", "k3", "low_var_kl"):
        penalty = core.kl_penalty(x["logp"], x["ref"], name)
        total = loss_and_gradient(partial(penalty_sum, name), x["logp"])
        out[f"kl/{name}"] = {"value": packed(penalty), "gradient": total["gradient"]}
    value, _ = core.compute_value_loss(x["value"], x["target"], x["old_value"], mask, cliprange_value=0.2)
    out["loss/value"] = value.item()
    return {"versions": versions("verl", "torch"), "results": out}


def versions(*packages: str) -> dict[str, str]:
    """What made these numbers."""
    return {name: importlib.metadata.version(name) for name in packages}


if __name__ == "__main__":
    torch.set_num_threads(1)
    name = sys.argv[1] if len(sys.argv) == 2 else ""
    makers = {"trl": from_trl, "verl": from_verl}
    if name not in makers:
        sys.exit("usage: make_reference_fixtures.py trl|verl")
    sizes = {"lengths": LENGTHS, "groups": GROUPS, "rewards": REWARDS, "greedy": GREEDY, "max_tokens": LONGEST}
    made = makers[name]()
    made["inputs"] = {**sizes, **inputs()}
    file = ROOT / "tests" / "fixtures" / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    text = json.dumps(made, sort_keys=True).replace('], "', '],\n"').replace('}, "', '},\n"')  # one result a line
    file.write_text(text + "\n", encoding="utf-8")
    print(f"{file.name}: {len(made['results'])} results, {file.stat().st_size} bytes")
