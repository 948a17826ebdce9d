"""What is uploaded is a model and a card that says what was done, and nothing of the machine; the Hub is asked once."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import ModelCard

from sieverl.algorithms import ALGORITHMS
from sieverl.algorithms.describe import formula
from sieverl.cli import main
from sieverl.commands import push as command
from sieverl.errors import DataError, ExitCode, UsageError
from sieverl.publish.card import card, public
from sieverl.publish.push import check_reachable, check_repo, check_token, upload
from sieverl.recipe import build
from sieverl.run_dir.saved import SavedRun

Capture = pytest.CaptureFixture[str]
HOSTILE = "</td><script>alert(1)</script> | [x](javascript:y) ``` \n# heading \x1b[2J"


class FakeApi:
    """The Hub as a dictionary."""

    def __init__(self, private: bool | None = None) -> None:
        self.private = private  # None: there is no such repository
        self.asked: list[tuple[str, Any]] = []

    def repo_info(self, repo_id: str, *, timeout: float) -> Any:
        from huggingface_hub.errors import RepositoryNotFoundError

        self.asked.append(("repo_info", timeout))
        if self.private is None:
            raise RepositoryNotFoundError("404", response=SimpleNamespace(status_code=404, headers={}, request=None))  # type: ignore[arg-type]
        return SimpleNamespace(private=self.private)

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        self.asked.append(("create_repo", private))

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> Any:
        self.asked.append(("upload_folder", sorted(os.listdir(folder_path))))
        return SimpleNamespace(repo_url=f"https://huggingface.co/{repo_id}")


def run_with(folder: Path, recipe: dict[str, Any], rows: list[dict[str, Any]] | None = None) -> SavedRun:
    return SavedRun(folder, rows or [], build(recipe).model_dump(exclude_none=True), [{"versions": {"torch": "2.13"}}])


def test_the_card_says_what_was_done(finished: Path) -> None:
    saved = SavedRun.read(finished)
    page = card(saved, "org/sums", 3, "bfloat16")
    again = ModelCard(str(page))
    assert again.data.to_dict() == page.data.to_dict()
    about = again.data.to_dict()
    assert about["library_name"] == "transformers"
    assert {"sieverl", "reinforce_rej"} <= set(about["tags"])
    text = str(page)
    scores = dict(zip(*saved.series(str(saved.heldout)), strict=True))
    for wanted in (
        f"{scores[0]:.1%} (", f"{scores[3]:.1%} (", 'from_pretrained("org/sums", dtype="bfloat16")', "not tested for",
        "reasoning&#95;gym:basic&#95;arithmetic", f"torch {saved.starts[-1]['versions']['torch']}",
    ):  # fmt: skip
        assert wanted in text, wanted
    assert formula(ALGORITHMS["reinforce_rej"]).split("[")[0].split("_")[0] in text
    for place in (str(finished), str(finished.parent), getpass.getuser(), socket.gethostname()):
        assert place not in text


def test_the_card_names_hub_ids_and_hides_places_and_secrets(tmp_path: Path) -> None:
    recipe = {
        "algorithm": "/home/alice/lab/mine.py:hard",
        "run_dir": "/scratch/alice/runs/x",
        "model": {"path": "Qwen/Qwen2.5-0.5B", "lora": {"rank": 8}},
        "data": {
            "source": "/home/alice/secret project/rows.jsonl",
            "system": "read /home/alice/notes/a.txt hf_abcdefghijklmn",
            "options": {"path": "/home/alice/x", "token": "hf_abcdefghijklmn"},
        },
        "verify": {
            "name": "/home/alice/rewards.py:graded", "environment": ["OPENAI_API_KEY"], "api_key": "sk-abcdefghijk",
        },
        "rollout": {"engine": "vllm_server", "servers": ["http://gpu7.internal.example:8000"], "stop": ["</s>"]},
        "train": {"lr": 1e-5},
    }  # fmt: skip
    page = card(run_with(tmp_path, recipe), "org/m", 5, "bfloat16")
    text = str(page)
    assert page.data.to_dict()["base_model"] == "Qwen/Qwen2.5-0.5B"
    for secret in ("alice", "scratch", "hf_abc", "sk-abc", "gpu7", "OPENAI_API_KEY", "secret project"):
        assert secret not in text, secret
    for wanted in ("mine.py:hard", "rows.jsonl", "rewards.py:graded", "lr = 1e-05", "rank = 8", "vllm_server"):
        assert wanted in text, wanted
    assert "no held-out evaluation" in text
    assert "which is not part of SieveRL" in text, "its code is not run to learn its formula"
    known = card(
        run_with(tmp_path, {"data": {"source": "gsm8k"}, "model": {"path": "/models/mine"}}), "o/m", 1, "float32"
    )
    assert known.data.to_dict()["datasets"] == ["openai/gsm8k"]
    assert "base_model" not in known.data.to_dict()
    assert "/models" not in str(known)
    assert "a local model, mine" in str(known)


def test_what_others_wrote_is_text(tmp_path: Path) -> None:
    recipe = {
        "data": {"source": "x.jsonl", "split": HOSTILE, "suffix": HOSTILE},
        "evaluate": {"name": HOSTILE, "source": f"{HOSTILE}.jsonl", "split": HOSTILE},
        "verify": {"name": HOSTILE},
    }
    saved = run_with(tmp_path, recipe, [{"step": 0, f"eval/{HOSTILE}/avg@4": 0.5}])
    text = str(card(SavedRun(**{**vars(saved), "starts": [{"versions": {HOSTILE: HOSTILE}}]}), "org/m", 1, "float32"))
    assert "\x1b" not in text
    outside = []
    fence = ""
    for line in text.splitlines():
        if line.startswith("```") and (not fence or line == fence):
            fence = "" if fence else line.rstrip("abcdefghijklmnopqrstuvwxyz")
        elif not fence:
            outside.append(line)
    assert not fence
    shown = "\n".join(outside)
    assert "<script" not in shown
    assert "](javascript" not in shown
    assert "\n# heading" not in shown
    assert not [line for line in outside if line.startswith("|") and line.count("|") > 3], "no cell more"


def test_of_the_recipe_only_what_may_be_public_is_shown() -> None:
    recipe = build(
        {"train": {"lr": 1e-5, "schedule": "cosine"}, "data": {"columns": {"prompt": "q"}}, "axes": {"kl": None}}
    )
    assert public(recipe) == {"train": {"lr": 1e-5, "schedule": "cosine"}}
    assert public(build({})) == {}


# --- the Hub ----------------------------------------------------------------------------------------


def test_a_repository_is_private_unless_told_otherwise(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("")
    for public_ in (False, True):
        api = FakeApi()
        check_reachable("org/m", public_, api)
        assert upload(tmp_path, "org/m", public_, "m", api) == "https://huggingface.co/org/m"
        assert [name for name, _ in api.asked] == ["repo_info", "create_repo", "upload_folder"]
        assert api.asked[1] == ("create_repo", not public_)
        assert api.asked[2][1] == ["README.md"]
    with pytest.raises(UsageError, match="is there and is public"):
        check_reachable("org/m", False, FakeApi(private=False))
    check_reachable("org/m", True, FakeApi(private=False))
    check_reachable("org/m", False, FakeApi(private=True))


def test_names_and_tokens_are_checked_first() -> None:
    for wrong in ("m", "org/m/x", "org/", "/m", "org/a b", "org/a--b", "org/m.git", "../m", "o/" + "x" * 99):
        with pytest.raises(UsageError, match="ORG/NAME"):
            check_repo(wrong)
    check_repo("org-1/My_model.v2")
    with pytest.raises(UsageError, match="hf auth login"):
        check_token(None)


def test_a_dry_run_makes_what_would_be_uploaded_and_asks_nobody(
    finished: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", FakeApi)
    push = ["push", str(finished), "--repo", "org/m", "--dry-run"]
    assert main([*push, "--output", str(tmp_path / "kept"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["private"], told["url"]) == (True, None)
    kept = {path.name: path.stat().st_size for path in (tmp_path / "kept").iterdir()}
    assert {file["name"]: file["size"] for file in told["files"]} == kept
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(kept)
    assert (tmp_path / "kept" / "README.md").read_text() == told["card"]
    assert main([*push, "--public", "--step", "best"]) == 0
    out = capsys.readouterr().out
    assert "would upload to org/m (public)" in out
    assert "# m" in out
    assert main([*push, "--output", str(tmp_path / "kept")]) == 2, "it is there already"


@pytest.mark.parametrize("mistake", [["nowhere"], ["{run}", "--step", "nowhere"], ["{run}", "--step", "99"]])
def test_a_mistake_is_found_before_a_folder_is_made(
    mistake: list[str], finished: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    monkeypatch.setattr("tempfile.mkdtemp", lambda *words, **named: made.append(str(named or words)))
    words = [word.replace("{run}", str(finished)) for word in mistake]
    assert main(["push", *words, "--repo", "a/b", "--dry-run"]) in (ExitCode.USAGE, ExitCode.DATA)
    assert made == []
    assert "Traceback" not in capsys.readouterr().err


def test_without_a_token_nothing_is_made(finished: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr(command, "prepare", None)
    assert main(["push", str(finished), "--repo", "org/m"]) == 2
    assert "run `hf auth login`, or set HF_TOKEN" in capsys.readouterr().err


def test_a_whole_push_uploads_the_folder(finished: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    api = FakeApi()
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: api)
    assert main(["push", str(finished), "--repo", "org/m"]) == 0
    assert "uploaded to org/m (private)" in capsys.readouterr().out
    assert [name for name, _ in api.asked] == ["repo_info", "create_repo", "upload_folder"]
    assert {"README.md", "model.safetensors"} <= set(api.asked[2][1])


# --- a Hub that is not there ------------------------------------------------------------------------


class Broken(BaseHTTPRequestHandler):
    """Answers every question with an error, or not at all."""

    def do_GET(self) -> None:
        if "/api/models/" in self.path or "/api/datasets/" in self.path:
            self.server.asked.append(self.path)  # type: ignore[attr-defined]
        if "hang" in self.path:
            self.server.over.wait(60)  # type: ignore[attr-defined]
        status = 401 if "locked" in self.path else 503
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_POST = do_GET

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def broken() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    server.asked, server.over = [], threading.Event()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


ASK = """
import sys, sieverl.download, sieverl.publish.push as push
from sieverl.errors import DataError
from huggingface_hub import HfApi
sieverl.download.PATIENCE_S = push.PATIENCE_S = 0.5
wanted = ("org/a", "model", None), ("org/b", "dataset", None), ("org/c", "model", "a" * 40), ("org/hang", "model", None)
for name, kind, revision in wanted:
    try:
        sieverl.download.download(name, kind, revision=revision)
    except DataError as error:
        print(error)
for name in ("org/d", "org/hanging", "org/locked"):
    try:
        push.check_reachable(name, False, HfApi())
    except DataError as error:
        print(error)
"""


def test_an_unreachable_hub_is_asked_once_and_named_in_a_line(broken: Any, tmp_path: Path) -> None:
    """TRIED, "30 s of retries": one question, also for a pinned commit, and no waiting for one who never answers."""
    where = f"http://127.0.0.1:{broken.server_port}"
    env = os.environ | {"HF_HOME": str(tmp_path), "HF_ENDPOINT": where, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_x"}
    done = subprocess.run([sys.executable, "-c", ASK], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    asked = [path.split("?")[0].split("/revision/")[0].rpartition("/")[2] for path in broken.asked]
    assert asked == ["a", "b", "c", "hang", "d", "hanging", "locked"], "each once"
    assert len(lines) == 7
    for line, (what, name) in zip(
        lines, (("model", "org/a"), ("dataset", "org/b"), ("model", "org/c"), ("model", "org/hang")), strict=False
    ):
        assert line.startswith(f"cannot reach the Hub for the {what} '{name}' (")
        assert f"hf download {name} --local-dir DIR" in line
    assert lines[4].startswith("cannot reach the Hub for org/d (")
    assert "--dry-run --output DIR" in lines[5]


def test_a_token_that_may_not_write_is_told_apart(tmp_path: Path) -> None:
    class Forbidden(FakeApi):
        def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
            from huggingface_hub.errors import HfHubHTTPError

            raise HfHubHTTPError("403 Forbidden", response=SimpleNamespace(status_code=403, headers={}, request=None))  # type: ignore[arg-type]

    with pytest.raises(DataError, match="lets this token not write to org/m"):
        upload(tmp_path, "org/m", False, "m", Forbidden())


def test_a_run_without_a_recipe_or_a_checkpoint_is_refused(finished: Path, tmp_path: Path, capsys: Capture) -> None:
    copy = shutil.copytree(finished, tmp_path / "copy")
    (copy / "recipe.toml").write_text("steps = -1")
    push = ["push", str(copy), "--repo", "org/m", "--dry-run"]
    assert main(push) == 3
    assert "push needs the run's own" in capsys.readouterr().err
    shutil.rmtree(copy / "checkpoints")
    assert main(push) == 3
    assert len(capsys.readouterr().err.splitlines()) == 1
