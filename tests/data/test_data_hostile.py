"""Chat templates that never end, and rows that nothing can store: one line for people, no hang, no crash."""

from __future__ import annotations

import json
import os

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_data_chat import CHATML, PROMPT, tokenizer

from sieverl.data import Template, chat, load_prompts, render
from sieverl.data.apart import FailedError, apart
from sieverl.data.chat import render_all
from sieverl.errors import DataError
from sieverl.types import Prompt

HOSTILE = {
    "loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "zero": "{{ 1 / 0 }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "nested": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "memory": "{{ 'x' * 10 ** 11 }}",
    "text": "{% for a in range(9999) %}{{ 'x' * 10 ** 6 }}{% endfor %}",
    "attribute": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "file": "{% include '/etc/hostname' %}",
    "undefined": "{{ nothing.at.all }}",
    "syntax": "{% if %}",
    "error": "{{ raise_exception('\x1b]0;title\x07\nTraceback') }}",
    "type": "{{ 1 + 'a' }}",
}


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


@pytest.mark.parametrize("name", HOSTILE)
def test_i11_a_template_that_fails_is_one_line_within_its_deadline(name, monkeypatch):
    before = children()  # tests of multiprocessing leave its resource tracker
    monkeypatch.setattr(chat, "PATIENCE_S", 2.0)
    with pytest.raises(
        DataError, match=r"the chat template refuses prompt 0 with the roles user: .*template style"
    ) as e:
        render(tokenizer(HOSTILE[name]), PROMPT, Template("chat"))
    assert len(str(e.value).splitlines()) == 1
    assert not children() - before, "nothing is left"


def test_i11_the_prompt_that_a_template_fails_on_is_named():
    loops = CHATML + "{% if messages[0].content == 'c' %}{{ 1 / 0 }}{% endif %}"
    prompts = [Prompt(i, text, {}) for i, text in enumerate("abcd")]
    with pytest.raises(DataError, match="refuses prompt 2 with the roles user: ZeroDivisionError"):
        render_all(tokenizer(loops), prompts, Template("chat"))


def test_i11_many_prompts_are_rendered_in_order_as_one_by_one():
    prompts = [Prompt(i, f"{i} \u20ac \U0001f600\n" * (i % 7 + 1), {}) for i in range(300)]
    tok = tokenizer(CHATML)
    texts = [tok.decode(ids) for ids in render_all(tok, prompts, Template("chat"))]
    assert texts == [f"<|im_start|>user\n{p.text}<|im_end|>\n<|im_start|>assistant\n" for p in prompts]


def test_i11_what_runs_apart_cannot_stop_or_change_this_process():
    changed, before = [], children()

    def act(value: str) -> str:
        changed.append(value)
        if value == "leave":
            raise SystemExit
        if value == "kill":
            os.kill(os.getpid(), 9)
        return value * 2

    assert list(apart(act, ["a", "b"], 5.0, 100)) == ["aa", "bb"]
    for value in ("leave", "kill"):
        with pytest.raises(FailedError, match="crashed") as error:
            list(apart(act, ["a", value], 5.0, 100))
        assert error.value.index == 1
    assert changed == []
    assert not children() - before


# --- rows -------------------------------------------------------------------------------------------


def test_i10_lone_surrogates_are_replaced_where_data_is_read(tmp_path):
    path = tmp_path / "d.jsonl"
    row = '{"prompt": "a\\ud800b \\ud83d\\ude00", "answer": "\\udfff4", "more": [{"\\udc00": "\\ud800"}]}\n'
    chats = '{"prompt": [{"role": "user", "content": "\\udfff?"}], "answer": "4"}\n'
    path.write_bytes(
        (row + chats).encode() + '{"prompt": "raw \ud800", "answer": "4"}\n'.encode("utf-8", "surrogatepass")
    )
    first, second, third = load_prompts(str(path))
    assert first.text == "a\ufffdb \U0001f600"
    assert first.row["answer"] == "\ufffd4"
    assert first.row["more"] == [{"\ufffd": "\ufffd"}]
    assert second.messages == [{"role": "user", "content": "\ufffd?"}]
    assert third.text == "raw \ufffd"
    (tmp_path / "d.json").write_text(json.dumps([{"prompt": "\ud800", "answer": "\udfff"}]))
    assert load_prompts(str(tmp_path / "d.json"))[0].text == "\ufffd"


@pytest.mark.parametrize("template", [None, CHATML, CHATML + "{{ '\\ud800' }}"])
def test_i10_a_surrogate_in_a_prompt_or_template_never_reaches_the_tokenizer(template):
    tok = tokenizer(template)
    ids = render(tok, Prompt(0, "a\ud800", {}), Template(suffix="\udcff"))
    assert ("a\ufffd\ufffd" if template is None else "a\U000100ff") in tok.decode(ids)  # JSON joins the two halves


def test_i14_a_deeply_nested_file_is_dropped_rows_not_a_traceback(tmp_path):
    deep = '{"prompt": "p", "answer": "4", "x": ' + "[" * 100_000 + "]" * 100_000 + "}"
    deepish = '{"prompt": "p", "answer": "4", "x": ' + "[" * 150 + "]" * 150 + "}"
    for name, text in (("a.json", deep), ("b.json", f"[{deepish}]"), ("c.jsonl", deepish), ("d.jsonl", deep)):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=r"nested too deeply|maximum recursion depth"):
            load_prompts(str(tmp_path / name))


def test_i14_a_prompt_that_is_not_a_number_is_empty(tmp_path):
    pq.write_table(pa.table({"prompt": [float("nan"), 2.0], "answer": [1.0, float("nan")]}), tmp_path / "d.parquet")
    with pytest.raises(DataError, match="no usable row"):
        load_prompts(str(tmp_path / "d.parquet"))
    pq.write_table(pa.table({"prompt": [float("nan"), 2.0], "answer": [1.0, 4.0]}), tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"row 1: column 'prompt' is empty"):
        load_prompts(str(tmp_path / "d.parquet"))
    kept = load_prompts(str(tmp_path / "d.parquet"), options={"bad_rows": "drop"})
    assert [prompt.text for prompt in kept] == ["2.0"]
