"""The model that is measured: loaded, with its template, and the prompts of a benchmark as it sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sieverl.data.chat import Template, has_chat_template, render_all
from sieverl.engines.builtin import BuiltinEngine
from sieverl.errors import UsageError
from sieverl.evaluation.results import sha256
from sieverl.evaluation.tasks import Task
from sieverl.model import families
from sieverl.model.files import check_ids
from sieverl.model.find import load_for_use, weights_hash
from sieverl.model.load import stop_ids
from sieverl.model.policy import Policy
from sieverl.run_dir.parts import digest_of
from sieverl.types import JsonObject

PLACES = ("_name_or_path", "_commit_hash", "base_model_name_or_path", "revision")  # say where a model was found


@dataclass(frozen=True)
class Subject:
    """A loaded model: `name` is what the user called it, `path` where it was found."""

    name: str
    path: str
    dtype: str
    policy: Policy
    engine: BuiltinEngine
    template: Template

    @staticmethod
    def load(name: str, path: str, dtype: str, max_num_seqs: int, template: Template) -> Subject:
        """The model at `path`. The template style `auto` becomes `chat` where the tokenizer has a chat template."""
        policy = load_for_use(path, dtype)
        chat = template.style == "chat" or (template.style == "auto" and has_chat_template(policy.tokenizer))
        fixed = Template("chat" if chat else "plain", template.system, template.suffix)
        return Subject(name, path, dtype, policy, BuiltinEngine(policy, max_num_seqs), fixed)

    @property
    def eos(self) -> tuple[int, ...]:
        """Every token id that ends a response."""
        return stop_ids(self.policy.causal, self.policy.tokenizer)

    def render(self, task: Task) -> list[list[int]]:
        """The token ids of each prompt. Raises a UsageError where prompt and response exceed the context."""
        tokens = render_all(self.policy.tokenizer, task.prompts, self.template)
        _check_context(self.policy, task, tokens)
        check_ids(self.policy.causal, self.policy.tokenizer, tokens)
        return tokens

    @cached_property
    def weights(self) -> str:
        """SHA-256 of all parameters."""
        return weights_hash(self.policy.model)

    def decides(self) -> str:
        """A digest of all of the model that decides a response: weights, configuration, dtype, device, decoding."""
        of_model: Any = self.policy.causal.config
        config = {name: value for name, value in of_model.to_dict().items() if name not in PLACES}
        adapters = getattr(self.policy.model, "peft_config", {})
        lora = {name: {k: v for k, v in vars(one).items() if k not in PLACES} for name, one in adapters.items()}
        computed = (self.dtype, self.policy.device.type, self.engine.decoding, self.engine.eviction_multiple)
        return digest_of(self.weights, config, lora, computed)

    def about(self) -> JsonObject:
        """What identifies the model in a result file."""
        return {
            "name": self.name,
            "path": self.path,
            "revision": getattr(self.policy.causal.config, "_commit_hash", None),
            "sha256": self.weights,
            "parameters": self.policy.causal.num_parameters(),
            "dtype": self.dtype,
        }

    def about_prompt(self, example: Sequence[int]) -> JsonObject:
        """How prompts are put to the model, in a result file, with one of them as it is seen."""
        chat = self.template.style == "chat"
        return {
            "template": self.template.style,
            "system": self.template.system,
            "suffix": self.template.suffix,
            "chat_template_sha256": sha256(self.policy.tokenizer.chat_template) if chat else None,
            "example": self.policy.tokenizer.decode(example),
        }


def _check_context(policy: Policy, task: Task, tokens: Sequence[Sequence[int]]) -> None:
    limit, why = families.longest(policy.causal.config)
    longest, where = max((len(ids), i) for i, ids in enumerate(tokens))
    if not limit or longest + task.max_tokens <= limit:
        return
    room = limit - longest
    advice = f"use --max-tokens {room} or less" if room > 0 else "it needs a model with a longer context, or a --limit"
    raise UsageError(
        f"{task.name}: prompt {task.prompts[where].id} has {longest:,} tokens and --max-tokens is {task.max_tokens:,}: "
        f"together {longest + task.max_tokens:,}, but the model takes {limit:,} ({why}); {advice}"
    )
