"""One look at the rules in each step: what they remember, what they say, and when they stop the run."""

from __future__ import annotations

from collections.abc import Sequence

from sieverl.errors import Alarm
from sieverl.recipe import AlarmSetting
from sieverl.training.rules import RULES, Found, Rule
from sieverl.training.state import Run, Watched
from sieverl.types import Metrics, Note


def check_alarms(run: Run, row: Metrics, rules: Sequence[Rule] = RULES) -> list[Found]:
    """The rules that fire in this step; a warning only where it begins. What they remember is in `run.state`."""
    found = []
    for rule in rules:
        setting = rule.set_to(run.recipe)
        value = rule.value(run, row) if setting.do != "off" else None
        if value is None:
            continue
        begins, fires = _remember(run.state.watched, rule, setting, value)
        if begins or (fires and setting.do == "stop"):
            found.append(Found(rule, value, setting, run, row))
    return found


def _remember(watched: Watched, rule: Rule, setting: AlarmSetting, value: float) -> tuple[bool, bool]:
    """Whether a rule begins to fire, and whether it fires; it ends when half of what began it has passed."""
    recent = [*watched.recent.get(rule.name, []), int(rule.beyond(value, setting.threshold))][-setting.steps :]
    watched.recent[rule.name] = recent
    needed = setting.share * setting.steps
    fires, begun = sum(recent) >= needed, rule.name in watched.begun
    if fires and not begun:
        watched.begun.append(rule.name)
    elif begun and sum(recent) < needed / 2:
        watched.begun.remove(rule.name)
    return fires and not begun, fires


def warnings(found: Sequence[Found]) -> list[Note]:
    """What those that do not stop the run say."""
    return [Note(f"alarm {f.rule.name}: {f}") for f in found if f.setting.do == "warn"]


def stop_if(found: Sequence[Found]) -> None:
    """Raise an Alarm for the first of those that stop the run."""
    for one in found:
        if one.setting.do == "stop":
            raise Alarm(str(one))
