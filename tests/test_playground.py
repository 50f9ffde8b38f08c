"""The playground in a real browser, against a server of canned answers: what it sends, and what it shows."""

import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
pytest.importorskip("starlette", reason="needs starlette")
pytest.importorskip("uvicorn", reason="needs uvicorn")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("needs chromium on the path", allow_module_level=True)

from playwright.sync_api import Browser, Locator, Page, expect  # noqa: E402

from playground_stub import SEED, WORDS, Stub, serving  # noqa: E402

pytestmark = pytest.mark.slow
STORY = "".join(WORDS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving(Stub()) as stub:
        yield stub


@dataclass
class Watched:
    """What a page did that no page of ours may do."""

    complaints: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def of(self, page: Page, url: str) -> None:
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self.complaints.append(said.text) if said.type != "log" else None)
        page.on("request", lambda request: self.elsewhere.append(request.url) if not own(request.url, url) else None)


def own(asked: str, url: str) -> bool:
    return asked.startswith((url + "/", "data:"))


@pytest.fixture
def opened(browser: Browser, stub: Stub) -> Iterator[Callable[..., Page]]:
    """A page of the playground; at the end nothing may have gone wrong in it, and nothing gone elsewhere.

    A browser itself writes a line for each answer that is an error: `refused` says that one is meant to come.
    """
    watched, contexts, meant = Watched(), [], []

    def open_page(refused: bool = False, **how: Any) -> Page:
        context = browser.new_context(permissions=["clipboard-read", "clipboard-write"], **how)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        watched.of(page, stub.url)
        if refused:
            meant.append("Failed to load resource")
        page.goto(stub.url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [line for line in watched.complaints if not line.startswith(tuple(meant) or "\0")] == []
    assert watched.elsewhere == []


def choose(page: Page, name: str, value: str, pane: int = 0) -> None:
    page.locator(f"[name={name}][value='{value}']").nth(pane).check()


def put(page: Page, pane: int = 0, **settings: str) -> None:
    for name, value in settings.items():
        page.locator(f"[name={name}]").nth(pane).fill(value)


def write(page: Page, prompt: str, ended: bool = True) -> Locator:
    """Send a prompt; the text of the first pane's last answer."""
    page.get_by_role("textbox", name=re.compile("^(Prompt|Message)$")).fill(prompt)
    page.locator("#go").click()
    if ended:
        expect(page.locator("#go")).not_to_have_text("Stop")
    return page.locator(".pane").first.locator(".text").last


def copied(page: Page, what: str, pane: int = 0) -> str:
    page.locator(f"[data-copy={what}]").nth(pane).click()
    expect(page.locator("#told")).to_contain_text("Copied")
    return page.evaluate("() => navigator.clipboard.readText()")


def texts(locator: Locator) -> list[str]:
    return [re.sub(r"\s+", " ", text).strip() for text in locator.all_inner_texts()]


# -- what is shown ------------------------------------------------------------------------------


def test_a_text_comes_token_by_token_after_its_prompt(opened: Callable[..., Page], stub: Stub) -> None:
    page = opened()
    text = write(page, "Once")
    assert text.text_content() == "Once" + STORY
    tokens = text.locator(".token")
    assert tokens.all_text_contents() == WORDS
    assert [tokens.nth(at).get_attribute("data-level") for at in range(4)] == ["2", "2", "2", "3"]  # 50%, 25%
    took = page.locator(".took").inner_text()
    assert "14 tokens" in took
    assert re.search(r"at [\d.]+/s", took)
    assert re.search(r"first after [\d.]+ m?s", took)
    assert "ended by itself" in took
    assert f"seed {SEED}" in took
    assert stub.bodies == [
        {
            "model": "base",
            "prompt": "Once",
            "max_tokens": 128,
            "temperature": 0.8,
            "top_k": 40,
            "top_p": 0.95,
            "likely": 10,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


def test_it_shows_what_has_come_before_the_rest_has(opened: Callable[..., Page]) -> None:
    page = opened()
    text = write(page, "slow", ended=False)
    expect(text).to_have_text(re.compile("^slow The lamp in"))
    assert len(text.locator(".token").all()) < 100
    expect(page.locator("#go")).to_have_text("Stop")
    page.locator("#go").click()


def test_tokens_that_share_a_letter_or_have_none_stand_in_the_text_as_it_came(opened: Callable[..., Page]) -> None:
    text = write(opened(), "halves ")
    assert text.text_content() == "halves  café au"
    assert text.locator(".token").all_text_contents() == [" caf", "é", "", " au", ""]


def test_the_card_of_a_token_tells_how_each_rule_reshaped_its_candidates(opened: Callable[..., Page]) -> None:
    page = opened()
    put(page, temperature="0.5", top_k="3", top_p="0.9")
    token = write(page, "Once").locator(".token").nth(3)  # " the", drawn as the second
    token.hover()
    card = page.locator("#card")
    expect(card.locator(".headline")).to_contain_text("25.0%")
    assert texts(card.locator(".headline .soft")) == ["token 4, 2nd likeliest"]
    assert texts(card.locator("thead th"))[1:] == ["model", "temperature 0.5", "top-k 3", "top-p 0.9"]
    rows = [texts(row.locator("th, td")) for row in card.locator("tbody tr").all()]
    # p squared: 1/4, 1/16, 1/64, 1/256 twice, of 86/256; then three are left, of 84/256; then two, 4 to 1.
    assert rows == [
        ["␣a", "50.0%", "74.4%", "76.2%", "80.0%", ""],
        ["␣the", "25.0%", "18.6%", "19.0%", "20.0%", "chosen"],
        ["␣one", "12.5%", "4.7%", "4.8%", "cut", ""],
        ["␣that", "6.3%", "1.2%", "cut", "", ""],
        ["␣<b>bold</b>", "6.3%", "1.2%", "cut", "", ""],
        ["0 others", "", "", "", "", ""],
    ]
    assert texts(card.locator("tr.drawn code")) == ["␣the"]
    struck = card.locator("tr.cut code")
    assert len(struck.all()) == 3
    assert "line-through" in struck.first.evaluate("node => getComputedStyle(node).textDecoration")
    wide = [bar.evaluate("node => parseFloat(getComputedStyle(node, '::after').width)") for bar in cells(card, 0)]
    assert wide == pytest.approx([wide[3] * p / 0.8 for p in (0.5, 64 / 86, 64 / 84, 0.8)], rel=0.01)
    page.mouse.move(5, 5)
    expect(card).to_be_hidden()


def cells(card: Locator, row: int) -> list[Locator]:
    return card.locator("tbody tr").nth(row).locator(".cell").all()


def test_a_greedy_card_has_the_model_alone_and_tells_of_the_candidates_not_shown(opened: Callable[..., Page]) -> None:
    page = opened()
    choose(page, "draw", "greedy")
    page.get_by_role("button", name="More").click()
    put(page, likely="1")
    write(page, "Once").locator(".token").nth(3).hover()
    expect(page.locator(".took")).not_to_contain_text("seed")
    rows = [texts(row.locator("th, td")) for row in page.locator("#card tbody tr").all()]
    assert rows == [["␣a", "50.0%", ""], ["␣the", "25.0%", "chosen"], ["4 others, with it", "50.0%", ""]]


def test_a_label_is_shown_among_the_labels(opened: Callable[..., Page]) -> None:
    page = opened()
    page.locator("[name=model]").select_option("sorter")
    expect(page.locator(".facts")).to_contain_text("chooses among 3 labels")
    for setting in ("max_tokens", "temperature", "draw"):
        expect(page.locator(f"[name={setting}]").first).to_be_hidden()
    token = write(page, "The parcel").locator(".token")
    assert token.all_text_contents() == [" billing"]
    assert token.get_attribute("data-level") == "2"  # 80% of what the labels have, though the model gives it 4%
    token.hover()
    card = page.locator("#card")
    expect(card.locator(".headline")).to_contain_text("80.0%")
    expect(card.locator(".headline .soft")).to_have_text("among the labels, the likeliest")
    assert [texts(row.locator("th, td")) for row in card.locator("tbody tr").all()] == [
        ["␣billing", "4.0%", "80.0%", "chosen"],
        ["␣praise", "0.50%", "10.0%", ""],
        ["␣delivery", "0.50%", "10.0%", ""],
        ["all else", "95.0%", "", ""],
    ]
    page.get_by_label("The prompt as it stands").check()
    expect(page.locator("[name=temperature]")).to_be_visible()


def test_the_keyboard_walks_over_the_tokens_and_back_out(opened: Callable[..., Page]) -> None:
    page = opened()
    tokens = write(page, "Once").locator(".token")
    card = page.locator("#card .headline code")
    tokens.first.focus()
    expect(card).to_have_text("␣The")
    page.keyboard.press("ArrowRight")
    expect(card).to_have_text("␣lamp")
    page.keyboard.press("End")
    expect(card).to_have_text("↵")
    page.keyboard.press("Home")
    expect(tokens.first).to_be_focused()
    assert [one.get_attribute("tabindex") for one in tokens.all()] == ["0"] + ["-1"] * (len(WORDS) - 1)
    page.keyboard.press("Escape")
    expect(page.locator("#card")).to_be_hidden()


def test_a_click_keeps_the_card_and_a_click_beside_it_lets_it_go(opened: Callable[..., Page]) -> None:
    page = opened()
    write(page, "Once").locator(".token").nth(1).click()
    page.mouse.move(5, 5)
    page.wait_for_timeout(400)
    expect(page.locator("#card")).to_be_visible()
    page.locator(".top h1").click()
    expect(page.locator("#card")).to_be_hidden()


def test_markup_in_a_model_s_text_is_text(opened: Callable[..., Page]) -> None:
    page = opened()
    text = write(page, "script <b>mine</b>")
    assert "<script>window.hurt = 1</script><img src=x" in (text.text_content() or "")
    text.locator(".token").nth(1).hover()
    expect(page.locator("#card .headline")).to_contain_text("<img")
    assert page.locator("main script, main img, main b b, #card img, #card script, .given b").count() == 0
    assert page.evaluate("() => window.hurt") is None


def test_an_encoder_is_not_offered(opened: Callable[..., Page]) -> None:
    page = opened()
    expect(page.locator("[name=model] option")).to_have_text(["base", "polite", "triage", "summary", "sorter"])
    choose(page, "mode", "chat")
    expect(page.locator("[name=model] option")).to_have_text(["base", "polite", "summary", "sorter"])
    choose(page, "mode", "fields")
    expect(page.locator("[name=model] option")).to_have_text(["triage", "summary", "sorter"])


# -- what is sent -------------------------------------------------------------------------------


def test_stop_ends_the_request_itself(opened: Callable[..., Page], stub: Stub) -> None:
    page = opened()
    text = write(page, "slow", ended=False)
    expect(text.locator(".token").nth(2)).to_be_attached()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#go")).to_have_text("Write")
    expect(page.locator(".took")).to_contain_text("stopped by you")
    end = time.monotonic() + 3
    while not stub.left and time.monotonic() < end:
        page.wait_for_timeout(50)
    assert stub.left == 1
    here = text.text_content()
    page.wait_for_timeout(300)
    assert text.text_content() == here


def test_two_panes_send_one_prompt_by_their_own_settings(opened: Callable[..., Page], stub: Stub) -> None:
    page = opened()
    choose(page, "panes", "2")
    page.locator("[name=model]").nth(1).select_option("polite")
    choose(page, "draw", "greedy", pane=0)
    put(page, 1, max_tokens="5", temperature="1.3", top_k="", top_p="0.5", seed="11")
    write(page, "Once")
    left, right = sorted(stub.bodies, key=lambda body: body["model"])
    assert (left["model"], right["model"]) == ("base", "polite")
    assert left["prompt"] == right["prompt"] == "Once"
    assert left["temperature"] == 0
    assert not {"top_k", "top_p", "min_p", "seed"} & set(left)
    assert {"max_tokens": 5, "temperature": 1.3, "top_p": 0.5, "seed": 11}.items() <= right.items()
    assert "top_k" not in right
    answers = page.locator(".pane .text").all_text_contents()
    assert answers == ["Once" + STORY, "Once" + "".join(WORDS[:5])]


def test_every_setting_is_sent_as_it_was_said(opened: Callable[..., Page], stub: Stub) -> None:
    page = opened()
    page.get_by_role("button", name="More").click()
    put(page, min_p="0.1", repetition_penalty="1.2", frequency_penalty="-0.5", presence_penalty="0.5", likely="0")
    put(page, stop="END\n\\n\\n")
    write(page, "Once")
    choose(page, "draw", "own")
    write(page, "Once")
    sampled, own_settings = stub.bodies
    said = {"min_p": 0.1, "repetition_penalty": 1.2, "frequency_penalty": -0.5, "presence_penalty": 0.5, "likely": 0}
    assert said.items() <= sampled.items()
    assert sampled["stop"] == ["END", "\n\n"]
    assert not {"temperature", "top_k", "top_p", "min_p", "seed"} & set(own_settings)


def test_the_model_s_own_settings_are_shown_and_those_that_were_typed_come_back(
    opened: Callable[..., Page], stub: Stub
) -> None:
    page = opened()
    drawn = ("temperature", "top_k", "top_p", "seed")
    put(page, temperature="1.5", seed="3")

    def shown(said: str = "value") -> list[str | None]:
        found = [page.locator(f"[name={name}]") for name in drawn]
        return [one.input_value() if said == "value" else one.get_attribute(said) for one in found]

    choose(page, "draw", "own")
    assert (shown(), shown("placeholder")) == (["0.7", "20", "", "3"], ["none", "none", "none", "any"])
    assert page.locator("[name=max_tokens]").get_attribute("placeholder") == "64"
    write(page, "Once")  # what the model draws by its own settings can be drawn again
    assert (stub.bodies[0]["seed"], "temperature" in stub.bodies[0]) == (3, False)
    choose(page, "draw", "greedy")
    choose(page, "draw", "own")
    choose(page, "draw", "sampling")
    assert shown() == ["1.5", "40", "0.95", "3"]
    page.locator("[name=model]").select_option("triage")  # its prompt stands as it is: nothing is known
    assert (shown(), shown("placeholder")) == ([""] * 4, [*["model’s own"] * 3, "any"])


def test_a_chat_keeps_its_turns_and_forgets_them_when_asked(opened: Callable[..., Page], stub: Stub) -> None:
    page = opened()
    choose(page, "mode", "chat")
    page.get_by_label("System message").fill("Be brief.")
    write(page, "One?")
    page.locator("#prompt").fill("Two?")
    page.locator("#prompt").press("Enter")
    expect(page.locator(".text")).to_have_count(2)
    expect(page.locator("#go")).to_have_text("Send")
    assert texts(page.locator(".turn.user")) == ["One?", "Two?"]
    system, one = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "One?"}
    assert stub.bodies[0]["messages"] == [system, one]
    answered = {"role": "assistant", "content": STORY}
    assert stub.bodies[1]["messages"] == [system, one, answered, {"role": "user", "content": "Two?"}]
    page.get_by_role("button", name="New conversation").click()
    write(page, "Three?")
    assert stub.bodies[2]["messages"] == [system, {"role": "user", "content": "Three?"}]


def test_a_task_s_columns_are_a_form_and_go_as_fields(opened: Callable[..., Page], stub: Stub) -> None:
    page = opened()
    choose(page, "mode", "fields")
    page.get_by_label("subject").fill("Late")
    page.get_by_label("message", exact=True).fill("Where is it?")
    page.get_by_label("message", exact=True).press("Control+Enter")
    expect(page.locator(".took")).to_contain_text("ended")
    assert stub.bodies == [
        {
            "model": "triage",
            "prompt": None,
            "fields": {"subject": "Late", "message": "Where is it?"},
            "contract": "c0ffee" * 8,
            "likely": 10,  # and no other setting: it is asked as it was measured
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]
    assert page.locator(".text").text_content() == STORY  # an answer, not a text gone on with


def test_a_prompt_to_a_model_of_a_task_can_stand_as_it_is(opened: Callable[..., Page], stub: Stub) -> None:
    page = opened()
    page.locator("[name=model]").select_option("triage")
    raw = page.get_by_label("The prompt as it stands")
    expect(raw).to_be_checked()  # it has two columns: a lone prompt cannot fill them
    write(page, "Once")
    raw.uncheck()
    write(page, "Once")
    assert [body.get("raw") for body in stub.bodies] == [True, None]


def test_a_model_of_a_task_with_one_column_answers_each_message_by_itself(
    opened: Callable[..., Page], stub: Stub
) -> None:
    page = opened()
    choose(page, "mode", "chat")
    page.locator("[name=model]").select_option("summary")
    for message in ("One?", "Two?"):
        write(page, message)
    assert [body["messages"] for body in stub.bodies] == [
        [{"role": "user", "content": "One?"}],
        [{"role": "user", "content": "Two?"}],
    ]


def test_a_system_message_that_is_not_sent_is_told(opened: Callable[..., Page]) -> None:
    page = opened()
    choose(page, "mode", "chat")
    system, why = page.locator("#system"), page.locator("#system-why")
    expect(why).to_have_text("")
    page.locator("[name=model]").select_option("summary")
    expect(system).to_be_disabled()
    expect(why).to_contain_text("not for summary, tuned on a task")
    choose(page, "panes", "2")
    page.locator("[name=model]").nth(1).select_option("base")
    expect(system).to_be_enabled()  # for the one of the two that takes it
    expect(why).to_contain_text("not for summary,")
    page.locator("[name=model]").nth(0).select_option("polite")
    expect(why).to_have_text("")


@pytest.mark.parametrize("mode", ["prompt", "chat", "fields"])
def test_the_copied_python_and_curl_send_what_was_sent(opened: Callable[..., Page], stub: Stub, mode: str) -> None:
    pytest.importorskip("openai", reason="needs the openai client")
    page = opened()
    choose(page, "mode", mode)
    choose(page, "draw", "sampling")
    put(page, seed="3", max_tokens="6")
    page.get_by_role("button", name="More").click()
    put(page, stop="it's\n\\n")
    words = 'It\'s "so" \\ 5 € \n<b> 🦔'
    if mode == "fields":
        page.get_by_label("message", exact=True).fill(words)
        page.locator("#go").click()
        expect(page.locator(".took")).to_contain_text("ended")
    else:
        write(page, words)
    put(page, max_tokens="99")  # said after: it was not sent
    program, command = copied(page, "python"), copied(page, "curl")
    assert copied(page, "text") == "".join(WORDS[:6])
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert printed.stdout == "".join(WORDS[:6]), printed.stderr
    said = shlex.split(command.replace("\\\n", " "))
    assert said[:2] == ["curl", "-N"]
    assert said[2] == f"{stub.url}/v1/{'chat/completions' if mode == 'chat' else 'completions'}"
    sent, by_python = stub.bodies
    assert by_python == sent
    assert json.loads(said[said.index("-d") + 1]) == sent
    assert sent["max_tokens"] == 6


# -- what goes wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("refuse", "the prompt has 2048 tokens, but the model's context is 1024"),
        ("busy", "too many wait already (try again in 3 s)"),
        ("break", "the engine stumbled over this text"),
        ("cut", "The server broke off."),
    ],
)
def test_the_server_s_sentence_is_shown(opened: Callable[..., Page], prompt: str, sentence: str) -> None:
    page = opened(refused=True)
    text = write(page, prompt)
    expect(page.get_by_role("alert").filter(has_text=sentence)).to_have_text(sentence)
    came = "".join(WORDS[:3]) if prompt in ("break", "cut") else ""
    assert text.text_content() == prompt + came
    expect(page.locator("#go")).to_have_text("Write")


def test_a_message_that_was_refused_is_no_turn_and_can_be_sent_again(opened: Callable[..., Page], stub: Stub) -> None:
    page = opened(refused=True)
    choose(page, "mode", "chat")
    write(page, "refuse")
    expect(page.locator("#prompt")).to_have_value("refuse")
    write(page, "Hello")
    assert stub.bodies[1]["messages"] == [{"role": "user", "content": "Hello"}]


def test_a_key_is_asked_for_sent_and_kept_for_the_tab_alone(opened: Callable[..., Page], stub: Stub) -> None:
    stub.key = "a secret"
    page = opened(refused=True)
    expect(page.locator("#trouble")).to_have_text("the key is wrong")
    page.get_by_label("API key").fill("a secret")
    page.get_by_role("button", name="Use it").click()
    expect(page.locator("#trouble")).to_be_hidden()
    assert write(page, "Once").text_content() == "Once" + STORY
    assert page.evaluate("() => [sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
    for what in ("python", "curl"):
        assert "a secret" not in copied(page, what)
    assert "authorization: Bearer $MODELWRIGHT_KEY" in copied(page, "curl")


# -- where it is looked at ----------------------------------------------------------------------


def test_in_a_low_window_a_pane_scrolls_and_nothing_of_it_lies_over_the_prompt(opened: Callable[..., Page]) -> None:
    page = opened(viewport={"width": 844, "height": 390})
    choose(page, "panes", "2")
    for pane in page.locator(".pane").all():
        assert pane.evaluate("p => p.scrollHeight > p.clientHeight && getComputedStyle(p).overflowY") == "auto"
        pane.locator(".said").scroll_into_view_if_needed()
        expect(pane.locator(".said")).to_be_in_viewport()


def test_what_a_model_is_can_be_read_beside_another(opened: Callable[..., Page]) -> None:
    page = opened(viewport={"width": 1280, "height": 800})
    choose(page, "panes", "2")
    page.locator("[name=model]").nth(1).select_option("triage")
    facts = page.locator(".facts").nth(1)
    expect(facts).to_have_text("encoder-decoder · context 1,024 · contract c0ffeec0")
    assert facts.evaluate("node => node.scrollWidth <= node.clientWidth")


def test_control_and_enter_write_from_wherever_one_is(opened: Callable[..., Page]) -> None:
    page = opened()
    page.locator("#prompt").fill("The hall")
    page.locator("[name=seed]").first.press("Control+Enter")
    expect(page.locator(".pane .text").last).to_contain_text("nobody knew why")


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844), (320, 568)])
def test_nothing_stands_beyond_the_window(opened: Callable[..., Page], width: int, height: int) -> None:
    page = opened(viewport={"width": width, "height": height})
    choose(page, "panes", "2")
    write(page, "Once upon a time " * 20)
    assert page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
    page.locator(".token").first.click()
    at = page.locator("#card").bounding_box()
    assert at is not None
    assert at["x"] >= 0
    assert at["y"] >= 0
    assert at["x"] + at["width"] <= width
    assert at["y"] + at["height"] <= height
    expect(page.get_by_role("button", name="Write")).to_be_in_viewport()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_tint_can_be_read_and_grows_in_one_direction(opened: Callable[..., Page], scheme: str) -> None:
    """Contrast by WCAG 2.2, 1.4.3: 4.5 to 1 at least; and lightness alone tells the tints apart."""
    page = opened(color_scheme=scheme)
    ink = rgb(page.locator("body").evaluate("node => getComputedStyle(node).color"))
    keys = page.locator(".key").all()[1:]
    tints = [luminance(rgb(key.evaluate("node => getComputedStyle(node).backgroundColor"))) for key in keys]
    assert tints == sorted(tints, reverse=scheme == "light")
    assert all(contrast(luminance(ink), tint) >= 4.5 for tint in tints)
    assert all(contrast(a, b) > 1.08 for a, b in itertools.pairwise(tints))


def rgb(css: str) -> list[float]:
    return [int(part) / 255 for part in re.findall(r"\d+", css)[:3]]


def luminance(color: list[float]) -> float:
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)
