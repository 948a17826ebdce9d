"""The viewer in a real browser: Chromium, with axe-core for what a screen reader needs."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from saved_runs import HOSTILE, make_run, response

from sieverl.commands import view
from sieverl.display.view.app import app
from sieverl.run_dir.rollouts import write_rollouts

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ADDRESSES = ("/", "/run/one", "/run/one/step/2", "/run/one/step/2/group/1", "/run/one/step/2/group/1?colour=engine",
             "/run/one/search?q=times", "/run/one/prompt/11", "/compare?a=one&b=two", "/run/none")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    make_run(runs, "one")
    make_run(runs, "two", seed=1)
    rows = [response(4, i, 0, False, text, prompt=text, answer=text) for i, text in enumerate(HOSTILE)]
    write_rollouts(runs / "one", 4, rows)
    return runs


@pytest.fixture(scope="module")
def home(folder: Path) -> Iterator[str]:
    import uvicorn

    listening = view.free_socket(view.PORT)
    server = uvicorn.Server(uvicorn.Config(app(folder), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is on the PATH; install the distribution's package chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, home: str) -> Iterator[Any]:
    """A page; anything that fails on it, and any request to elsewhere, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, base_url=home)
    found, wrong = context.new_page(), list[str]()
    found.on("pageerror", lambda error: wrong.append(str(error)))
    found.on("request", lambda r: None if r.url.startswith((home, "data:")) else wrong.append(r.url))
    yield found
    context.close()
    assert wrong == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_violation(page: Any, theme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page.emulate_media(color_scheme=theme)
    for address in ADDRESSES:
        page.goto(address)
        found = Axe().run(page)
        assert found.violations_count == 0, (address, found.generate_report())


@pytest.mark.parametrize("width", [400, 1280])
def test_no_page_is_wider_than_the_window(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    for address in [*ADDRESSES, *(f"/run/one/step/4/group/{i}" for i in range(len(HOSTILE)))]:
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, address


def test_hostile_responses_run_nothing_also_as_maths(page: Any) -> None:
    for number in range(len(HOSTILE)):
        for colour in ("", "engine"):
            page.goto(f"/run/one/step/4/group/{number}?colour={colour}")
            before = page.title()
            page.click("#maths")
            page.wait_for_selector("#maths[disabled]")
            assert page.title() == before
            assert page.evaluate("document.querySelectorAll('main script, main iframe, main img').length") == 0
            assert page.evaluate("[...document.querySelectorAll('main a')].every(a => a.origin == location.origin)")


def test_keys_move_through_groups_and_up(page: Any) -> None:
    page.goto("/run/one/step/2")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/step/2/group/1*")
    page.keyboard.press("j")
    page.wait_for_url("**/step/2/group/2*")
    page.keyboard.press("u")
    page.wait_for_url("**/step/2*")
    page.keyboard.press("]")
    page.wait_for_url("**/step/3*")
    page.keyboard.press("/")
    page.keyboard.type("j")
    assert page.input_value("input[type=search]") == "j", "a key in a field is a letter"


def test_maths_is_drawn_when_asked_for(page: Any, folder: Path) -> None:
    write_rollouts(folder / "one", 5, [response(5, 0, 0, True, r"so $\frac{1}{2}$ and \boxed{7}")])
    page.goto("/run/one/step/5/group/0")
    assert page.locator(".katex").count() == 0
    page.keyboard.press("m")
    page.wait_for_selector(".katex")
    assert page.locator(".response .katex").count() == 2


def test_a_verdict_is_explained_in_its_place(page: Any) -> None:
    page.goto("/run/one/step/2/group/1")
    page.locator("form.verify button").first.click()
    page.wait_for_selector("#verdict")
    assert "as plain numbers" in page.inner_text(".told")
    assert page.url.endswith("/group/1")


def test_the_theme_is_kept(page: Any) -> None:
    page.emulate_media(color_scheme="light")
    page.goto("/")
    page.click("#theme")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.goto("/run/one")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark != "rgb(255, 255, 255)"


def test_a_run_that_goes_on_is_shown_without_a_reload(page: Any, folder: Path) -> None:
    page.goto("/run/two")
    page.wait_for_timeout(500)
    with (folder / "two" / "metrics.jsonl").open("a") as log:
        log.write('{"step": 9, "reward/accuracy": 0.75}\n')
    page.get_by_text("step 9 of 3").wait_for()
