"""Render a prompt to the token ids that the model sees: as a chat or as plain text, with the paper's instructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from sieverl.data.apart import FailedError, apart
from sieverl.errors import DataError, UsageError
from sieverl.text import storable
from sieverl.types import Prompt, Tokenizer

Style = Literal["auto", "chat", "plain"]
# The exact text that the paper's release adds to each problem, and its system prompt (arXiv 2504.11343).
BOXED_SUFFIX = " Let's think step by step and output the final answer within \\boxed{}."
BOXED_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
SUFFIXES: Mapping[str, str] = {"boxed": BOXED_SUFFIX}
SYSTEMS: Mapping[str, str] = {"boxed": BOXED_SYSTEM}
PATIENCE_S = 10.0  # for the chat template to render one prompt; it takes a millisecond
MEMORY_MB = 1024


@dataclass(frozen=True)
class Template:
    r"""How a prompt is rendered: `suffix` is appended to the question, `system` is the system prompt.

    For both, "boxed" means the paper's instruction. The style "auto" uses the tokenizer's chat template if it has one
    and plain text otherwise. A suffix or a system prompt that the row already has is not added again.

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
        """The question followed by the suffix."""
        suffix = SUFFIXES.get(self.suffix or "", self.suffix or "")
        return text if text.rstrip().endswith(suffix.strip()) else text + suffix

    def messages(self, prompt: Prompt) -> list[dict[str, str]]:
        """The chat: the row's messages, or its text as a user message. The suffix is added to the last user message."""
        chat = [dict(message) for message in prompt.messages or [{"role": "user", "content": prompt.text}]]
        last = max((i for i, message in enumerate(chat) if message["role"] == "user"), default=None)
        if last is not None:
            chat[last]["content"] = self.question(chat[last]["content"])
        system = SYSTEMS.get(self.system or "", self.system or "")
        if system and chat[0]["role"] != "system":
            chat.insert(0, {"role": "system", "content": system})
        return chat

    def text(self, prompt: Prompt) -> str:
        """The prompt as plain text: the content of every message, separated by blank lines."""
        return "\n\n".join(message["content"] for message in self.messages(prompt))


def has_chat_template(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer can render a chat."""
    return bool(getattr(tokenizer, "chat_template", None))


def render(tokenizer: Tokenizer, prompt: Prompt, template: Template) -> list[int]:
    """The token ids of one prompt; see `render_all`."""
    return render_all(tokenizer, [prompt], template)[0]


def render_all(tokenizer: Tokenizer, prompts: Sequence[Prompt], template: Template) -> list[list[int]]:
    """The token ids of each prompt, for the model to continue; they begin with at most one begin-of-text token.

    Raises DataError if a chat is asked for and the tokenizer has no chat template, if the template fails on a row or
    does not end, or if a prompt has no tokens.
    """
    chat = template.style == "chat" or (template.style == "auto" and has_chat_template(tokenizer))
    made = _chats(tokenizer, prompts, template) if chat else [_plain(tokenizer, p, template) for p in prompts]
    bos = getattr(tokenizer, "bos_token_id", None)
    for i, (prompt, ids) in enumerate(zip(prompts, made, strict=True)):
        while bos is not None and made[i][:2] == [bos, bos]:
            made[i] = made[i][1:]
        if not ids:
            raise DataError(f"prompt {prompt.id} is empty: {prompt.text[:60]!r} has no tokens; drop the row")
    return made


def _chats(tokenizer: Tokenizer, prompts: Sequence[Prompt], template: Template) -> list[list[int]]:
    """The template is a program of whoever made the model: it runs in a process that can be killed."""
    if not has_chat_template(tokenizer):
        name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        raise DataError(f"the tokenizer of {name} has no chat template; use the template style plain (or auto)")
    from transformers.utils import chat_template_utils  # noqa: F401 (so that no copy of this process has to)

    def rendered(prompt: Prompt) -> str:
        return str(tokenizer.apply_chat_template(template.messages(prompt), tokenize=False, add_generation_prompt=True))

    try:
        texts = list(apart(rendered, prompts, PATIENCE_S, MEMORY_MB))
    except FailedError as error:
        prompt = prompts[error.index]
        roles = ", ".join(message["role"] for message in template.messages(prompt))
        raise DataError(
            f"the chat template refuses prompt {prompt.id} with the roles {roles}: {error}; "
            "leave out the system prompt or use the template style plain"
        ) from error
    return [list(tokenizer(storable(text), add_special_tokens=False)["input_ids"]) for text in texts]


def _plain(tokenizer: Tokenizer, prompt: Prompt, template: Template) -> list[int]:
    text = storable(template.text(prompt))
    ids = list(tokenizer(text)["input_ids"])
    # Some tokenizers append the end-of-text token to every text; the model must not see the prompt end with it.
    eos, name = getattr(tokenizer, "eos_token_id", None), getattr(tokenizer, "eos_token", None)
    if eos is not None and ids[-1:] == [eos] and not text.endswith(str(name)):
        ids.pop()
    return ids
