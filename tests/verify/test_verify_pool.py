"""The pool: limits, dead workers, order and counts; nothing that a response does stops the run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest

from sieverl.errors import DataError, UsageError
from sieverl.types import Row, Status
from sieverl.verify import Pool, check_gold

ROW = {"answer": "4"}
USER = """
    import os, sys, time
    print("loaded, and printing must not hurt")
    def act(response, row):
        what, _, rest = response.partition(" ")
        if what == "sleep": time.sleep(float(rest))
        if what == "hang": 10 ** (10 ** 10) if rest else max(iter(int, 1))
        if what == "memory": return len(b"x" * (2 ** 28))
        if what == "die": os._exit(7)
        if what == "kill": os.kill(os.getpid(), 11)
        if what == "exit": sys.exit(1)
        if what == "raise": raise KeyError("oh")
        if what == "alarm": os.kill(os.getpid(), 2)
        if what == "print": print("x" * 10_000, flush=True); input() if rest else None
        if what == "pid": return float(os.getpid())
        if what == "modules": return float(any(name in sys.modules for name in rest.split(",")))
        return row.get("reward", 1.0)
"""


@pytest.fixture
def user(tmp_path):
    file = tmp_path / "user_reward.py"
    file.write_text(textwrap.dedent(USER))
    return {"name": f"{file}:act"}


def statuses(pool, responses, row=ROW):
    return [verdict.status.value for verdict in pool.verdicts([(response, row) for response in responses])]


def test_submit_and_collect():
    with Pool({"name": "math"}) as pool:
        pool.submit(("a", 0), r"\boxed{4}", ROW)
        pool.submit(("b", 1), r"\boxed{2x}", {"answer": "x+x"})
        assert pool.verdicts([("", ROW), (r"\boxed{y+y}", {"answer": "2y"})])[1].correct
        first = pool.collect()
        assert {key: verdict.correct for key, verdict in first.items()} == {("a", 0): True, ("b", 1): True}
        assert pool.collect() == {}
        pool.submit("c", "no box", ROW)
        assert pool.collect()["c"].status == Status.NO_ANSWER


def test_slow_verdicts_are_progress(user, monkeypatch):
    """A step whose verification takes long is not one that is stuck."""
    monkeypatch.setattr("sieverl.verify.pool.LOOK_S", 0.01)
    said: list[str] = []
    with Pool(user, workers=1) as slow:
        slow.verdicts([("fine", ROW)])
        for number in range(4):
            slow.submit(number, "sleep 0.2", ROW)
        assert len(slow.collect(said.append)) == 4
        assert 1 <= len(said) <= 4, "at most once a verdict"
        slow.submit(0, "sleep 0.3", ROW)
        slow.collect(said.append)
    assert set(said) == {"verifying"}


def test_order_is_kept(user):
    rng = random.Random(0)
    with Pool(user) as pool:
        rows = [(f"sleep {rng.random() / 50}", {"reward": float(i)}) for i in range(100)]
        assert [verdict.reward for verdict in pool.verdicts(rows)] == list(range(100))


@pytest.fixture
def pool_threads():
    """A function: the threads of pools that were started in this test and still run."""
    before = set(threading.enumerate())
    return lambda: [t for t in threading.enumerate() if t.name == "sieverl-verify" and t not in before]


def test_what_is_cheap_starts_no_worker(pool_threads):
    with Pool({"name": "number"}) as pool:
        assert statuses(pool, ["4", "5"]) == ["correct", "incorrect"]
        assert not pool_threads()


def test_256_short_answers_cost_little():
    """They are decided in this process, with few calls of functions (also of built-in ones) for each."""
    pairs: list[tuple[str, Row]] = [
        (rf"(34*8)-{i}: 34*8=272, 272-{i}={i} \boxed{{{i}}}", {"answer": f"{272 - i}"}) for i in range(256)
    ]
    calls: Counter[str] = Counter()
    with Pool({"name": "math"}) as pool:
        sys.setprofile(lambda frame, event, argument: calls.update([event]))
        verdicts = [pool.verifier.cheap(response, row) for response, row in pairs]
        sys.setprofile(None)
    assert sum(verdict is not None and verdict.correct for verdict in verdicts) == 1
    assert None not in verdicts
    assert (calls["call"] + calls["c_call"]) / len(pairs) < 70


def test_only_the_guilty_response_times_out(user):
    with Pool(user, workers=1, timeout_s=0.5) as pool:
        good = ["fine"] * 10
        assert statuses(pool, [*good, "hang", *good, "sleep 60", *good]) == [
            *(["correct"] * 10),
            "verifier_timeout",
            *(["correct"] * 10),
            "verifier_timeout",
            *(["correct"] * 10),
        ]
        assert (pool.timeouts, pool.errors, pool.restarts) == (2, 0, 2)


def test_the_limit_is_one_response_not_a_batch(user):
    with Pool(user, workers=1, timeout_s=1.0) as pool:
        assert set(statuses(pool, ["sleep 0.2"] * 12)) == {"correct"}
        assert pool.timeouts == 0


def test_a_hang_in_c_code_is_killed_too(user):
    with Pool(user, workers=1, timeout_s=0.5, memory_mb=8192) as pool:
        assert statuses(pool, ["hang in C", "fine"]) == ["verifier_timeout", "correct"]
        assert (pool.timeouts, pool.errors, pool.restarts) == (1, 0, 1)


@pytest.mark.parametrize("death", ["die", "kill", "exit"])
def test_a_death_is_data(user, death):
    with Pool(user, workers=1) as pool:
        assert statuses(pool, ["fine", death, "fine", "fine"]) == ["correct", "verifier_error", "correct", "correct"]
        assert (pool.timeouts, pool.errors, pool.restarts) == (0, 1, 1)
        code = {"die": 7, "kill": -11, "exit": 1}[death]
        assert f"exit code {code}" in next(iter(pool.reasons))


def test_memory_is_limited(user):
    with Pool(user, workers=1, memory_mb=100) as pool:
        assert statuses(pool, ["fine", "memory", "fine"]) == ["correct", "verifier_error", "correct"]
        assert dict(pool.reasons) == {"out of memory": 1}
        assert pool.restarts == 1
    with Pool(user, workers=1, memory_mb=1024) as pool:
        assert statuses(pool, ["memory"]) == ["correct"]


def test_an_exception_is_data_and_needs_no_new_worker(user):
    with Pool(user, workers=1) as pool:
        assert statuses(pool, ["raise", "fine", "raise"]) == ["verifier_error", "correct", "verifier_error"]
        assert dict(pool.reasons) == {"KeyError: 'oh' (user_reward.py:12)": 2}
        assert (pool.errors, pool.restarts) == (2, 0)


def test_printing_reading_and_ctrl_c_do_no_harm(user, capfd):
    with Pool(user, workers=1) as pool:
        assert statuses(pool, ["print", "print and read", "alarm", "fine"]) == [
            "correct",
            "verifier_error",
            "correct",
            "correct",
        ]
        assert "EOFError" in next(iter(pool.reasons))
    assert capfd.readouterr().out == ""


def test_an_idle_worker_that_dies_costs_no_response(user):
    with Pool(user, workers=1) as pool:
        pid = int(pool.verdicts([("pid", ROW)])[0].reward)
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
        assert statuses(pool, ["fine"]) == ["correct"]
        assert (pool.errors, pool.restarts) == (0, 1)


def test_a_worker_that_is_stopped_times_out(user):
    with Pool(user, workers=1, timeout_s=0.5) as pool:
        pid = int(pool.verdicts([("pid", ROW)])[0].reward)
        os.kill(pid, signal.SIGSTOP)
        assert statuses(pool, ["x" * 10**6, "fine"]) == ["verifier_timeout", "correct"]


def test_workers_load_nothing_heavy(user):
    with Pool(user, workers=1) as pool:
        assert statuses(pool, ["modules torch,transformers,math_verify,reasoning_gym"], {"answer": "4"}) == [
            "incorrect"
        ]


def test_rows_need_not_be_plain(user):
    row: dict[Any, object] = {
        "reward": np.float32(0.25),
        "many": np.arange(3),
        "odd": {1, 2},
        7: object(),
        (1, 2): None,
    }
    with Pool(user) as pool:
        assert pool.verdicts([("fine \ud800 \x00", row)])[0].reward == 0.25


def test_a_verifier_that_cannot_start_is_a_usage_error(tmp_path):
    (tmp_path / "broken.py").write_text("def f(:\n")
    with (
        Pool({"name": f"{tmp_path}/broken.py:f"}) as pool,
        pytest.raises(UsageError, match="SyntaxError"),
    ):
        pool.verdicts([("4", ROW)])
    (tmp_path / "dies.py").write_text("import os; os._exit(3)")
    with Pool({"name": f"{tmp_path}/dies.py:f"}) as pool, pytest.raises(UsageError, match="exit code 3"):
        pool.verdicts([("4", ROW)])
    with pytest.raises(UsageError, match="Did you mean math"):
        Pool({"name": "mathh"})
    with pytest.raises(UsageError, match="must be above 0"):
        Pool({"name": "math"}, workers=0)


def test_data_that_cannot_be_scored_stops_the_run():
    with Pool({"name": "math"}) as pool, pytest.raises(DataError, match="give each row an answer"):
        pool.submit(0, r"\boxed{4}", {"answer": None})
    with Pool({"name": "reasoning_gym"}) as pool, pytest.raises(DataError, match="names no reasoning-gym task"):
        pool.verdicts([("4", {"answer": "4"})])


def test_closing_kills_what_runs(user, pool_threads):
    """If it waited for their 40 minutes, the test would reach its own time limit."""
    with Pool(user, workers=2, timeout_s=60) as pool:
        pid = int(pool.verdicts([("pid", ROW)])[0].reward)
        for key in range(40):
            pool.submit(key, "hang", ROW)
        time.sleep(0.3)
    assert not pool_threads()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(RuntimeError, match="closed"):
        pool.collect()


@pytest.mark.parametrize("busy", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_workers_die_with_their_parent(user, busy):
    script = f"""
        import time
        from sieverl.verify import Pool
        pool = Pool({user!r}, workers=1, timeout_s=3)
        print(int(pool.verdicts([("pid", {{"answer": "4"}})])[0].reward), flush=True)
        pool.submit(0, "hang" if {busy} else "fine", {{"answer": "4"}})
        time.sleep(60)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(0.3)
        parent.kill()
        parent.wait()
    # A worker that hangs is ended by its own alarm, five seconds after the time limit.
    for _ in range(160 if busy else 40):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        with open(f"/proc/{pid}/stat") as stat:
            if stat.read().rpartition(")")[2].split()[0] == "Z":
                return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the worker outlived its parent")


def test_gold_answers_are_checked():
    spec = {"name": "math"}
    rows = [{"answer": "4"}, {"answer": r"\sqrt{2}"}, {"answer": r"\frac{1"}]
    with Pool(spec) as pool:
        failures = check_gold(pool, spec, rows)
    assert [(row["answer"], verdict.status.value) for row, verdict in failures] == [(r"\frac{1", "no_answer")]


TOWERS = [
    "5^{5^{5^{5}}}",
    "(10^9)!",
    "2^{1000000000}",
    "((9!)!)!",
    r"\sum_{n=1}^{10^{10}} \frac{1}{n^2}",
    "x^{999999999}",
]
TEXTS = [
    "{" * 50_000 + "}" * 50_000,
    "9" * 5000,
    "\x00",
    "\ud800",
    "٣",
    "答案",
    r"\boxed{",
    r"\boxed{" * 2000,
    "\\" * 999,
]


def mixed(count, hang=0):
    """Hostile and good responses in turn, with the result that the good ones must get; all differ: no cache helps."""
    rng = random.Random(0)
    cases: list[tuple[str, Row, bool | None]] = []
    for i in range(count):
        a, b = rng.randint(2, 10**6), rng.randint(2, 10**6)
        kind = i % 4
        bad = {
            0: rf"\boxed{{{a} + {rng.choice(TOWERS)}}}",
            1: rf"\boxed{{{rng.choice(TEXTS)}}}",
            2: rng.choice(TEXTS) + str(a),
            3: rf"\boxed{{{a}!}} and \boxed{{{'^{'.join([str(rng.randint(2, 99))] * 6)}{'}' * 5}}}",
        }[kind]
        cases.append((bad, {"answer": rng.choice([str(b), rf"\sqrt{{{b}}}"])}, None))
        forms = {
            0: (f"{a}", f"{a:,}"),
            1: (rf"{a}x+{b}", rf"{b}+{a}x"),
            2: (f"{a}", f"{b}"),
            3: (rf"\sqrt{{{a}}}", "x"),
        }
        gold, answer = forms[kind]
        cases.append((rf"thus \boxed{{{answer}}}", {"answer": gold}, kind < 2 or answer == gold))
    # No limit on size refuses these: each may cost its own time limit and nothing else.
    towers = ["x^{x^{x^{" + str(i) + "}}}" for i in range(hang)]
    cases += [(rf"\boxed{{\int_0^1 \sin(\cos({tower})) dx}}", {"answer": r"\sqrt{2}"}, None) for tower in towers]
    rng.shuffle(cases)
    return cases


def check_mixed(count, hang, timeout_s):
    cases = mixed(count, hang)
    with Pool({"name": "math"}, workers=2, timeout_s=timeout_s, memory_mb=512) as pool:
        verdicts = pool.verdicts([(response, row) for response, row, _ in cases])
    wrong = [(case, v) for case, v in zip(cases, verdicts, strict=True) if case[2] is not None and v.correct != case[2]]
    assert not wrong
    assert not any(v.correct for case, v in zip(cases, verdicts, strict=True) if case[2] is None)
    return pool, Counter(v.status.value for v in verdicts)


def test_hostile_among_good():
    pool, _ = check_mixed(40, hang=1, timeout_s=3.0)
    assert pool.timeouts <= 1


@pytest.mark.slow
def test_a_thousand_hostile_among_a_thousand_good():
    pool, counts = check_mixed(1000, hang=8, timeout_s=3.0)
    print(f"2008 responses, {pool.timeouts} timeouts, {pool.restarts} restarts, {dict(counts)}")
    assert pool.timeouts <= 16
