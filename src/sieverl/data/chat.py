"""From a prompt to the tokens that the model sees: chat template or plain text, the paper's instructions by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sieverl.errors import DataError, UsageError
from sieverl.types import Prompt

Style = Literal["auto", "chat", "plain"]
# Word for word what the paper's release adds to each problem, and the system prompt on top of it (arXiv 2504.11343).
BOXED_SUFFIX = " Let's think step by step and output the final answer within \\boxed{}."
BOXED_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
SUFFIXES: Mapping[str, str] = {"boxed": BOXED_SUFFIX}
SYSTEMS: Mapping[str, str] = {"boxed": BOXED_SYSTEM}


@dataclass(frozen=True)
class Template:
    r"""How a prompt is put to the model: `suffix` follows the question, `system` goes before; "boxed" is the paper's.

    "auto" uses the tokenizer's chat template when it has one and plain text otherwise. A suffix or a system prompt
    that the row already has is not added again.

    >>> Template(suffix="boxed").question("What is 2+2?")
    "What is 2+2? Let's think step by step and output the final answer within \\boxed{}."
    """

    style: Style = "auto"
    system: str | None = None
    suffix: str | None = None

    def __post_init__(self) -> None:
        if self.style not in get_args(Style):
            raise UsageError(f"unknown template style {self.style!r}; allowed: {', '.join(get_args(Style))}")

    def question(self, text: str) -> str:
        """The question with the suffix behind it."""
        suffix = SUFFIXES.get(self.suffix or "", self.suffix or "")
        return text if text.rstrip().endswith(suffix.strip()) else text + suffix

    def messages(self, prompt: Prompt) -> list[dict[str, str]]:
        """The chat: the row's own messages or its text as the user's, the suffix behind the last turn of the user."""
        chat = [dict(message) for message in prompt.messages or [{"role": "user", "content": prompt.text}]]
        last = max((i for i, message in enumerate(chat) if message["role"] == "user"), default=None)
        if last is not None:
            chat[last]["content"] = self.question(chat[last]["content"])
        system = SYSTEMS.get(self.system or "", self.system or "")
        if system and chat[0]["role"] != "system":
            chat.insert(0, {"role": "system", "content": system})
        return chat

    def text(self, prompt: Prompt) -> str:
        """The plain prompt: every message's content, a blank line between."""
        return "\n\n".join(message["content"] for message in self.messages(prompt))


def has_chat_template(tokenizer: Any) -> bool:
    """Whether the tokenizer can render a chat."""
    return bool(getattr(tokenizer, "chat_template", None))


def render(tokenizer: Any, prompt: Prompt, template: Template) -> list[int]:
    """The prompt's token ids, ready to be continued by the model; the begin-of-text token stands there at most once.

    `tokenizer` is a Hugging Face tokenizer. Raises DataError when a chat is asked for and the tokenizer has no chat
    template, when the template fails on the row, or when nothing is left.
    """
    chat = template.style == "chat" or (template.style == "auto" and has_chat_template(tokenizer))
    ids = _chat(tokenizer, prompt, template) if chat else _plain(tokenizer, prompt, template)
    bos = getattr(tokenizer, "bos_token_id", None)
    while bos is not None and ids[:2] == [bos, bos]:
        ids = ids[1:]
    if not ids:
        raise DataError(f"prompt {prompt.id} is empty: no token is left of {prompt.text[:60]!r}; drop the row")
    return ids


def _chat(tokenizer: Any, prompt: Prompt, template: Template) -> list[int]:
    from jinja2 import TemplateError

    if not has_chat_template(tokenizer):
        name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        raise DataError(f"the tokenizer of {name} has no chat template; use the template style plain (or auto)")
    messages = template.messages(prompt)
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(
            f"the chat template refuses prompt {prompt.id} with the roles {roles}: {error}; "
            "leave out the system prompt or use the template style plain"
        ) from error
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _plain(tokenizer: Any, prompt: Prompt, template: Template) -> list[int]:
    text = template.text(prompt)
    ids = list(tokenizer(text)["input_ids"])
    # Some tokenizers end every text with the end-of-text token, which would tell the model that nothing follows.
    eos, name = getattr(tokenizer, "eos_token_id", None), getattr(tokenizer, "eos_token", None)
    if eos is not None and ids[-1:] == [eos] and not text.endswith(str(name)):
        ids.pop()
    return ids
