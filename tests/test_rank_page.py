"""The ranking page in a real browser, against a real round: by keys, by mouse, ties, skips, undo, reloads."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn

sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("needs chromium on the path", allow_module_level=True)

from playwright.sync_api import Browser, Locator, Page, expect  # noqa: E402

from modelwright.data.judgements import Journal, Judgement  # noqa: E402
from modelwright.data.rankings import Item  # noqa: E402
from modelwright.recipes.ranked import agreed  # noqa: E402
from modelwright.serve.labelling import Round  # noqa: E402
from modelwright.serve.ranking import Service  # noqa: E402
from modelwright.serve.server import Limits, listening  # noqa: E402

pytestmark = pytest.mark.slow
EVIL = "<script>window.hurt = 1</script><img src=x onerror='window.hurt = 2'>"
TALK = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"})
ITEMS = [
    Item("p:1", "Where is my parcel?", ("alpha", "beta", "gamma", "delta"), ((),) * 4),
    Item("p:2", TALK, ("yes", "", EVIL), ((),) * 3),
    Item("p:3", "Twice?", ("one", "two"), ((),) * 2),
]


@dataclass
class Running:
    url: str
    journal: Journal
    stop: Callable[[], None]
    start: Callable[[], None]

    def ranked(self) -> list[dict[str, int]]:
        """{completion: rank} of each judgement that stands; nothing in it for a skip."""
        items = {item.id: item.completions for item in ITEMS}
        return [dict(zip(items[one.item], one.ranks or (), strict=False)) for one in self.journal]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def serving(journal: Journal, limits: Limits) -> Iterator[Running]:
    labelling = Round("Which is kinder?", ITEMS, journal, seed=1, agreed=lambda judged: asdict(agreed(judged)))
    port = 0
    servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start() -> None:
        nonlocal port
        listener = listening("127.0.0.1", port)
        port = listener.getsockname()[1]
        config = uvicorn.Config(Service(labelling, limits).app, log_level="warning", lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        servers.append((server, thread))

    def stop() -> None:
        server, thread = servers.pop()
        server.force_exit = server.should_exit = True
        thread.join(20)

    start()
    try:
        yield Running(f"http://127.0.0.1:{port}", journal, stop, start)
    finally:
        if servers:
            stop()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with Journal(tmp_path / "j.jsonl") as journal, serving(journal, Limits()) as running:
        yield running


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Page]]:
    """A page of a running server; at the end nothing may have gone wrong in it, and nothing gone elsewhere."""
    complaints: list[str] = []
    elsewhere: list[str] = []
    contexts: list[Any] = []
    meant: list[str] = []

    def open_page(url: str, name: str = "Anna", refused: bool = False, **how: Any) -> Page:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | how))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text))
        page.on("request", lambda request: elsewhere.append(request.url) if not request.url.startswith(url) else None)
        if refused:
            meant.append("Failed to load resource")
        page.goto(url)
        if name:
            page.get_by_label("Your name").fill(name)
            page.get_by_role("button", name="Start").click()
            expect(page.locator(".card").first).to_be_visible()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [line for line in complaints if not line.startswith(tuple(meant) or "\0")] == []
    assert [url for url in elsewhere if not url.startswith("data:")] == []


def card(page: Page, text: str) -> Locator:
    return page.locator(".card").filter(has_text=text)


def key_of(page: Page, text: str) -> str:
    return card(page, text).locator("kbd").inner_text()


def press(page: Page, *texts: str) -> None:
    """Keys by the completions that they stand for; what is no completion is a key itself."""
    shown = page.locator(".card .said").all_text_contents()
    for text in texts:
        page.keyboard.press(key_of(page, text) if text in shown else text)


def count(page: Page, said: str) -> None:
    expect(page.locator("#count")).to_have_text(said)


# -- ranking --------------------------------------------------------------------------------------


def test_by_keys(opened: Callable[..., Page], running: Running) -> None:
    page = opened(running.url)
    expect(page.locator("#criterion")).to_have_text("Which is kinder?")
    expect(page.locator("#prompt")).to_contain_text("Where is my parcel?")
    press(page, "gamma", "alpha", "delta")
    expect(card(page, "gamma").locator(".rank")).to_have_text("Best")
    expect(card(page, "beta").locator(".rank")).to_have_text("4th, the last")
    press(page, "Enter")
    count(page, "1 of 3")
    assert running.ranked() == [{"gamma": 1, "alpha": 2, "delta": 3, "beta": 4}]


def test_by_clicks_and_a_click_takes_back(opened: Callable[..., Page], running: Running) -> None:
    page = opened(running.url)
    accept = page.get_by_role("button", name="Accept")
    for text in ("delta", "alpha", "beta", "alpha"):
        card(page, text).click()
    expect(card(page, "beta").locator(".rank")).to_have_text("2nd")
    expect(accept).to_be_disabled()
    card(page, "gamma").click()
    card(page, "alpha").click()
    accept.click()
    count(page, "1 of 3")
    assert running.ranked() == [{"delta": 1, "beta": 2, "gamma": 3, "alpha": 4}]


def test_by_dragging_into_an_order_and_into_a_tie(opened: Callable[..., Page], running: Running) -> None:
    page = opened(running.url)
    card(page, "alpha").drag_to(page.locator(".slot"))
    card(page, "beta").drag_to(page.locator(".slot"))
    card(page, "gamma").drag_to(page.locator(".gap").first)  # before all others
    expect(card(page, "gamma").locator(".rank")).to_have_text("Best")
    card(page, "delta").drag_to(page.locator(".group").nth(1))  # with alpha
    expect(card(page, "delta").locator(".rank")).to_have_text("2nd, tied")
    page.get_by_role("button", name="Accept").click()
    count(page, "1 of 3")
    assert running.ranked() == [{"gamma": 1, "alpha": 2, "delta": 2, "beta": 3}]


@pytest.mark.parametrize("tie", ["=", "t"])
def test_a_tie_by_keys(opened: Callable[..., Page], running: Running, tie: str) -> None:
    page = opened(running.url)
    press(page, "beta", tie, "alpha", "gamma")
    expect(card(page, "alpha").locator(".rank")).to_have_text("Best, tied")
    press(page, "Enter")
    count(page, "1 of 3")
    assert running.ranked() == [{"beta": 1, "alpha": 1, "gamma": 2, "delta": 3}]


def test_the_last_two_are_tied_after_all(opened: Callable[..., Page], running: Running) -> None:
    page = opened(running.url)
    press(page, "beta", "alpha", "gamma", "delta", "=", "Enter")
    count(page, "1 of 3")
    assert running.ranked() == [{"beta": 1, "alpha": 2, "gamma": 3, "delta": 3}]


def test_skip_clear_and_undo(opened: Callable[..., Page], running: Running) -> None:
    page = opened(running.url)
    press(page, "beta", "Escape")
    expect(page.locator(".card.ranked")).to_have_count(0)
    press(page, "s")
    count(page, "0 of 3, 1 skipped")
    expect(page.locator("#prompt .turn")).to_have_text(["InstructionsBe brief.", "UserHello?"])
    assert running.ranked() == [{}]
    press(page, "yes", "u")  # first the step
    expect(page.locator(".card.ranked")).to_have_count(0)
    press(page, "Backspace")  # then the prompt
    count(page, "0 of 3")
    expect(page.locator("#prompt")).to_contain_text("Where is my parcel?")
    assert running.ranked() == []


def test_enter_with_too_little_ranked_does_nothing(opened: Callable[..., Page], running: Running) -> None:
    page = opened(running.url)
    press(page, "Enter", "beta", "Enter", "alpha", "Enter")
    page.wait_for_timeout(200)
    count(page, "0 of 3")
    assert running.ranked() == []


def test_a_reload_keeps_who_one_is_and_how_far_one_came(opened: Callable[..., Page], running: Running) -> None:
    page = opened(running.url)
    press(page, "beta", "alpha", "gamma", "Enter")
    count(page, "1 of 3")
    shown = page.locator(".card .said").all_text_contents()
    page.reload()
    count(page, "1 of 3")
    expect(page.locator("#me")).to_have_text("Anna")
    assert page.locator(".card .said").all_text_contents() == shown


def test_labellers_at_once_see_other_orders_and_are_all_kept(opened: Callable[..., Page], running: Running) -> None:
    pages = [opened(running.url, name) for name in ("Anna", "Ben", "Cleo")]
    orders = {tuple(page.locator(".card .said").all_text_contents()) for page in pages}
    assert len(orders) > 1
    for page in pages:
        press(page, "beta", "alpha", "gamma")
    for page in pages:
        page.keyboard.press("Enter")
    for page in pages:
        count(page, "1 of 3")
    assert running.ranked() == [{"beta": 1, "alpha": 2, "gamma": 3, "delta": 4}] * 3


def test_the_end_thanks_and_tells_the_agreement(opened: Callable[..., Page], running: Running) -> None:
    for item in ITEMS[::2]:
        size = len(item.completions)
        order = tuple(range(size))
        running.journal.add(Judgement(f"ben-{item.id}", item.id, "Ben", tuple(range(1, size + 1)), order, 1.0))
    page = opened(running.url)
    press(page, "alpha", "beta", "gamma", "Enter")
    count(page, "1 of 3")
    press(page, "s")
    count(page, "1 of 3, 1 skipped")
    press(page, "one", "Enter")
    expect(page.locator("#thanks")).to_have_text("Thank you, Anna.")
    expect(page.locator("#sum")).to_contain_text("You ranked 2 prompts and skipped 1.")
    expect(page.locator(".figure b")).to_have_text("1.00")
    expect(page.locator("#agreement")).to_contain_text("100% were the same: 2 people, 2 prompts")
    page.get_by_role("button", name="Take back my last").click()
    expect(page.locator("#prompt")).to_contain_text("Twice?")


def test_words_that_are_marked_elsewhere_do_not_keep_a_click_from_ranking(
    opened: Callable[..., Page], running: Running
) -> None:
    page = opened(running.url)
    page.evaluate("() => getSelection().selectAllChildren(document.querySelector('#prompt'))")
    card(page, "beta").click()
    expect(card(page, "beta").locator(".rank")).to_have_text("Best")


def test_a_finger_ranks_by_touching(opened: Callable[..., Page], running: Running) -> None:
    page = opened(running.url, viewport={"width": 420, "height": 860}, has_touch=True, is_mobile=True)
    expect(page.locator("#order")).to_contain_text("Touch the answers")
    for text in ("delta", "beta", "alpha"):
        card(page, text).tap()
    page.get_by_role("button", name="Accept").tap()
    count(page, "1 of 3")
    assert running.ranked() == [{"delta": 1, "beta": 2, "alpha": 3, "gamma": 4}]


# -- what goes wrong ------------------------------------------------------------------------------


def test_markup_in_an_answer_is_text_and_an_empty_answer_is_said(opened: Callable[..., Page], running: Running) -> None:
    page = opened(running.url)
    press(page, "s")
    expect(card(page, "window.hurt = 1").locator(".said")).to_have_text(EVIL)
    expect(card(page, "An empty answer")).to_be_visible()
    assert page.locator("main script, main img").count() == 0
    assert page.evaluate("() => window.hurt") is None


def test_a_ranking_waits_for_a_server_that_is_away(opened: Callable[..., Page], running: Running) -> None:
    page = opened(running.url, refused=True)
    press(page, "beta", "alpha", "gamma")
    running.stop()
    press(page, "Enter")
    expect(page.locator("#trouble")).to_contain_text("What you ranked here is sent again")
    running.start()
    count(page, "1 of 3")
    expect(page.locator("#trouble")).to_be_hidden()
    assert running.ranked() == [{"beta": 1, "alpha": 2, "gamma": 3, "delta": 4}]


def test_another_window_has_judged_it_already(opened: Callable[..., Page], running: Running) -> None:
    page = opened(running.url)
    running.journal.add(Judgement("elsewhere", "p:1", "Anna", (1, 2, 3, 4), (0, 1, 2, 3), 1.0))
    press(page, "beta", "alpha", "gamma", "Enter")
    expect(page.locator("#trouble")).to_contain_text("the first judgement stands")
    count(page, "1 of 3")
    assert running.ranked() == [{"alpha": 1, "beta": 2, "gamma": 3, "delta": 4}]


def test_a_key_is_asked_for_and_kept_for_the_tab_alone(
    browser: Browser, opened: Callable[..., Page], tmp_path: Path
) -> None:
    with Journal(tmp_path / "k.jsonl") as journal, serving(journal, Limits(keys=("a secret",))) as running:
        page = opened(running.url, name="", refused=True)
        page.get_by_label("Key").fill("wrong")
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#trouble")).to_have_text("That is not the key.")
        page.get_by_label("Key").fill("a secret")
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#asked")).to_have_text("Which is kinder?")
        assert page.evaluate("() => [localStorage.length, document.cookie]") == [0, ""]


# -- where it is looked at ------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (420, 860), (320, 568)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_beyond_the_window(
    opened: Callable[..., Page], running: Running, width: int, height: int, scheme: str
) -> None:
    page = opened(running.url, viewport={"width": width, "height": height}, color_scheme=scheme)
    press(page, "beta", "=", "alpha", "gamma")
    assert page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
    for name in ("Skip", "Undo", "Clear", "Tie", "Accept"):
        expect(page.locator("#foot").get_by_role("button", name=name)).to_be_in_viewport(ratio=1)
    expect(page.locator("#criterion")).to_be_in_viewport()
