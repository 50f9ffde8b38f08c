"""The command `modelwright chat`: what the model reads, what is shown, and what is dropped."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from modelwright.cli import main as cli
from modelwright.data.chat import encode_chat
from modelwright.data.tokenizer import Tokenizer
from modelwright.hub.open import LanguageModel, load, save
from modelwright.infer.complete import written
from modelwright.infer.sample import Sampling, generators
from modelwright.infer.text import Encoded
from modelwright.recipes.chat import Talk, main
from test_scorer import BERT, LLAMA, build

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, template in (("chatty", TEMPLATE), ("plain", None)):
        lm = build(LLAMA)
        kept = dict(lm.tokenizer.kept) | ({"chat_template": template} if template else {})
        tokenizer = Tokenizer(lm.tokenizer.inner, lm.tokenizer.roles, kept)
        save(LanguageModel(lm.model, tokenizer, {}), folder / name)
    lm = build(BERT)
    save(LanguageModel(lm.model, lm.tokenizer, {}), folder / "bert")
    return folder


class Typed:
    """Says lines to a command and gives back what it shows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, model: Path, *lines: str, flags: tuple[str, ...] = ()) -> tuple[str, str]:
        self.monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
        assert main([str(model), *flags]) == 0
        out, err = self.capsys.readouterr()
        return out, err


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(monkeypatch, capsys)


def said_by(model: Path, ids: list[int], asked: Sampling) -> str:
    lm = load(model)
    (done,) = [
        piece.completion
        for piece in written(lm, lm.model, Encoded([ids], None), asked, generators([ids], 1, asked.seed or 0))
        if piece.completion
    ]
    return done.text.strip()


def test_two_turns(models: Path, typed: Typed) -> None:
    """The second answer has the first turn before it, as the chat template sets it."""
    chatty, greedy = models / "chatty", Sampling(max_new=4, temperature=0)
    words = load(chatty).tokenizer
    user = lambda text: {"role": "user", "content": text}  # noqa: E731
    first = said_by(chatty, encode_chat(words, [user("hi")], True).ids, greedy)
    messages = [user("hi"), {"role": "assistant", "content": first}, user("so")]
    second = said_by(chatty, encode_chat(words, messages, True).ids, greedy)
    out, _ = typed(chatty, "hi", "so", flags=("--max-new", "4"))
    assert out == f"{first}\n{second}\n"
    anew, err = typed(chatty, "so", "/reset", "hi", flags=("--max-new", "4"))
    assert anew.endswith(f"{first}\n")
    assert "the conversation begins anew" in err


def test_the_system_is_told(models: Path, typed: Typed) -> None:
    chatty, greedy = models / "chatty", Sampling(max_new=6, temperature=0)
    messages = [{"role": "system", "content": "the sea"}, {"role": "user", "content": "hi"}]
    want = said_by(chatty, encode_chat(load(chatty).tokenizer, messages, True).ids, greedy)
    assert typed(chatty, "hi", flags=("--max-new", "6", "--system", "the sea"))[0] == want + "\n"
    assert typed(chatty, "/system the sea", "hi", flags=("--max-new", "6"))[0] == want + "\n"


def test_the_oldest_turns_are_left_out(models: Path, typed: Typed) -> None:
    """A context of 48, 8 of them for the answer: the third turn finds no room for the first."""
    lines = ["the cat sat on a mat"] * 4
    out, err = typed(models / "chatty", *lines, flags=("--max-new", "8"))
    assert out.count("\n") >= 4
    assert "left out: the model's context is full" in err
    _, err = typed(models / "chatty", " ".join(lines * 4), "hi", flags=("--max-new", "8"))
    assert "fit the model's context beside an answer: say less" in err


def test_a_seed_draws_the_same_again(models: Path, typed: Typed) -> None:
    flags = ("--max-new", "8", "--temperature", "1", "--seed")
    one, again, other = (typed(models / "chatty", "hi", flags=(*flags, seed))[0] for seed in ("1", "1", "2"))
    assert one == again != other


def test_plain_turns(models: Path, typed: Typed) -> None:
    words = load(models / "plain").tokenizer
    talk = Talk(words, True, "be kind", [("hi", "yes")])
    assert words.decode(talk.ids("so")) == "be kind\n\nUser: hi\nAssistant: yes\nUser: so\nAssistant:"
    assert (talk.stop(), talk.ends()) == (("\nUser:",), ())
    greedy = Sampling(max_new=6, temperature=0)
    want = said_by(models / "plain", words.encode("User: hi\nAssistant:", special=True), greedy)
    assert typed(models / "plain", "hi", flags=("--max-new", "6", "--plain"))[0] == want + "\n"


def test_commands(models: Path, typed: Typed) -> None:
    out, err = typed(models / "chatty", "", "/what", "/exit", "never said", flags=("--max-new", "4"))
    assert out == ""
    assert "there is no command /what: /reset forgets" in err


def test_an_answer_that_is_cut_is_told(models: Path, typed: Typed) -> None:
    assert "(the answer was cut by --max-new)" in typed(models / "chatty", "hi", flags=("--max-new", "2"))[1]


def test_ctrl_c_ends_the_answer_alone(models: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any) -> Any:
        yield from list(written(*args))[:2]
        raise KeyboardInterrupt

    monkeypatch.setattr("modelwright.recipes.chat.written", interrupted)
    out, _ = typed(models / "chatty", "hi", "so", flags=("--max-new", "6"))
    assert out.count("\n") == 2


def test_who_cannot_chat(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["chat", str(models / "plain")]) == 2
    err = capsys.readouterr().err
    assert "has no chat template" in err
    assert "--plain" in err
    assert err.count("\n") == 1
    assert cli(["chat", str(models / "bert")]) == 2
    assert "a conversation needs a decoder, and" in capsys.readouterr().err
