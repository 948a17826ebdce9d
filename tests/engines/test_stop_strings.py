"""Stop strings end a response at the token that completes them, whatever pieces the tokenizer makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import BASE
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sieverl.engines.stop_strings import stopped

ADDED = ["</think>", "<|im_end|>"]


def bytes_bpe():
    """Byte-level BPE with a few merges: `he`, and a token that joins the end of one character to the next letter."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {char: i for i, char in enumerate(alphabet)}
    merges = [("h", "e"), ("©", "x"), ("a", "."), ("a.", "b")]
    vocab |= {a + b: len(vocab) + i for i, (a, b) in enumerate(merges)}
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    return wrapped(made)


def metaspace():
    """As sentencepiece has it: `▁` for a space, taken off at the start, and tokens of bytes for the unknown."""
    words = ["<unk>", "▁", "a", "b", ".", "▁Question", "Question", ":", "▁is", "\n", "é"]
    vocab = {word: i for i, word in enumerate([*words, *(f"<0x{i:02X}>" for i in range(256))])}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(parts)
    return wrapped(made)


def wrapped(made):
    made.add_special_tokens(ADDED[1:])
    made.add_tokens(ADDED[:1])
    return PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=True)


def pieces(tokenizer, *tokens):
    """Ids of tokens as they stand in the vocabulary; `0xE7` is a byte."""
    byte = dict(zip(sorted_bytes(), range(256), strict=True))
    vocab, found = tokenizer.get_vocab(), []
    for token in tokens:
        if token.startswith("0x"):
            found.append(vocab.get(f"<{token}>", byte[int(token, 16)]))
        else:
            found.append(vocab[token])
    return found


def sorted_bytes():
    """The bytes in the order of the byte-level alphabet."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    return sorted(range(256), key=lambda b: b if b in visible else 256 + hidden.index(b))


def sampled(tokenizer, ids, *stop):
    """How many of the ids are sampled one by one until a stop string ends them, and whether they end without one."""
    for length in range(1, len(ids) + 1):
        if stopped(tokenizer, np.array([ids[:length]]), stop).item():
            return length, False
    return len(ids), True


@pytest.mark.parametrize("stop", ["答", "é", "🙂", "答案", "终" * 12 + "🙂"])
@pytest.mark.parametrize("before", ["", "x", "è", "一二三四五六七八九十" * 3])
def test_M10_stop_strings_of_several_bytes_a_character(stop, before):
    tokenizer = AutoTokenizer.from_pretrained(BASE)  # one token a byte
    ids = tokenizer(before + stop + "zz")["input_ids"]
    assert sampled(tokenizer, ids, stop) == (len(ids) - 2, False)


@pytest.mark.parametrize("before", [[], ["a"], ["0xE7", "0xAD"], ["0xE4", "0xB8", "0x80"] * 9])
@pytest.mark.parametrize("stop", ["答", "🙂", "终" * 12])
def test_M10_bytes_of_a_sentencepiece_tokenizer(before, stop):
    tokenizer = metaspace()
    ids = pieces(tokenizer, *before, *(f"0x{b:02X}" for b in stop.encode()), "a", "b")
    assert sampled(tokenizer, ids, stop) == (len(ids) - 2, False)


@pytest.mark.parametrize("before", [[], ["a"], ["a", "▁is", "."] * 10])
@pytest.mark.parametrize(("stop", "tokens"), [(" Question:", ["▁Question", ":"]), ("\nQ", ["\n", "Question"])])
def test_M10_a_leading_space_is_not_lost(before, stop, tokens):
    tokenizer = metaspace()
    ids = pieces(tokenizer, *before, *tokens, "a", "b")
    assert sampled(tokenizer, ids, stop) == (len(ids) - 2, False)


@pytest.mark.parametrize("make", [bytes_bpe, metaspace])
@pytest.mark.parametrize("stop", [*ADDED, "a</think>", "</think>b", "think>"])
def test_M10_stop_strings_of_added_and_special_tokens(make, stop):
    tokenizer = make()
    special = "<|im_end|>" if "end" in stop else "</think>"
    ids = pieces(tokenizer, *(["b"] * 20), "a", special, "b", "b")
    assert sampled(tokenizer, ids, stop) == (len(ids) - (1 if stop.endswith("b") else 2), False)


def test_M10_a_token_with_the_stop_string_in_its_middle():
    tokenizer = bytes_bpe()
    assert sampled(tokenizer, pieces(tokenizer, "b", "a.b", "b"), ".") == (2, False)
    assert sampled(tokenizer, pieces(tokenizer, "b", "0xC3", "©x", "b"), "é") == (3, False)
    assert sampled(tokenizer, pieces(tokenizer, "b", "0xC3", "he", "b"), "é") == (4, True)


def test_M10_spaces_are_not_tidied_away():
    tokenizer = metaspace()
    assert sampled(tokenizer, pieces(tokenizer, "a", "▁", ".", "b"), " .") == (3, False)


def test_M10_what_only_looks_like_the_stop_string_does_not_end():
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    for text in ("笔", "è", "answer"):
        ids = tokenizer(text)["input_ids"]
        assert sampled(tokenizer, ids, "答", "é") == (len(ids), True)
