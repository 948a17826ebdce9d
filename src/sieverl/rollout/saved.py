"""A batch that was sampled ahead, as a checkpoint keeps it: numbers in JSON, token ids and log-probs in tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, fields

import numpy as np
import torch
from torch import Tensor

from sieverl.data import Cursor
from sieverl.distributed.world import World
from sieverl.rollout.collect import Batch
from sieverl.rollout.environment import Environment, PromptSet
from sieverl.rollout.verified import Scored
from sieverl.types import JsonObject, Responses, Rollout, Status, Verdict

SIMPLE = (
    "status_R",
    "prompt_of_group",
    "rounds",
    "entropy",
    "skipped",
    "stopped",
    "version",
    "seconds",
)  # fields that JSON has as they are


def to_saved(batch: Batch, world: World) -> tuple[JsonObject, dict[str, Tensor]]:
    """The batch of all ranks as JSON and tensors. Every rank must call this."""
    own = {row: (s.rollout.sample, s.rollout.tokens, s.rollout.logp) for row, s in batch.own.items()}
    rows = {row: one for part in world.all_gather(own) for row, one in part.items()}
    ordered = [rows[row] for row in range(len(batch.responses))]
    tensors = {
        "sample": torch.tensor([sample for sample, _, _ in ordered], dtype=torch.int64),
        "tokens": torch.tensor([x for _, tokens, _ in ordered for x in tokens], dtype=torch.int64),
        "logp": torch.tensor([x for _, _, logp in ordered for x in logp], dtype=torch.float64),
    }
    about = {name: getattr(batch, name) for name in SIMPLE} | {
        "responses": _to_json(batch.responses),
        "cursor": asdict(batch.cursor),
        "reasons": dict(batch.reasons),
        "parts_R": [dict(parts) for parts in batch.parts_R],
    }
    return about, tensors


def from_saved(
    about: JsonObject, tensors: Mapping[str, Tensor], prompt_set: PromptSet, environment: Environment
) -> Batch:
    """The batch again: of its responses each rank has those of its share of the groups."""
    responses, world = _from_json(about["responses"]), environment.world
    lengths = responses.length_R.tolist()
    parts = zip(
        tensors["sample"].tolist(), tensors["tokens"].split(lengths), tensors["logp"].split(lengths), strict=True
    )
    own = {}
    for row, (sample, tokens, logp) in enumerate(parts):
        group = int(responses.prompt_R[row])
        if group % world.size != world.rank:
            continue
        index, truncated = about["prompt_of_group"][group], bool(responses.truncated_R[row])
        prompt, prompt_tokens = prompt_set.prompts[index], prompt_set.prompt_tokens[index]
        rollout = Rollout(prompt.id, sample, tokens.tolist(), logp.tolist(), truncated, group, prompt_tokens)
        status, reward, correct = Status(about["status_R"][row]), responses.reward_R[row], responses.correct_R[row]
        verdict = Verdict(float(reward), bool(correct), status, about["parts_R"][row])
        own[row] = Scored(rollout, environment.tokenizer.decode(rollout.tokens, skip_special_tokens=True), verdict)
    return Batch(
        responses,
        own,
        cursor=Cursor(**about["cursor"]),
        reasons=Counter(about["reasons"]),
        parts_R=about["parts_R"],
        **{name: about[name] for name in SIMPLE if name in about},  # an older version had fewer
    )


def _to_json(responses: Responses) -> JsonObject:
    """The fields by name, arrays as lists."""
    values = {f.name: getattr(responses, f.name) for f in fields(responses)}
    table = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}
    return table | {"greedy": _to_json(responses.greedy) if responses.greedy else None}


def _from_json(table: JsonObject) -> Responses:
    """What `_to_json` gave."""
    types = {"prompt": np.int64, "reward": np.float64, "correct": bool, "length": np.int64, "truncated": bool}
    arrays = {f"{name}_R": np.array(table[f"{name}_R"], dtype=kind) for name, kind in types.items()}
    greedy_R = None if table["greedy_R"] is None else np.array(table["greedy_R"], dtype=np.float64)
    greedy = _from_json(table["greedy"]) if table["greedy"] else None
    return Responses(**{**table, **arrays, "greedy_R": greedy_R, "greedy": greedy})
