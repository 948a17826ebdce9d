"""Datasets of the Hub: the real Hub library against a small Hub server on this machine."""

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

OLD, NEW = "a" * 40, "b" * 40
CARD = b"""---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train-*}
  - {split: test, path: main/test-*}
- config_name: other
  data_files: other/*
---
"""


def parquet(rows):
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def repository(size):
    rows = [{"question": f"q{i}", "answer": f"so\n#### {i}"} for i in range(size)]
    return {
        "README.md": CARD,
        "main/train-0.parquet": parquet(rows),
        "main/test-0.parquet": parquet(rows[:1]),
        "other/train-0.parquet": parquet(rows[:2]),
    }


class Hub(BaseHTTPRequestHandler):
    """Two commits of openai/gsm8k; `main` is whatever `head` says."""

    commits: ClassVar = {OLD: repository(5), NEW: repository(7)}
    head = OLD
    cut: ClassVar[set[str]] = set()  # files whose first download breaks off half way

    def log_message(self, *args):
        pass

    def answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0].strip("/").split("/")
        if path[:4] == ["api", "datasets", "openai", "gsm8k"] and len(path) > 5:
            commit = {"main": self.head}.get(path[5], path[5])
            if commit not in self.commits:
                return self.answer(404, b"{}", X_Error_Code="RevisionNotFound")
            files = [
                {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
                for name, body in self.commits[commit].items()
            ]
            info = {"id": "openai/gsm8k", "sha": commit, "siblings": []}
            body = json.dumps(files if path[4] == "tree" else info).encode()
            return self.answer(200, body, Content_Type="application/json")
        if path[:4] == ["datasets", "openai", "gsm8k", "resolve"]:
            body = self.commits[path[4]].get("/".join(path[5:]))
            if body is not None and self.command == "GET" and "/".join(path[5:]) in self.cut:
                self.cut.discard("/".join(path[5:]))
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2])
                return self.connection.close()
            if body is not None:
                return self.answer(200, body, X_Repo_Commit=path[4], ETag=f'"{hashlib.sha1(body).hexdigest()}"')
            return self.answer(404, b"{}", X_Error_Code="EntryNotFound")
        return self.answer(404, b"{}", X_Error_Code="RepoNotFound")

    do_HEAD = do_GET


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


ASK = """
import json, sys
from sieverl.data import read
from sieverl.errors import DataError
for line in sys.argv[1:]:
    source, _, split = line.partition(" ")
    try:
        loaded = read(source, split=split or "train")
        told = {"rows": len(loaded.prompts), "last": loaded.prompts[-1].row["answer"], "origin": loaded.origin}
    except DataError as error:
        told = {"error": str(error)}
    print(json.dumps(told))
"""


def ask(cache: Path, endpoint: str, *sources, offline=False):
    """The results of `read` for each source, in another process, since the Hub library reads its settings only once."""
    env = os.environ | {"HF_HOME": str(cache), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": str(int(offline))}
    done = subprocess.run([sys.executable, "-c", ASK, *sources], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_revision_is_pinned_recorded_and_served_offline(hub, tmp_path, monkeypatch):
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    train, test, other, nothing, branch, config, split = ask(
        tmp_path,
        endpoint,
        "gsm8k",
        "gsm8k test",
        "openai/gsm8k:other",
        "openai/nothing",
        "gsm8k@nobranch",
        "openai/gsm8k:third",
        "openai/gsm8k:main dev",
    )
    assert (train["rows"], train["last"], test["rows"], other["rows"]) == (5, "4", 1, 2)
    assert train["origin"]["revision"] == OLD
    assert train["origin"]["hub"] == "openai/gsm8k"
    assert "the Hub has no public dataset 'openai/nothing'" in nothing["error"]
    assert "openai/gsm8k has no revision 'nobranch'" in branch["error"]
    assert "'third' not found" in config["error"]
    assert "no split 'dev'; there is: train, test" in split["error"]

    monkeypatch.setattr(Hub, "head", NEW)
    moved, pinned = ask(tmp_path, endpoint, "gsm8k", f"gsm8k@{OLD}")
    assert (moved["rows"], moved["origin"]["revision"]) == (7, NEW)
    assert (pinned["rows"], pinned["origin"]["revision"]) == (5, OLD)

    latest, pinned, never = ask(tmp_path, endpoint, "gsm8k", f"gsm8k@{OLD}", "aime24", offline=True)
    assert (latest["rows"], pinned["rows"]) == (7, 5)
    why, _, advice = never["error"].partition("; ")
    assert why.startswith("cannot reach the Hub for the dataset 'HuggingFaceH4/aime_2024' (")
    assert why.endswith("), and it is neither a local directory nor complete in the cache")
    assert advice == (
        "connect, or get a copy (`hf download HuggingFaceH4/aime_2024 --local-dir DIR --repo-type dataset` where there "
        "is a network) and give aime24@DIR"
    )


def test_without_network_a_copy_of_the_repository_does(tmp_path):
    for name, body in repository(4).items():
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / name).write_bytes(body)
    unreachable = "http://127.0.0.1:9"
    copy, test, failed = ask(
        tmp_path / "cache", unreachable, f"gsm8k@{tmp_path}/copy", f"gsm8k@{tmp_path}/copy test", "gsm8k"
    )
    assert (copy["rows"], test["rows"]) == (4, 1)
    assert copy["origin"]["path"] == f"{tmp_path}/copy"
    assert "cannot reach the Hub for the dataset 'openai/gsm8k'" in failed["error"]
    assert "give gsm8k@DIR" in failed["error"]


def test_a_download_that_was_cut_off_is_never_taken_for_the_whole(hub, tmp_path, monkeypatch):
    cut = {"main/train-0.parquet"}
    monkeypatch.setattr(Hub, "cut", cut)
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    first, second = ask(tmp_path, endpoint, "gsm8k", "gsm8k")
    assert not cut
    assert first.get("rows") == 5 or "cannot reach the Hub" in first["error"]
    assert second["rows"] == 5
