"""Plans for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sieverl.planning.lengths import Lengths
from sieverl.planning.machine import GPUS
from sieverl.planning.plan import Plan
from sieverl.planning.setting import Setting
from sieverl.planning.shape import BUILT_IN
from sieverl.planning.work import Work

SETTING = Setting(gpus=1, micro_batch_tokens=4096, max_num_seqs=64)
WORK = Work(64, 8, 100, Lengths(300, 3, 1024), kept=0.5, updates=1)


def fsdp(gpus: int, **changes: Any) -> Setting:
    return replace(SETTING, gpus=gpus, strategy="fsdp", shard=gpus, **changes)


def plan(name: str = "Qwen2.5-7B", setting: Setting = SETTING, work: Work = WORK, gpu: str = "H100") -> Plan:
    return Plan(BUILT_IN[name], setting, work, GPUS[gpu])


def items(one: Plan) -> dict[str, float]:
    """Bytes by name."""
    return {item.name: item.bytes for item in one.items}
