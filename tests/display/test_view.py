"""The viewer without a browser: what its pages show, what they refuse, and that nothing on them runs."""

from __future__ import annotations

import re
import shutil
import socket
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import fuzz
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from saved_runs import HOSTILE, make_run, response
from starlette.testclient import TestClient

from sieverl.cli import main
from sieverl.commands import view
from sieverl.display.view import find
from sieverl.display.view.app import app
from sieverl.display.view.store import Recent
from sieverl.display.view.tokens import COLOURS, coloured, pieces
from sieverl.errors import UsageError
from sieverl.run_dir.rollouts import rollout_path, write_rollouts
from sieverl.run_dir.saved import SavedRun

HOME = "http://127.0.0.1:7133"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_run(tmp_path, "one")
    make_run(tmp_path, "two", seed=1)
    return tmp_path


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(app(folder), base_url=HOME) as found:
        yield found


PAGES = ("/", "/run/one", "/run/one/step/2", "/run/one/eval/3", "/run/one/step/2/group/1", "/run/one/search?q=seven",
         "/run/one/prompt/11", "/compare", "/compare?a=one&b=two", *(f"/run/one/step/2/group/1?colour={name}"
         for name in COLOURS))  # fmt: skip


# --- what is shown ----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_is_whole_and_says_what_a_browser_may_do(client: TestClient, page: str) -> None:
    found = client.get(page)
    assert found.status_code == 200
    assert found.text.rstrip().endswith("</html>")
    assert "script-src 'self'" in found.headers["content-security-policy"]
    assert found.headers["x-content-type-options"] == "nosniff"
    assert found.headers["cache-control"] == "no-store"


def test_the_groups_of_a_step_by_filter(client: TestClient) -> None:
    for show, numbers in {"all": "012", "mixed": "1", "all_wrong": "0", "all_correct": "2", "timeout": ""}.items():
        text = client.get(f"/run/one/step/2?show={show}").text
        assert "".join(re.findall(r"step 2, group (\d)", text)) == numbers
        assert f"{len(numbers)} of 3 groups" in text


def test_filters_hold_together_and_an_unknown_one_shows_all(client: TestClient) -> None:
    assert "1 of 3 groups" in client.get("/run/one/step/2?q=SEVEN+times&show=mixed").text
    assert "0 of 3 groups" in client.get("/run/one/step/2?q=never+said").text
    assert "0 of 3 groups" in client.get("/run/one/step/2?shortest=999").text
    assert "3 of 3 groups" in client.get("/run/one/step/2?longest=999&shortest=1&show=nonsense&first=x").text


def test_a_group_shows_each_response_and_why_it_was_rejected(client: TestClient, folder: Path) -> None:
    rows = [response(9, 0, k, k == 0, kept=k == 0, reason=None if k == 0 else "not_chosen") for k in range(3)]
    write_rollouts(folder / "one", 9, rows)
    text = client.get("/run/one/step/9/group/0").text
    assert text.count('class="response ') == 3
    assert text.count("rejected: not chosen") == 2
    assert text.count(">kept<") == 1
    assert "1 of 3 right" in text


def test_moves_keep_the_filter(client: TestClient) -> None:
    text = client.get("/run/one/step/2/group/0?show=all&q=boxed").text
    assert "/run/one/step/2/group/1?q=boxed" in text
    assert "/run/one/step/2?q=boxed" in text
    assert "/run/one/step/3?show=mixed" in client.get("/run/one/step/2?show=mixed").text


def test_the_same_prompt_across_steps_and_evaluations(client: TestClient) -> None:
    text = client.get("/run/one/prompt/11").text
    assert re.findall(r"(step|eval) (\d), group (\d)", text) == [
        ("step", "1", "1"), ("step", "2", "1"), ("step", "3", "1"), ("eval", "0", "1"), ("eval", "3", "1"),
    ]  # fmt: skip
    assert "Nothing was found" in client.get("/run/one/prompt/999").text


def test_a_search_gives_the_newest_steps_first_and_ends(
    client: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = re.findall(r"step (\d), group (\d)", client.get("/run/one/search?q=times").text)
    assert found == [(step, group) for step in "321" for group in "012"]
    monkeypatch.setattr(find, "MOST", 4)
    assert len(list(find.containing(SavedRun.read(folder / "one"), "times"))) == 4


def test_two_runs_on_shared_prompts(client: TestClient, folder: Path) -> None:
    rows = [response(3, g, k, k < 1, prompt_id=10 + g) for g in range(2) for k in range(4)]
    write_rollouts(folder / "two", 3, rows, "eval")
    text = client.get("/compare?a=one&b=two").text
    assert "2 prompts were answered in both" in text
    assert re.findall(r"([+-]\d+) points", text) == ["-25", "+0"], "those that differ most first"
    assert client.get("/compare?a=one&b=nope").status_code == 404


def test_a_verdict_is_explained_by_the_rules_that_were_asked_for(client: TestClient) -> None:
    address = "/run/one/step/2/group/1/sample/0/verify"
    text = client.post(address, data={"rules": "as in this run"}).text
    assert "as plain numbers or the same text" in text
    assert "correct, reward 1" in text
    assert "<code>2</code>" in text
    refused = client.post(address, data={"rules": "mine.py:reward"})
    assert refused.status_code == 400
    assert "the rules can be as in this run, math" in refused.text


def test_the_code_of_a_user_is_never_run(folder: Path) -> None:
    (folder / "one" / "recipe.toml").write_text('[verify]\nname = "evil.py:reward"\n')
    with TestClient(app(folder), base_url=HOME) as client:
        address = "/run/one/step/2/group/1/sample/0/verify"
        assert client.post(address, data={"rules": "as in this run"}).status_code == 400
        assert client.post(address, data={"rules": "number"}).status_code == 200


# --- tokens -----------------------------------------------------------------------------------------


class Bytes:
    def decode(self, ids: Any, skip_special_tokens: bool = True) -> str:
        return bytes(ids).decode(errors="replace")


def test_half_characters_stay_together_and_all_text_is_there() -> None:
    for text in ("plain", "a\u20acb\U0001f600", "\U0001f600" * 3, ""):
        ids = list(text.encode())
        found = pieces(Bytes(), ids)
        assert "".join(part for part, _, _ in found) == text
        assert sum(count for _, _, count in found) == len(ids)
    assert pieces(Bytes(), list("\u20ac".encode())) == [("\u20ac", 0, 3)]


def test_a_token_that_never_becomes_a_character_ends() -> None:
    found = pieces(Bytes(), [0xE2] * 20 + [65])
    assert sum(count for _, _, count in found) == 21
    assert max(count for _, _, count in found) <= 8


def test_values_of_tokens_by_hand() -> None:
    row = {"tokens": [65, 66], "engine_logp": [-4.0, 0.0], "learner_logp": [-4.1, 0.02], "advantage": -1.0}
    assert [(p.text, p.shade) for p in coloured(Bytes(), row, "engine")] == [("A", -5), ("B", 0)]
    assert [p.shade for p in coloured(Bytes(), row, "mismatch")] == [-5, 1]
    assert [p.shade for p in coloured(Bytes(), row, "advantage")] == [-5, -5]
    assert [round(p.value or 0, 3) for p in coloured(Bytes(), row, "ratio")] == [0.905, 1.02]
    without = {**row, "learner_logp": None, "advantage": None}
    assert [p.value for name in ("ratio", "advantage") for p in coloured(Bytes(), without, name)] == [None] * 4
    assert [p.value for p in coloured(Bytes(), {**row, "engine_logp": [-1.0]}, "engine")] == [None, None]


# --- what is refused --------------------------------------------------------------------------------


def test_another_site_gets_nothing(client: TestClient) -> None:
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/", headers={"Host": "127.0.0.1.evil.example"}).status_code == 400
    assert client.get("/", headers={"Host": "localhost:7133"}).status_code == 200
    address = "/run/one/step/2/group/1/sample/0/verify"
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert client.post(address, data={"rules": "math"}, headers=headers).status_code == 403
    assert client.get("/", headers={"Origin": "http://127.0.0.1:9"}).status_code == 403, "of another port"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_it_only_reads(client: TestClient, folder: Path, method: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for page in PAGES:
        assert client.request(method, page).status_code == 405
        client.get(page)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    "page",
    ["/run/%2e%2e", "/run/..%2fone", "/run/none", "/run/one/step/99", "/run/one/step/2/group/9",
     "/run/one/nonsense/2", "/run/one/step/x", "/static/../app.py", "/static/%2e%2e/app.py", "/nothing",
     "/run/one/step/99999999999999999999", "/run/%00"],
)  # fmt: skip
def test_what_is_not_there_is_said(client: TestClient, page: str) -> None:
    found = client.get(page)
    assert found.status_code in (400, 404)
    assert "Traceback" not in found.text
    assert "/etc" not in found.text


def test_names_outside_of_the_folder_are_never_opened(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    secret = make_run(tmp_path_factory.mktemp("elsewhere"), "secret")
    with TestClient(app(folder), base_url=HOME) as client:
        for name in (str(secret), f"..%2f{secret.parent.name}%2fsecret"):
            assert client.get(f"/run/{name}").status_code == 404


# --- hostile text -----------------------------------------------------------------------------------


class Page(HTMLParser):
    """What would run or fetch on a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[str | None] = []
        self.events: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "script":
            self.scripts.append(found.get("src"))
        self.events += [name for name in found if name.startswith("on")]
        self.addresses += [value for name in ("src", "href", "action") if (value := found.get(name))]


def test_hostile_text_is_text_on_every_page(folder: Path) -> None:
    run = folder / "one"
    rows = [
        response(4, i, 0, False, text, prompt=text, answer=text, extracted=text, reason=text, parts={text[:20]: 1.0})
        for i, text in enumerate(HOSTILE)
    ]
    write_rollouts(run, 4, rows)
    write_rollouts(run, 4, rows, "eval")
    (run / "environment.json").write_text('{"starts": [{"step": "<script>1</script>", "device": "<b>x</b>"}, 7]}')
    (run / "recipe.toml").write_text('algorithm = "<script>x</script>"\nsteps = 4\n"<img onerror=1>" = "</details>"\n')
    pages = ["/", "/run/one", "/run/one/step/4", "/run/one/eval/4", "/run/one/search?q=<script>", "/run/one/prompt/11",
             "/compare?a=one&b=one", *(f"/run/one/step/4/group/{i}" for i in range(len(HOSTILE)))]  # fmt: skip
    with TestClient(app(folder), base_url=HOME) as client:
        for address in [*pages, *(f"{one}?colour=engine" for one in pages[7:])]:
            found = client.get(address)
            assert found.status_code == 200, address
            page = Page(found.text)
            assert page.scripts == ["/static/view.js"], address
            assert page.events == [], address
            assert all(one.startswith(("/", "?", "#", "data:,")) for one in page.addresses), address
            assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e\u2066]", found.text), address


def test_a_megabyte_is_cut(client: TestClient, folder: Path) -> None:
    write_rollouts(folder / "one", 4, [response(4, 0, 0, False, "x" * 1_000_000, prompt="y" * 1_000_000)])
    assert len(client.get("/run/one/step/4").text) < 20_000
    found = client.get("/run/one/step/4/group/0").text
    assert "980,000 more characters" in found


# --- runs as they are -------------------------------------------------------------------------------


def test_a_damaged_or_newer_step_is_named_and_the_others_are_shown(client: TestClient, folder: Path) -> None:
    rollout_path(folder / "one", 2).write_bytes(b"PAR1 no")
    assert "step-000002.parquet is left out" in client.get("/run/one/step/2").text
    assert "there are 1, 3" in client.get("/run/one/step/2").text
    assert client.get("/run/one/step/3").status_code == 200
    assert client.get("/run/one/search?q=times").status_code == 200
    assert "step-000002.parquet is left out" in client.get("/run/one").text


@pytest.mark.parametrize("count", [25, pytest.param(400, marks=pytest.mark.slow)])
def test_a_run_directory_harmed_at_random_never_fails_the_viewer(tmp_path: Path, count: int) -> None:
    whole, run = make_run(tmp_path / "whole"), tmp_path / "runs" / "one"
    names = sorted(fuzz.contents(whole))

    def check(example: tuple[str, bytes | None]) -> None:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(whole, run)
        name, data = example
        (run / name).unlink() if data is None else (run / name).write_bytes(data)
        with TestClient(app(run.parent), base_url=HOME) as client:
            for page in PAGES[:-4]:
                assert client.get(page).status_code in (200, 404), page

    fuzz.fuzz(count, fuzz.harmed(whole, names), check)


def test_columns_of_another_kind_are_named(client: TestClient, folder: Path) -> None:
    path = rollout_path(folder / "one", 2)
    whole = pq.read_table(path)
    for name, values, said in (
        ("group", ["a"] * 12, "its column group is string, not int64"),
        ("correct", [None] * 12, "its column correct is null"),
        ("reward", [None, *[1.0] * 11], "its column reward has gaps"),
        ("tokens", [["x"]] * 12, "its column tokens is list"),
    ):
        place = whole.column_names.index(name)
        pq.write_table(whole.set_column(place, name, pa.array(values)), path)
        assert said in client.get("/run/one/step/2").text
    pq.write_table(whole.drop_columns(["prompt"]), path)
    assert "it has no column prompt" in client.get("/run/one/step/2").text


def test_a_run_without_a_row_a_recipe_or_responses(folder: Path) -> None:
    (folder / "new").mkdir()
    (folder / "new" / "recipe.toml").write_text("not = [toml")
    (folder / "half").mkdir()
    (folder / "half" / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1, "reward/accu')
    with TestClient(app(folder), base_url=HOME) as client:
        assert all(name in client.get("/").text for name in ("new", "half", "one", "two"))
        assert "could not be read" in client.get("/run/new").text
        assert client.get("/run/half").status_code == 200


def test_a_run_that_goes_on_is_seen_and_one_that_does_not_is_not_sent_again(client: TestClient, folder: Path) -> None:
    first = client.get("/run/one")
    again = client.get("/run/one", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    with (folder / "one" / "metrics.jsonl").open("a") as log:
        log.write('{"step": 4, "reward/accuracy": 0.75}\n')
    fresh = client.get("/run/one", headers={"If-None-Match": first.headers["etag"]})
    assert fresh.status_code == 200
    assert "step 4 of 3" in fresh.text


def test_a_value_is_made_again_only_when_its_file_has_changed() -> None:
    made: list[int] = []
    recent: Recent[int] = Recent(2)
    for key, stamp in (("a", 1), ("a", 1), ("b", 1), ("a", 2), ("c", 1), ("b", 1)):
        recent.get(key, stamp, lambda: made.append(1) or len(made))  # type: ignore[func-returns-value]
    assert len(made) == 5, "the second was there, and b had to leave for c"


def test_one_run_as_the_folder(folder: Path) -> None:
    with TestClient(app(folder / "one"), base_url=HOME) as client:
        assert "/run/one" in client.get("/").text
        assert client.get("/run/one/step/2").status_code == 200


def test_a_page_is_small(client: TestClient) -> None:
    """150 kB compressed, apart from KaTeX."""
    assets = [
        client.get(path, headers={"Accept-Encoding": "identity"})
        for path in ("/static/view.js", "/static/view.css", "/charts.css")
    ]
    assert sum(len(one.content) for one in assets) < 60_000


# --- the command ------------------------------------------------------------------------------------


def test_a_port_in_use_is_said_and_the_next_one_taken(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = socket.socket()
    taken.bind((view.HOST, 0))
    taken.listen()
    port = taken.getsockname()[1]
    served: list[Any] = []
    opened: list[str] = []
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: served.extend(sockets))
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert main(["view", str(folder), "--port", str(port)]) == 0
    (found,) = served
    address = found.getsockname()
    assert address[0] == "127.0.0.1"
    assert address[1] > port
    assert opened == [f"http://127.0.0.1:{address[1]}/"]
    said = capsys.readouterr()
    assert f"port {port} is in use" in said.err
    assert opened[0] in said.out
    found.close()
    taken.close()


def test_bad_ports_and_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for port in (0, -1, 65536):
        with pytest.raises(UsageError, match="from 1 to 65535"):
            view.free_socket(port)
    assert main(["view", str(tmp_path / "none")]) == 3
    assert "is no folder" in capsys.readouterr().err


def test_it_serves_and_ctrl_c_ends_it(folder: Path) -> None:
    """The real server: this machine only, the pages whole, and it leaves when asked."""
    import uvicorn

    listening = view.free_socket(view.PORT)
    server = uvicorn.Server(uvicorn.Config(app(folder), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        with socket.create_connection(listening.getsockname(), timeout=30) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"</html>" in answer
    finally:
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()


def test_the_page_of_the_viewer_names_every_option_and_colour(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "view.md").read_text()
    with pytest.raises(SystemExit):
        main(["view", "--help"])
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    assert options == set(re.findall(r"^\| `(--[a-z-]+)", page, re.MULTILINE))
    assert f"{view.PORT} by default" in page
