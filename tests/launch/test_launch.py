"""What a launcher refuses before anything starts, and how ranks and terminal talk; Ray itself is in test_ray."""

from __future__ import annotations

import signal
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest
from ray_here import free_port
from runs import recipe

from sieverl.cli import main
from sieverl.errors import Alarm, UsageError
from sieverl.launch.board import Attempt, Board, Silent, Speaker, play
from sieverl.launch.ray import RayLauncher, follow
from sieverl.launch.ray_cluster import check_address, set_up, too_few, wait_for_room
from sieverl.launch.ray_worker import resume_again
from sieverl.launch.work import Outcome, Start, Watcher, work
from sieverl.types import Metrics, Note


class Notebook:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def say(self, text: str) -> None:
        self.heard.append(text)

    def started(self, start: Start) -> None:
        self.heard.append(start)

    def row(self, row: Metrics, notes: Any) -> None:
        self.heard.append((row["step"], [note.text for note in notes]))


class Handle:
    """A handle of an actor that lives here: `handle.method.remote(...)` is a call."""

    def __init__(self, actor: object) -> None:
        self.actor = actor

    def __getattr__(self, name: str) -> Any:
        return types.SimpleNamespace(remote=getattr(self.actor, name))


def wait(refs: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
    """What is done and what is not, of one thread."""
    (thread,) = refs
    thread.join(timeout)
    return ([], refs) if thread.is_alive() else (refs, [])


NO_RAY: Any = types.SimpleNamespace(get=lambda value: value, wait=wait)  # what Ray gives back is there at once


def in_background(task: Any) -> threading.Thread:
    thread = threading.Thread(target=task, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a launcher sets for Ray is forgotten after the test."""
    monkeypatch.setattr("os.environ", dict(__import__("os").environ))


# --- what is refused --------------------------------------------------------------------------------


def test_without_ray_the_message_says_how_to_install_it(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, clean_environment: None
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["train", "r.toml", "--launcher", "ray"]) == 2
    assert "pip install 'sieverl[ray]'" in capsys.readouterr().err
    assert not (work / "runs").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--workers", "2"], "--workers goes with --launcher ray"),
        (["--max-failures", "1"], "--max-failures goes with --launcher ray"),
        (["--launcher", "ray", "--workers", "0"], "--workers is 0; it takes 1 or more"),
        (["--launcher", "ray", "--max-failures", "-1"], "--max-failures is -1; it takes 0 or more"),
        (["--launcher", "ray", "--address", "ray://head:10001"], "ray job submit"),
        (["--launcher", "ray", "--address", "head"], "HOST:PORT"),
        (["--launcher", "ray", "--address", "head:99999"], "HOST:PORT"),
    ],
)
def test_options_that_cannot_work(
    work: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str, clean_environment: None
) -> None:
    assert main(["train", "r.toml", *options]) == 2
    assert said in capsys.readouterr().err


def test_a_cluster_that_is_not_there_is_no_hang(
    work: Path, capsys: pytest.CaptureFixture[str], clean_environment: None
) -> None:
    """Nothing listens there: refused at once, before Ray is imported."""
    address = f"127.0.0.1:{free_port()}"
    assert main(["train", "r.toml", "--launcher", "ray", "--address", address]) == 2
    assert f"no Ray cluster answers at {address}" in capsys.readouterr().err


def test_an_address_that_never_answers_has_a_deadline() -> None:
    """192.0.2.0/24 is for documentation (RFC 5737): nothing is there."""
    with pytest.raises(UsageError, match="no Ray cluster answers"):
        check_address("192.0.2.1:6379", 0.2)


def test_too_few_resources_are_waited_for_and_refused_with_the_arithmetic() -> None:
    free = iter([{"CPU": 1.0}, {"CPU": 4.0}])
    grows: Any = types.SimpleNamespace(available_resources=lambda: next(free), cluster_resources=lambda: {"CPU": 4.0})
    wait_for_room(grows, 4, {"CPU": 1, "GPU": 0}, 5.0)
    stays: Any = types.SimpleNamespace(available_resources=dict, cluster_resources=lambda: {"CPU": 2.0})
    with pytest.raises(UsageError, match="4 x 1 = 4 CPU, and the cluster has 2, of which 0 are free; use fewer"):
        wait_for_room(stays, 4, {"CPU": 1}, 0.0)
    assert too_few(16, {"CPU": 1, "GPU": 1}, {"CPU": 64.0, "GPU": 8.0}, {"GPU": 8.0}).endswith("of which 8 are free")


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch, clean_environment: None) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    set_up({"RAY_AUTH_MODE": "token"})
    assert __import__("os").environ["RAY_AUTH_MODE"] == "disabled"


# --- ranks and terminal -----------------------------------------------------------------------------


def test_the_terminal_shows_what_the_first_rank_tells_until_the_end() -> None:
    board, seen = Board(), Notebook()
    speaker: Watcher = Speaker(NO_RAY, Handle(board))
    Silent().say("of another rank")

    def fit() -> None:
        speaker.say("qwen2")
        speaker.started(Start(0, False, True))
        speaker.row({"step": 1}, [Note("hm")])
        board.end(Outcome(1))

    assert follow(NO_RAY, Handle(board), in_background(fit), seen, []) == Outcome(1)
    assert seen.heard == ["qwen2", Start(0, False, True), (1, ["hm"])]


def test_an_error_ends_the_run_without_waiting_for_the_other_ranks() -> None:
    board = Board()
    board.end(UsageError("no such file"))
    board.end(Outcome(3))  # too late
    never = in_background(threading.Event().wait)
    end = follow(NO_RAY, Handle(board), never, Notebook(), [])
    assert isinstance(end, UsageError)
    assert str(end) == "no such file"


def test_a_signal_reaches_the_first_rank_with_the_answer_to_its_next_row() -> None:
    board = Board()
    speaker = Speaker(NO_RAY, Handle(board))
    with speaker.stopping() as requested:
        speaker.row({"step": 1}, [])
        assert not requested
        assert follow(NO_RAY, Handle(board), in_background(lambda: None), Notebook(), [signal.SIGTERM]) is None
        speaker.row({"step": 2}, [])
        speaker.row({"step": 3}, [])
        assert requested == [signal.SIGTERM]


def test_another_start_resumes_its_own_run_and_one_after_the_end_does_nothing() -> None:
    board = Board()
    assert board.attempt(0) == board.attempt(1) == Attempt(1, opened=False, end=None)
    assert resume_again("never", board.attempt(1)) == "never"
    board.tell("started", (Start(0, False, True),))
    assert board.attempt(0) == Attempt(2, opened=True, end=None)
    assert resume_again("never", board.attempt(1)) == "auto"
    board.end(Alarm("stop"))
    assert isinstance(board.attempt(1).end, Alarm)


def test_too_many_failures_give_the_ranks_own_error_or_an_alarm() -> None:
    one = RayLauncher(max_failures=1)
    assert str(one.gave_up(recipe(Path("r")), Alarm("the engine is gone"))) == "the engine is gone"
    said = one.gave_up(recipe(Path("r")), "out of memory")
    assert isinstance(said, Alarm)
    assert "more than --max-failures = 1" in str(said)
    assert "out of memory" in str(said)


def test_one_rank_alone_is_a_launcher(tmp_path: Path) -> None:
    seen = Notebook()
    assert work(recipe(tmp_path / "run", steps=1), "auto", seen) == Outcome(1)
    assert Start(0, False, False) in seen.heard
    assert [row[0] for row in seen.heard if isinstance(row, tuple)] == [0, 1]
    again = Notebook()
    play([("say", ("x",))], again)
    assert work(recipe(tmp_path / "run", steps=1), "auto", again) == Outcome(1)
    assert again.heard[-1] == Start(1, has_rows=True, graded=False)
