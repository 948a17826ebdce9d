"""A worker denies itself memory and the network before it imports a user's file, and knows none of our secrets."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import textwrap

import psutil
import pytest

from sieverl.errors import UsageError
from sieverl.verify import Pool, pool
from sieverl.verify.process import INHERITED

SECRETS = ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "DATABASE_URL", "GOOGLE_CREDENTIALS")


@pytest.fixture
def user(tmp_path, monkeypatch):
    """A function (source) -> name of the verifier `mine` in a file of the user's."""
    monkeypatch.chdir(tmp_path)

    def write(source):
        (tmp_path / "mine.py").write_text(textwrap.dedent(source))
        return {"name": "mine.py:mine"}

    return write


def verdict(spec, response="4", **options):
    with Pool(spec, workers=1, timeout_s=20, **options) as found:
        return found.verdicts([(response, {"answer": "4"})])[0], found.reasons


def test_i13_an_import_that_allocates_12_gb_is_refused(user):
    spec = user("held = bytearray(12 << 30)\ndef mine(response, row): return 1.0")
    with pytest.raises(UsageError, match=r"ran out of memory, of which it has verify\.memory_mb and 8192 MiB"):
        verdict(spec, memory_mb=256)


def test_i13_an_import_may_need_more_than_a_response(user):
    source = "held = bytearray(1 << 30)\ndef mine(response, row): return float(len(bytearray(int(response) << 20)) > 0)"
    spec = user(source)
    assert verdict(spec, "64", memory_mb=256)[0].reward == 1.0
    found, reasons = verdict(spec, "600", memory_mb=256)
    assert found.status.value == "verifier_error"
    assert dict(reasons) == {"out of memory": 1}


def test_i13_an_import_that_hangs_is_killed_at_its_deadline(user, monkeypatch):
    monkeypatch.setattr(pool, "LOAD_S", 3.0)
    spec = user("import time\ntime.sleep(1000)\ndef mine(response, row): return 1.0")
    before = {child.pid for child in psutil.Process().children()}
    with pytest.raises(UsageError, match=r"mine\.py:mine.* did not load in 3 s; what its file does"):
        verdict(spec)
    assert not {child.pid for child in psutil.Process().children()} - before


def test_i13_a_worker_has_none_of_the_parents_secrets(user, monkeypatch):
    for name in SECRETS:
        monkeypatch.setenv(name, "hf_sieverlsecret")
    monkeypatch.setenv("JUDGE_KEY", "given")
    spec = user(
        """
        import os, subprocess
        def mine(response, row):
            mine = [name for name, text in os.environ.items() if "sieverlsecret" in text]
            child = subprocess.run(["env"], capture_output=True, text=True).stdout
            own = open("/proc/self/environ").read() if os.path.exists("/proc/self/environ") else ""
            assert not mine and "sieverlsecret" not in child + own, mine
            return 1.0 if os.environ.get("JUDGE_KEY") == row.get("key") else 0.0
        """
    )
    assert verdict(spec)[0].reward == 1.0, "absent, as in the row"
    with Pool(spec, workers=1, environment=("JUDGE_KEY",)) as found:
        assert found.verdicts([("4", {"answer": "4", "key": "given"})])[0].reward == 1.0


@pytest.mark.parametrize("name", [*SECRETS, "SSH_AUTH_SOCK", "http_proxy", "OPENAI_API_KEY", "KUBECONFIG"])
def test_i13_what_a_worker_inherits_is_listed_by_name(name):
    assert not INHERITED.fullmatch(name)
    for usual in ("PATH", "HOME", "LC_ALL", "PYTHONPATH", "LD_LIBRARY_PATH"):
        assert INHERITED.fullmatch(usual)


def can_deny():
    """Whether this system lets a process deny itself the network, tried in one that ends."""
    script = "from sieverl.verify.limits import deny_network; print(deny_network())"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "True"


def test_i13_a_worker_has_no_network_where_the_system_can_deny_it(user):
    spec = user(
        """
        import os, socket, subprocess, sys
        def mine(response, row):
            script = f"import socket; socket.create_connection(('127.0.0.1', {response}), 2)"
            subprocess.run([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
            socket.create_connection(("127.0.0.1", int(response)), 2).close()
            return float(os.getuid() == row["uid"])
        """
    )
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = str(server.getsockname()[1])
        row = {"answer": "4", "uid": os.getuid()}
        with Pool(spec, workers=1, timeout_s=20, network=True) as found:
            assert found.verdicts([(port, row)])[0].reward == 1.0
        for _ in range(2):  # the child's connection and its parent's
            server.accept()[0].close()
        if not can_deny():
            pytest.skip("this system does not let a process deny itself the network")
        with Pool(spec, workers=1, timeout_s=20) as found:
            assert found.verdicts([(port, row)])[0].status.value == "verifier_error"
            assert "Network is unreachable" in next(iter(found.reasons))
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()


def test_i13_files_of_a_worker_without_network_are_its_users(user, tmp_path):
    spec = user("import pathlib\ndef mine(response, row):\n    pathlib.Path('made').write_text('x')\n    return 1.0")
    assert verdict(spec)[0].reward == 1.0
    assert (tmp_path / "made").stat().st_uid == tmp_path.stat().st_uid


def test_i10_surrogates_in_what_a_verifier_returns_are_stored_safely(user):
    spec = user(
        """
        from sieverl import Verdict, Status
        def mine(response, row):
            if response == "raise": raise ValueError("a\\ud800")
            return Verdict(1.0, True, Status.CORRECT, {"a\\ud800": 1.0})
        """
    )
    assert verdict(spec)[0].parts == {"a\ufffd": 1.0}
    _, reasons = verdict(spec, "raise")
    next(iter(reasons)).encode()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of the kernel of Linux")
def test_a_worker_whose_pool_was_killed_while_it_was_stopped_leaves(user):
    """The pool stops a worker before it kills what that has started: found by killing a run there."""
    user("import os\ndef mine(response, row): return float(os.getpid())")
    script = (
        "import os, signal\nfrom sieverl.verify import Pool\npool = Pool({'name': 'mine.py:mine'}, workers=1)\n"
        "pid = int(pool.verdicts([('x', {'answer': '4'})])[0].reward)\nos.kill(pid, signal.SIGSTOP)\n"
        "print(pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    found = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=False)
    assert found.returncode == -9
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(found.stdout)).wait(30)  # raises where it stays
