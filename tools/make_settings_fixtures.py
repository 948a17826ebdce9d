"""Write what TRL's GRPOConfig and verl's PPO trainer have as settings, with their defaults, for the tests of migrate/.

    pip download --no-deps trl==1.16.0 verl==0.9.1 && unzip -q '*.whl' -d PACKAGES
    .venv/bin/python tools/make_settings_fixtures.py PACKAGES

Neither is installed or imported: TRL's fields are read from the syntax tree of its two dataclasses, the inherited ones
from the installed transformers (5.19), verl's from the YAML file of its resolved configuration.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import sys
from pathlib import Path

import yaml

from sieverl.migrate.draft import flat

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures" / "elsewhere"


def of_trl(package: Path) -> dict[str, object]:
    """Every field of GRPOConfig with its default, those of TrainingArguments first."""
    from transformers import TrainingArguments

    fields: dict[str, object] = {}
    for field in dataclasses.fields(TrainingArguments):
        made = field.default_factory() if field.default_factory is not dataclasses.MISSING else None
        fields[field.name] = made if field.default is dataclasses.MISSING else field.default
    for file in ("base_config", "grpo_config"):
        tree = ast.parse((package / "trainer" / f"{file}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.AnnAssign)
                and isinstance(node.target, ast.Name)
                and isinstance(node.value, ast.Call)
            ):
                words = {word.arg: word.value for word in node.value.keywords}
                fields[node.target.id] = ast.literal_eval(words["default"]) if "default" in words else None
    return fields


def of_verl(package: Path) -> dict[str, object]:
    """Every setting of the PPO trainer with its default."""
    tree = yaml.safe_load((package / "trainer" / "config" / "_generated_ppo_trainer.yaml").read_text(encoding="utf-8"))
    return {name: value for name, value in flat(tree).items() if not name.endswith("_target_")}


if __name__ == "__main__":
    packages = Path(sys.argv[1])
    FIXTURES.mkdir(exist_ok=True)
    for name, found in (("trl-1.16", of_trl(packages / "trl")), ("verl-0.9.1", of_verl(packages / "verl"))):
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in found.items())
        (FIXTURES / f"{name}.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
