"""Prompts as token ids: chat or plain text, the paper's instructions, never two begin-of-text tokens."""

from typing import Any

import pytest

from sieverl.data import BOXED_SUFFIX, BOXED_SYSTEM, Template, render
from sieverl.errors import DataError, UsageError
from sieverl.types import Prompt

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PROMPT = Prompt(0, "What is 2+2?", {"answer": "4"})


def tokenizer(template=None, bos=False, eos=False):
    """A byte-level tokenizer that adds the begin (and end) token as Llama's (and T5's) do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    specials = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(specials + alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    if bos or eos:
        core.post_processor = processors.TemplateProcessing(
            single="<s> " * bos + "$A" + " </s>" * eos, special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", additional_special_tokens=specials[2:]
    )
    made.chat_template = template
    return made


def seen(tok, prompt=PROMPT, **options):
    return tok.decode(render(tok, prompt, Template(**options)))


def test_auto_is_chat_with_a_chat_template_and_plain_without():
    assert seen(tokenizer()) == "What is 2+2?"
    assert seen(tokenizer(CHATML)) == "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"
    assert seen(tokenizer(CHATML), style="plain") == "What is 2+2?"


def test_tokens_are_those_of_transformers_own_rendering():
    tok = tokenizer("{{ bos_token }}" + CHATML, bos=True)
    messages = [{"role": "system", "content": BOXED_SYSTEM}, {"role": "user", "content": PROMPT.text + BOXED_SUFFIX}]
    expected = tok.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert render(tok, PROMPT, Template(suffix="boxed", system="boxed")) == expected


def test_the_papers_words():
    assert BOXED_SUFFIX == " Let's think step by step and output the final answer within \\boxed{}."
    assert BOXED_SYSTEM == "Please reason step by step, and put your final answer within \\boxed{}."
    assert seen(tokenizer(), suffix="boxed", system="boxed") == f"{BOXED_SYSTEM}\n\nWhat is 2+2?{BOXED_SUFFIX}"
    assert seen(tokenizer(), suffix=" Go!", system="Think.") == "Think.\n\nWhat is 2+2? Go!"


@pytest.mark.parametrize("style", ["chat", "plain"])
def test_begin_of_text_stands_there_exactly_once(style):
    for template in ("{{ bos_token }}" + CHATML, "{{ bos_token }}{{ bos_token }}" + CHATML):
        tok = tokenizer(template, bos=True)
        assert render(tok, PROMPT, Template(style)).count(tok.bos_token_id) == 1
    tok = tokenizer(CHATML, bos=True)
    prompt = Prompt(0, "<s>What is 2+2?", {})
    assert render(tok, prompt, Template("plain")).count(tok.bos_token_id) == 1


def test_a_plain_prompt_does_not_end_the_text():
    tok = tokenizer(bos=True, eos=True)
    assert seen(tok) == "<s>What is 2+2?"


def test_a_suffix_and_a_system_prompt_that_are_there_are_not_added_again():
    chat = [{"role": "system", "content": "mine"}, {"role": "user", "content": f"q{BOXED_SUFFIX}"}]
    prompt = Prompt(0, "q", {}, chat)
    template = Template(suffix="boxed", system="boxed")
    assert template.messages(prompt) == chat
    assert seen(tokenizer(), prompt, suffix="boxed", system="boxed") == f"mine\n\nq{BOXED_SUFFIX}"


def test_the_suffix_follows_the_last_turn_of_the_user_and_the_row_stays_as_it_is():
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    prompt = Prompt(0, "c", {}, chat)
    assert [m["content"] for m in Template(suffix="!").messages(prompt)] == ["a", "b", "c!"]
    assert [m["content"] for m in chat] == ["a", "b", "c"]


def test_what_cannot_be_rendered_says_what_to_do():
    with pytest.raises(DataError, match="has no chat template; use the template style plain"):
        render(tokenizer(), PROMPT, Template("chat"))
    wrong: dict[str, Any] = {"style": "chatml"}
    with pytest.raises(UsageError, match="unknown template style 'chatml'; allowed: auto, chat, plain"):
        Template(**wrong)
    strict = tokenizer("{{ raise_exception('System role not supported') }}")
    with pytest.raises(
        DataError, match="refuses prompt 0 with the roles user: TemplateError: System role not supported"
    ):
        render(strict, PROMPT, Template("chat"))
    with pytest.raises(DataError, match="prompt 0 is empty"):
        render(tokenizer(), Prompt(0, "", {}), Template("plain"))
