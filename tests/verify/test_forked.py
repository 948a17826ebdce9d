"""Functions of the running program as verifiers: a fork has them, and the limits of every worker hold for it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from sieverl.errors import UsageError
from sieverl.types import Status
from sieverl.userfile import give
from sieverl.verify import Pool
from sieverl.verify.forked import fork


def spec_of(function: Any) -> dict[str, str]:
    """The specification of a function of this program."""
    return {"name": give(function, function.__name__)}


def children() -> set[int]:
    """The processes that this one has."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_a_closure_is_a_verifier() -> None:
    bonus = {"4": 1.0}
    before = children()
    with Pool(spec_of(lambda response, row: bonus.get(response, 0.0) * row["weight"])) as pool:
        found = pool.verdicts([("4", {"weight": 1.0}), ("5", {"weight": 1.0}), ("4", {"weight": 0.5})])
    assert [verdict.reward for verdict in found] == [1.0, 0.0, 0.5]
    assert children() <= before


def test_the_signature_of_TRL_and_a_part_of_a_sum() -> None:
    def brief(completions: list[str], **columns: Any) -> list[float]:
        return [1.0 / len(one) for one in completions]

    parts = [{"name": "number"}, {**spec_of(brief), "weight": 0.5}]
    with Pool({"name": "sum", "parts": parts}) as pool:
        found = pool.verdicts([("44", {"answer": "44"})])[0]
    assert (found.reward, dict(found.parts)) == (1.25, {"number": 1.0, "brief": 0.5})


def test_what_a_function_does_stays_in_its_process_and_within_its_limits() -> None:
    seen: list[str] = []

    def hostile(response: str, row: Mapping[str, Any]) -> float:
        seen.append(response)
        if response == "die":
            os._exit(7)
        if response == "hang":
            time.sleep(60)
        if response == "eat":
            return float(len(bytearray(2**31)))
        if response == "raise":
            raise KeyError("targt")
        if response == "secret":
            return float("A_TOKEN" in os.environ)
        if response == "net":
            with socket.socket() as mine:
                return float(mine.connect_ex(("127.0.0.1", row["port"])) == 0)
        return float(len(seen))

    os.environ["A_TOKEN"] = "secret"
    with socket.socket() as listening, Pool(spec_of(hostile), workers=1, timeout_s=1.0, memory_mb=256) as pool:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        row = {"port": listening.getsockname()[1]}
        asked = ["a", "die", "hang", "eat", "raise", "secret", "net", "b"]
        found = dict(zip(asked, pool.verdicts([(text, row) for text in asked]), strict=True))
    del os.environ["A_TOKEN"]
    assert not seen
    statuses = {text: found[text].status for text in ("die", "hang", "eat", "raise")}
    errors = Status.VERIFIER_ERROR
    assert statuses == {"die": errors, "hang": Status.VERIFIER_TIMEOUT, "eat": errors, "raise": errors}
    assert found["secret"].reward == 0.0
    assert any("KeyError: 'targt' (test_forked.py:" in reason for reason in pool.reasons)
    assert (found["a"].reward, found["b"].reward) == (1.0, 4.0), "after eat a new fork, which begins anew"
    assert pool.timeouts == 1


def test_a_function_may_use_torch_after_its_parent_has() -> None:
    import torch

    torch.randn(512, 512) @ torch.randn(512, 512)
    with Pool(
        spec_of(lambda response, row: float(torch.ones(512, 512).matmul(torch.ones(512, 512))[0, 0] / 512))
    ) as pool:
        assert pool.verdicts([("x", {})])[0].reward == 1.0


def test_workers_end_with_the_program() -> None:
    script = (
        "import os, signal\nfrom sieverl.userfile import give\nfrom sieverl.verify import Pool\n"
        "pool = Pool({'name': give(lambda response, row: 1.0, 'one')}, workers=2)\n"
        "pool.verdicts([('a', {})] * 8)\nprint(*(worker.process.pid for worker in pool._workers), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    pids = [int(pid) for pid in ran.stdout.split()]
    assert pids
    deadline = time.monotonic() + 30
    while (left := [pid for pid in pids if psutil.pid_exists(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def test_a_function_of_another_program_is_named() -> None:
    give(len, "brief")
    told = r"given:breif was given by a Python program.*Did you mean brief\?.*FILE\.py"
    with pytest.raises(UsageError, match=told), Pool({"name": "given:breif"}) as pool:
        pool.verdicts([("a", {})])


def test_no_two_threads_fork_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library's hook may refuse that: filelock raises for a fork while another thread is in one."""
    inside: list[int] = []
    most: list[int] = []

    def slow_fork() -> int:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.05)
        inside.pop()
        return 1

    monkeypatch.setattr(os, "fork", slow_fork)
    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: fork(theirs, {}), range(8)))
    assert most == [1] * 8
