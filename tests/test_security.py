"""A whole run, watched: nothing is unpickled, no socket listens, no secret of the environment is written anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from conftest import ROOT

SECRET = "hf_sieverlsecret"
WATCHED = """
    import json, sys, time
    seen = []
    def hook(event, args):
        if event in ("pickle.find_class", "socket.bind", "marshal.loads"):
            frame, places = sys._getframe(1), []
            while frame and len(places) < 12:
                places.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
                frame = frame.f_back
            if event != "marshal.loads" or not any("importlib" in place for place in places):
                seen.append([event, str(args)[:200], places])
    sys.addaudithook(hook)
    from sieverl.cli import main
    codes = [main(arguments) for arguments in json.loads(sys.argv[1])]
    if "control" in sys.argv:
        import collections, pickle, socket
        pickle.loads(pickle.dumps(collections.OrderedDict()))
        server = socket.create_server(("127.0.0.1", 0))
        time.sleep(1)
    open("seen.json", "w").write(json.dumps([codes, seen]))
"""
TRAIN = ["train", "r.toml", "--run-dir", "run", "--verify.name", "mine.py:mine", "--checkpoint.every", "1"]
EVAL = ["eval", "--model", "run", "--benchmark", "demo", "--limit", "2", "--greedy", "--max-tokens", "4"]


def listening(process: psutil.Process) -> set[str]:
    """The sockets of a process that accept connections from elsewhere, or datagrams."""
    try:
        found = process.net_connections(kind="inet")
    except psutil.Error:
        return set()
    return {str(c) for c in found if c.status == psutil.CONN_LISTEN or (c.type.name == "SOCK_DGRAM" and c.laddr)}


def run_watched(folder: Path, *commands: list[str], control: bool = False) -> tuple[list[int], list, set[str], str]:
    """Exit codes, what the hook saw, what listened in the whole process tree, and what was printed."""
    script = [sys.executable, "-c", textwrap.dedent(WATCHED), json.dumps(commands), *["control"] * control]
    names = ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD")
    env = os.environ | dict.fromkeys(names, SECRET) | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    with (folder / "said").open("w") as said:
        process = psutil.Popen(script, cwd=folder, env=env, stdout=said, stderr=subprocess.STDOUT)
        found: set[str] = set()
        while process.poll() is None:
            for one in (process, *process.children(recursive=True)):
                found |= listening(one)
            time.sleep(0.05)
    said_text = (folder / "said").read_text()
    assert (folder / "seen.json").is_file(), said_text
    codes, seen = json.loads((folder / "seen.json").read_text())
    return codes, seen, found, said_text


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder in which a run was trained, resumed and evaluated, and what was seen meanwhile."""
    folder = tmp_path_factory.mktemp("whole")
    rows = [{"prompt": f"{a}+{b}", "answer": str(a + b)} for a in range(4) for b in range(4)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "r.toml").write_text(
        'steps = 2\n[data]\nsource = "data.jsonl"\n[rollout]\nprompts = 2\nsamples = 2\nmax_tokens = 8\n'
        "[verify]\nworkers = 1\n"
    )
    (folder / "mine.py").write_text(
        "import os\ndef mine(response, row):\n    return float(len(response) % 2) + 0 * len(os.environ)\n"
    )
    return folder, run_watched(folder, TRAIN, [*TRAIN, "--steps", "3"], EVAL)


def test_nothing_is_unpickled_when_a_run_is_trained_resumed_and_evaluated(whole):
    _, (codes, seen, _, said) = whole
    assert codes == [0, 0, 0], said
    assert seen == []


def test_no_socket_of_the_process_tree_listens(whole):
    assert whole[1][2] == set()


def test_no_secret_of_the_environment_is_in_a_file_of_the_run_or_was_printed(whole):
    folder, (_, _, _, said) = whole
    assert SECRET not in said
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".parquet" for path in files)
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path


def test_the_watch_sees_what_it_should(tmp_path):
    """Else the tests here could not fail."""
    codes, seen, open_sockets, _ = run_watched(tmp_path, ["algorithms"], control=True)
    assert codes == [0]
    assert {event for event, *_ in seen} == {"pickle.find_class", "socket.bind"}
    assert len(open_sockets) == 1


def test_lint_refuses_what_unpickles_or_evaluates(tmp_path):
    source = tmp_path / "bad.py"
    source.write_text(
        'import pickle\nimport torch\n\nweights = torch.load("x")\nmore = pickle.loads(b"")\nfound = eval("1")\n'
    )
    command = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    out = subprocess.run([*command, "--output-format", "concise", str(source)], capture_output=True, text=True).stdout
    for rule, line in (("TID251", 1), ("TID251", 4), ("S301", 5), ("S307", 6)):
        assert any(f":{line}:" in found and rule in found for found in out.splitlines()), out
