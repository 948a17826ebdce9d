"""Verifiers that fork, write to the worker's channel or leave processes behind: no verdict shifts, none survives."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from conftest import BASE

from sieverl.errors import UsageError
from sieverl.verify import Pool

USER = """
    import json, os, stat, subprocess, sys, threading, time

    def channels():
        for fd in range(3, 64):
            try:
                if stat.S_ISSOCK(os.fstat(fd).st_mode):
                    yield fd
            except OSError:
                pass

    def asked():
        "The id of the current request, which a verifier should not look for."
        frame = sys._getframe()
        while frame and "lines" not in frame.f_locals:
            frame = frame.f_back
        return frame.f_locals["id"]

    def act(response, row):
        what, _, rest = response.partition(" ")
        if what == "fork" and os.fork() == 0:
            time.sleep(float(rest or 0))
            return -1.0
        if what == "fork-exit" and os.fork() == 0:
            sys.exit(0)
        if what == "fork-raise" and os.fork() == 0:
            raise KeyError("child")
        if what == "noise":
            [os.write(fd, rest.encode() + b"\\n") for fd in channels()]
        if what == "endless":
            for fd in channels():
                while True: os.write(fd, b"x" * 65536)
        if what == "drip":
            for fd in channels():
                while True: os.write(fd, b"x"), time.sleep(0.05)
        if what == "twice":
            line = json.dumps({"id": asked(), "verdict": [-1.0, False, "incorrect", {}]}) + "\\n"
            [os.write(fd, line.encode()) for fd in channels()]
        if what == "malformed":
            line = json.dumps({"id": asked(), **eval(rest)}) + "\\n"
            [os.write(fd, line.encode()) for fd in channels()]
        if what == "late":
            line = json.dumps({"id": asked(), "verdict": [-1.0, False, "incorrect", {}]}) + "\\n"
            write = lambda: [os.write(fd, line.encode()) for fd in channels()]
            threading.Timer(float(rest), write).start()
        if what == "standard":
            os.write(1, b"1 noise\\n"), os.write(2, b"2 noise\\n")
        if what == "start":
            child = subprocess.Popen(["sleep", "1000"], **eval(rest or "{}"))
            return float(child.pid)
        if what == "twice-removed":
            script = "setsid sleep 1000 >/dev/null 2>&1 & echo $!"
            out = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
            return float(out.stdout)
        if what == "die": os._exit(7)
        if what == "start-die":
            subprocess.Popen(["sleep", "1000"], start_new_session=True)
            os._exit(7)
        if what == "hang": time.sleep(1000)
        if what == "pid": return float(os.getpid())
        return float(row["reward"])
"""


@pytest.fixture
def user(tmp_path):
    file = tmp_path / "hostile.py"
    file.write_text(textwrap.dedent(USER))
    return {"name": f"{file}:act"}


def rewards(pool, responses):
    """Rewards of responses whose correct rewards are 0, 1, 2, ...; None for an error."""
    verdicts = pool.verdicts([(response, {"reward": i}) for i, response in enumerate(responses)])
    return [None if v.status.value == "verifier_error" else v.reward for v in verdicts]


def right_or_error(found):
    return all(reward in (None, i) for i, reward in enumerate(found))


def running(pid):
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def gone(pid, seconds=10.0):
    """Whether a process ends within `seconds`."""
    for _ in range(int(seconds * 20)):
        if not running(pid):
            return True
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    return False


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("how", ["fork", "fork 0.05", "fork-exit", "fork-raise"])
def test_I3_a_forking_verifier_does_not_shift_verdicts(user, how, workers):
    with Pool(user, workers=workers) as pool:
        for _ in range(2):
            assert rewards(pool, [how, "fine"] * 12) == list(range(24))
        assert (pool.errors, pool.restarts) == (0, 0)


@pytest.mark.parametrize(
    "noise", ["hello", "[1, 2]", '{"verdict": [1.0, true, "correct"]}', '{"id": 0}', "\xff", "[" * 9999]
)
def test_I3_noise_on_the_channel_costs_one_response(user, noise):
    with Pool(user, workers=1) as pool:
        found = rewards(pool, ["fine", "fine", f"noise {noise}", "fine", "fine"])
        assert found == [0, 1, None, 3, 4]
        assert (pool.errors, pool.restarts) == (1, 1)
        assert "channel" in next(iter(pool.reasons))


@pytest.mark.parametrize("how", ["endless", "drip"])
def test_I3_a_line_without_an_end_stays_within_the_limits(user, how):
    with Pool(user, workers=1, timeout_s=1.0) as pool:
        verdicts = pool.verdicts([(response, {"reward": 1}) for response in ("fine", how, "fine")])
        assert [v.correct for v in verdicts] == [True, False, True]
        assert pool.errors + pool.timeouts == 1


@pytest.mark.parametrize("reply", ["{}", "{'verdict': 1}", "{'verdict': [1.0, True, 'right', {}]}"])
def test_I3_a_malformed_reply_under_the_right_id_costs_one_response(user, reply):
    with Pool(user, workers=1) as pool:
        assert rewards(pool, ["fine", f"malformed {reply}", "fine"]) == [0, None, 2]
        assert (pool.errors, pool.restarts) == (1, 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_I3_an_answer_given_twice_shifts_nothing(user, workers):
    with Pool(user, workers=workers) as pool:
        first = [rewards(pool, ["fine", "fine", "twice", "fine", "fine", "fine"]) for _ in range(3)]
    for found in first:
        assert found[2] == -1.0, "its own line under its own id is its answer"
        assert right_or_error([2 if i == 2 else reward for i, reward in enumerate(found)])
        assert sum(reward is None for reward in found) <= 1


def test_I3_a_surplus_line_between_two_batches_is_nobodys_fault(user):
    with Pool(user, workers=1) as pool:
        assert rewards(pool, ["fine", "late 0.2"]) == [0, 1]
        time.sleep(1.0)
        assert rewards(pool, ["fine", "fine"]) == [0, 1]
        assert (pool.errors, pool.restarts) == (0, 1)


def test_I3_the_standard_streams_are_not_the_channel(user, capfd):
    with Pool(user, workers=1) as pool:
        assert rewards(pool, ["standard", "fine"]) == [0, 1]
    assert capfd.readouterr().out == ""


def test_I3_a_file_that_forks_or_writes_while_it_is_loaded(tmp_path):
    (tmp_path / "forks.py").write_text("import os\nos.fork()\ndef act(response, row): return float(row['reward'])\n")
    with Pool({"name": f"{tmp_path}/forks.py:act"}, workers=1) as pool:
        assert rewards(pool, ["fine"] * 6) == list(range(6))
    (tmp_path / "writes.py").write_text(textwrap.dedent(USER) + "[os.write(fd, b'noise\\n') for fd in channels()]\n")
    with Pool({"name": f"{tmp_path}/writes.py:act"}) as pool, pytest.raises(UsageError, match="wrote to its worker's"):
        rewards(pool, ["fine"])


OWN_SESSION = "start {'start_new_session': True}"
NO_MARK = "start {'env': {}}"


@pytest.mark.parametrize("how", ["start", OWN_SESSION, NO_MARK, "twice-removed"])
def test_I4_what_a_verifier_starts_dies_with_the_pool(user, how):
    with Pool(user, workers=2) as pool:
        pids = [int(verdict.reward) for verdict in pool.verdicts([(how, {"reward": 0})] * 4)]
        assert all(running(pid) for pid in pids)
    assert not [pid for pid in pids if not gone(pid)]


@pytest.mark.parametrize("end", ["hang", "die", "noise x"])
def test_I4_what_a_verifier_starts_dies_with_its_worker(user, end):
    with Pool(user, workers=1, timeout_s=1.0) as pool:
        started = [int(pool.verdicts([(how, {"reward": 0})])[0].reward) for how in ("start", OWN_SESSION)]
        pool.verdicts([(end, {"reward": 0}), ("fine", {"reward": 0})])
        assert pool.restarts == 1
        assert not [pid for pid in started if not gone(pid)]


SCRIPT = """
    import os, signal, sys
    from sieverl.verify import Pool
    pool = Pool({spec!r}, workers=1)
    for how in {hows!r}:
        print(int(pool.verdicts([(how, {{"reward": 0}})])[0].reward), flush=True)
    {end}
"""


@pytest.mark.parametrize("end", ["pool.close()", "sys.exit(0)", "1 / 0", "os.kill(os.getpid(), 9)"])
def test_I4_a_pipe_behind_the_run_ends(user, end, tmp_path):
    script = textwrap.dedent(SCRIPT.format(spec=user, hows=["start", OWN_SESSION, "pid"], end=end))
    (tmp_path / "run.py").write_text(script)
    # `2>&1`, since a verifier's child processes inherit its standard error
    piped = f"{sys.executable} {tmp_path}/run.py 2>&1 | cat"
    out = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, timeout=60)
    pids = [int(line) for line in out.stdout.splitlines()[:3]]
    assert len(pids) == 3
    assert not [pid for pid in pids if not gone(pid)]


@pytest.mark.parametrize("wait_s", [0.0, 0.05, 0.2, 0.5, 1.0])
def test_I6_a_worker_leaves_quietly_whenever_its_parent_goes(user, wait_s):
    script = f"""
        import os, time
        from sieverl.verify import Pool
        pool = Pool({user!r}, workers=2)
        for i in range(400): pool.submit(i, "fine", {{"reward": 0, "x": "y" * 20_000}})
        time.sleep({wait_s})
        os._exit(0)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    # The worker shares standard error, so `run` returns only when the worker has ended, too.
    out = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (out.returncode, out.stderr) == (0, "")


CONFIG = '{"spec": {"name": "number"}, "memory_mb": 512, "timeout_s": 5}\n'


@pytest.mark.parametrize("sent", [CONFIG[:15], CONFIG + '[["1", "fi'])
def test_I6_a_request_that_breaks_off_ends_the_worker_quietly(sent):
    """As when the parent is killed while it writes."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "sieverl.verify.worker"]
    env = os.environ | {"SIEVERL_WORKER": "test"}
    with theirs, subprocess.Popen(command, stdin=theirs.fileno(), stderr=subprocess.PIPE, text=True, env=env) as worker:
        theirs.close()
        ours.sendall(sent.encode())
        ours.shutdown(socket.SHUT_WR)
        error = worker.communicate(timeout=60)[1]
    ours.close()
    assert (worker.returncode, error) == (0, "")


TRAIN = """
    steps = 1
    [data]
    source = "reasoning_gym:basic_arithmetic"
    options = {size = 20, min_terms = 2, max_terms = 2}
    [verify]
    name = "hostile.py:act"
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "code", "message"),
    [
        ("--rollout.max_tokens=100000", 2, "but the model takes"),
        ("--model.path=empty", 3, "empty holds no weights"),
        ("--model.device=cuda", 2, "PyTorch sees no GPU"),
        ("--verify.name=hostile.py:acht", 2, "has no function acht"),
        ("--verify.name=hostile.py:fail", 2, "NameError"),
    ],
)
def test_S11_a_load_that_fails_says_its_one_line(user, tmp_path, option, code, message):
    import torch

    if "cuda" in option and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    (tmp_path / "r.toml").write_text(textwrap.dedent(TRAIN))
    (tmp_path / "empty").mkdir()
    for file in BASE.glob("*.json"):
        (tmp_path / "empty" / file.name).write_bytes(file.read_bytes())
    if "fail" in option:
        (tmp_path / "hostile.py").write_text("nothing")
    command = [sys.executable, "-m", "sieverl", "train", "r.toml", option]
    out = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert out.returncode == code, out.stderr
    *before, last = out.stderr.splitlines()
    assert last.startswith("sieverl: "), out.stderr
    assert message in last
    assert not [line for line in before if re.search("Error|Traceback|worker", line)], "the workers leave quietly"


def test_I6_a_run_that_cannot_start_closes_its_pool(tmp_path):
    from sieverl.recipe import build
    from sieverl.training.setup import prepare

    before = set(threading.enumerate())
    gym = {"source": "reasoning_gym:basic_arithmetic", "options": {"size": 20}}
    tables = {"data": gym, "run_dir": str(tmp_path / "r"), "verify": {"name": "reasoning_gym"}}
    with pytest.raises(UsageError, match="but the model takes"):
        prepare(build(tables, {"rollout.max_tokens": 100_000}), say=lambda text: None)
    assert not [t for t in set(threading.enumerate()) - before if t.name == "sieverl-verify"]
