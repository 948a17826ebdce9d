"""The filters and their counts, the prepared file, and the command."""

import argparse
import json

import pyarrow.parquet as pq
import pytest
from conftest import SHARED

from sieverl.commands import data as command
from sieverl.data import Template, duplicates, filters, load_prompts, overlapping, prepare, too_long, unverifiable
from sieverl.errors import DataError, SieveRLError, UsageError
from sieverl.types import Prompt, Verdict


def shared(name):
    if not (SHARED / name).exists():
        pytest.skip(f"the shared test data are not here: {SHARED / name}")
    return str(SHARED / name)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def prompts(*texts, answer="1"):
    return [Prompt(i, text, {"answer": answer}) for i, text in enumerate(texts)]


def ids(sifted):
    kept, dropped = sifted
    return [p.id for p in kept], [d.id for d in dropped]


def word_tokenizer():
    """A tokenizer with one token for each word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core)


def test_too_long_counts_the_suffix_too():
    rows, words = prompts("one two", "one two three", "one two three four"), word_tokenizer()
    assert ids(too_long(rows, words, Template(), 3)) == ([0, 1], [2])
    assert ids(too_long(rows, words, Template(suffix=" now please"), 4)) == ([0], [1, 2])
    assert too_long(rows, words, Template(), 3)[1][0].detail == "4 tokens, more than 3"


def test_duplicates_differ_in_case_space_and_unicode_form_only():
    rows = prompts("What is x²?", "what  is\nX2?", "What is x-1?", "What is x+1?", "1 23", "12 3")
    assert ids(duplicates(rows)) == ([0, 2, 3, 4, 5], [1])
    suffixed = prompts("q", "q Let's think step by step and output the final answer within \\boxed{}.")
    assert ids(duplicates(suffixed)) == ([0], [1])
    chats = [
        Prompt(i, "and now?", {}, [{"role": "user", "content": text}, {"role": "user", "content": "and now?"}])
        for i, text in enumerate(["first", "second", "first"])
    ]
    assert ids(duplicates(chats)) == ([0, 1], [2])


def test_overlap_is_words_in_a_row_or_the_whole_short_text():
    bench = {"b": prompts("What is 2+2?", "a b c d e f g h i j k l m n o p")}
    rows = prompts(
        "what is  2+2?",  # the whole text
        "What is 2-2?",  # the same words, not the same text, and too short
        "z. D, e f g h i j k l m n o P! z",  # 13 words in a row
        "z d e f g h i j k l m n z o p",  # 11 in a row
    )
    assert ids(overlapping(rows, bench)) == ([1, 3], [0, 2])
    assert ids(overlapping(rows, bench, n=11)) == ([1], [0, 2, 3])
    assert [d.detail for d in overlapping(rows, bench)[1]] == [
        "same text as b row 1",
        "shares with b row 2: d e f g h i j k l m n o p",
    ]


def test_phrases_that_many_prompts_share_are_no_overlap():
    phrase = "where m and n are relatively prime positive integers find m plus n now"
    question = f"Tom has a red and a blue fraction on a very large sheet of white paper {phrase}"
    bench = {"b": prompts(question)}
    rows = prompts(*(f"{i} {phrase}" for i in range(11)), question)
    assert ids(overlapping(rows, bench)) == (list(range(11)), [11])
    assert ids(overlapping(rows[:5], bench)) == ([], [0, 1, 2, 3, 4])
    # Many near copies of a benchmark's prompt are still copies.
    copies = prompts(*(f"{i} {question}" for i in range(30)))
    assert ids(overlapping(copies, bench)) == ([], list(range(30)))


def test_unverifiable_answers_are_those_that_fail_themselves():
    rows = [Prompt(i, "q", {"answer": answer}) for i, answer in enumerate(["4", "bad", "none"])]
    kept, dropped = unverifiable(
        rows,
        lambda pairs: [Verdict.of(float(response != "bad")) for response, _ in pairs],
        lambda row: None if row["answer"] == "none" else row["answer"],
    )
    assert [p.id for p in kept] == [0, 2]
    assert [(d.id, d.reason) for d in dropped] == [(1, "unverifiable")]
    assert "incorrect" in dropped[0].detail


def test_prepare_counts_every_reason_and_writes_each_dropped_row(tmp_path):
    source = tmp_path / "rows.jsonl"
    rows = [
        {"question": "1+1", "answer": "2", "level": 3},
        {"question": "1+1 ", "answer": "3"},
        {"question": "2+2", "answer": None},
        {"question": "", "answer": "1"},
        {"question": "in the test", "answer": "1"},
        {"question": "3+4", "answer": "x\n#### 7"},
        {"question": "a b c d e f", "answer": "1"},
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows) + "broken\n")
    bench = write(tmp_path / "bench.jsonl", [{"question": "In the  test", "answer": "9"}])
    output = tmp_path / "out.parquet"
    tokenizer = tmp_path / "tokenizer"
    save_tokenizer(tokenizer)
    report = prepare(
        str(source),
        output,
        benchmarks=[bench],
        tokenizer=str(tokenizer),
        max_prompt_tokens=10,
        verifier=None,
    )
    assert (report.rows, report.kept) == (8, 2)
    assert report.dropped == {
        "duplicate": 1,
        "no answer": 1,
        "empty prompt": 1,
        "in a benchmark": 1,
        "too long": 1,
        "malformed": 1,
    }
    assert report.dropped_file is not None
    lines = [json.loads(line) for line in report.dropped_file.read_text().splitlines()]
    assert [line["id"] for line in lines] == [1, 2, 3, 4, 6, 7]
    assert lines[0]["row"]["question"] == "1+1 "
    assert lines[-1]["where"].endswith("rows.jsonl:8")
    kept = load_prompts(str(output))
    assert [(p.text, p.row["answer"]) for p in kept] == [("1+1", "2"), ("3+4", "7")]
    assert kept[0].row["level"] == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "bench.jsonl",
        "out.parquet",
        "out.parquet.dropped.jsonl",
        "rows.jsonl",
        "tokenizer",
    ]
    # A second run that drops nothing removes the list of the first one.
    prepare(bench, output, verifier=None)
    assert not report.dropped_file.exists()


def save_tokenizer(path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(pre_tokenizers.ByteLevel.alphabet())}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    PreTrainedTokenizerFast(tokenizer_object=core).save_pretrained(path)


def test_the_file_has_verls_schema_and_says_where_it_came_from(tmp_path):
    source = write(tmp_path / "copy.jsonl", [{"question": "q", "answer": "so\n#### 1,000"}])
    output = tmp_path / "out.parquet"
    prepare(f"gsm8k@{source}", output, template=Template(suffix="boxed", system="boxed"), verifier=None)
    table = pq.read_table(output)
    (row,) = table.to_pylist()
    assert row["data_source"] == "openai/gsm8k"
    assert [m["role"] for m in row["prompt"]] == ["system", "user"]
    assert row["prompt"][1]["content"] == ("q Let's think step by step and output the final answer within \\boxed{}.")
    assert row["ability"] == "math"
    assert row["reward_model"] == {"style": "rule", "ground_truth": "1000"}
    assert row["extra_info"]["split"] == "train"
    assert row["extra_info"]["index"] == 0
    assert json.loads(table.schema.metadata[b"sieverl"])["origin"]["path"] == source
    # Rendered with the same template, nothing is there twice.
    (prompt,) = load_prompts(str(output))
    assert Template(suffix="boxed", system="boxed").messages(prompt) == row["prompt"]


def test_reasoning_gym_survives_the_file(tmp_path):
    import reasoning_gym

    options = {"seed": 3, "size": 4}
    prepare("reasoning_gym:leg_counting", tmp_path / "gym.parquet", options=options, verifier=None)
    scorer = reasoning_gym.create_dataset("leg_counting", **options)
    for prompt, original in zip(load_prompts(str(tmp_path / "gym.parquet")), scorer, strict=True):
        assert prompt.text == original["question"]
        assert prompt.row["metadata"]["animals"] == original["metadata"]["animals"]
        assert scorer.score_answer(original["answer"], prompt.row) == 1.0
    with pytest.raises(DataError, match="no row of reasoning_gym:rush_hour is left"):
        prepare("reasoning_gym:rush_hour", tmp_path / "rush.parquet", options={"size": 3}, verifier=None)


def test_a_file_of_verl_goes_through_and_comes_back(tmp_path):
    source = shared("math_train_verl.parquet")
    prepare(source, tmp_path / "out.parquet", limit=300, verifier=None, keep_duplicates=True)
    before, after = load_prompts(source, limit=300), load_prompts(str(tmp_path / "out.parquet"))
    assert [(p.text, p.row["answer"], p.messages) for p in after] == [
        (p.text, p.row["answer"], p.messages) for p in before
    ]
    assert after[0].row["data_source"] == "TianHongZXY/MATH"
    assert after[0].row["level"] == "Level 5"


def test_benchmarks_do_not_stand_in_the_training_sets(tmp_path):
    report = prepare(
        f"gsm8k@{shared('gsm8k_train.jsonl')}",
        tmp_path / "out.parquet",
        benchmarks=[f"gsm8k@{shared('gsm8k_test.jsonl')}"],
        verifier=None,
    )
    assert (report.rows, report.kept, report.dropped) == (7473, 7469, {"in a benchmark": 4})


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"output": "out.jsonl"}, UsageError, "must end with .parquet"),
        ({"output": "no/such/out.parquet"}, UsageError, "cannot write to the directory"),
        ({"tokenizer": "x"}, UsageError, "give both or neither"),
        ({"tokenizer": "nowhere", "max_prompt_tokens": 3}, DataError, "no tokenizer can be loaded from 'nowhere'"),
        ({"benchmarks": ["nowhere.jsonl"]}, DataError, "no such file"),
        ({"columns": {"answer": "gold"}}, DataError, "no column 'gold' for the answer; there is: prompt, answer"),
    ],
)
def test_prepare_refuses_and_writes_nothing(tmp_path, monkeypatch, arguments, kind, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in.jsonl", [{"prompt": "q", "answer": "1"}])
    options = {"output": "out.parquet", "verifier": None} | arguments
    with pytest.raises(kind, match=message) as caught:
        prepare("in.jsonl", **options)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]


def test_prepare_does_not_overwrite_its_source(tmp_path):
    prepare(write(tmp_path / "in.jsonl", [{"prompt": "q", "answer": "1"}]), tmp_path / "a.parquet", verifier=None)
    with pytest.raises(UsageError, match="is the source itself"):
        prepare(str(tmp_path / "a.parquet"), tmp_path / "a.parquet", verifier=None)


def run(*arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.run(command.Options(**vars(parser.parse_args(list(arguments)))))


def test_the_command(tmp_path, capsys):
    source = write(tmp_path / "in.jsonl", [{"p": "q", "a": "step\nA: 7"}, {"p": "q", "a": "A: 8"}, {"p": "r", "a": 3}])
    output = str(tmp_path / "out.parquet")
    run(
        "prepare",
        source,
        "--output",
        output,
        "--columns",
        "prompt=p, answer=a",
        "--suffix",
        "boxed",
        "--verifier",
        "none",
    )
    printed = capsys.readouterr().out
    assert "3 │ read" in printed
    assert "1 │ duplicate" in printed
    assert "2 │ kept" in printed
    assert f"wrote {output}\n" in printed
    assert load_prompts(output)[0].text.endswith("\\boxed{}.")
    run(
        "prepare",
        "reasoning_gym:chain_sum",
        "--output",
        output,
        "--option",
        "size=2",
        "--option",
        "seed=5",
        "--limit",
        "1",
    )
    assert len(load_prompts(output)) == 1
    with pytest.raises(UsageError, match="--option has 'size'; it takes KEY=VALUE"):
        run("prepare", source, "--output", output, "--option", "size")
    run("list")
    assert "gsm8k" in capsys.readouterr().out


def test_gold_answers_must_satisfy_the_verifier(tmp_path):
    rows = [
        {"prompt": "1+1", "answer": "2"},
        {"prompt": "half", "answer": "\\frac{1}{2}"},
        {"prompt": "?", "answer": "{"},
    ]
    report = prepare(write(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet")
    assert report.dropped == {"unverifiable": 1}
    assert [p.text for p in load_prompts(str(tmp_path / "out.parquet"))] == ["1+1", "half"]


def test_every_error_is_for_people():
    assert issubclass(DataError, SieveRLError)
    assert filters.normalise("  A\tB ") == "a b"


def test_a_preparation_that_is_cut_off_goes_on(tmp_path, monkeypatch):
    """Gold answers are verified in chunks, of two here; the file is the same as that of an undisturbed one."""
    from sieverl.verify import kept
    from sieverl.verify.pool import Pool

    monkeypatch.setattr(kept, "CHUNK", 2)
    source = write(tmp_path / "in.jsonl", [{"prompt": f"{n}+0", "answer": str(n)} for n in range(7)])
    whole, cut = tmp_path / "whole.parquet", tmp_path / "cut.parquet"
    prepare(source, whole, verifier="number")
    verdicts, asked = Pool.verdicts, list[int]()
    cut_at: int | None = 2

    def counted(pool, pairs):
        if len(asked) == cut_at:
            raise KeyboardInterrupt
        asked.append(len(pairs))
        return verdicts(pool, pairs)

    monkeypatch.setattr(Pool, "verdicts", counted)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, cut, verifier="number")
    assert not cut.exists()
    assert len(list(tmp_path.glob("cut.parquet.parts/part-*.json"))) == 2
    asked, cut_at = [], None
    prepare(source, cut, verifier="number")
    assert sum(asked) == 3
    assert cut.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.parquet", "in.jsonl", "whole.parquet"]


def test_fuzz_options_that_are_half_characters(tmp_path):
    """An argument in another encoding than the terminal's: Parquet holds UTF-8 alone."""
    source = write(tmp_path / "in.jsonl", [{"prompt": "q", "answer": "1"}])
    template = Template(system="\udcff", suffix="\ud800")
    report = prepare(source, tmp_path / "out.parquet", split="\ud800", verifier=None, template=template)
    assert report.kept == 1
    assert "\ufffd" in str(load_prompts(str(tmp_path / "out.parquet"))[0].messages)
