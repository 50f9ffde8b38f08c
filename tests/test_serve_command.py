"""`modelwright serve`: what its flags ask for, and what is refused before a model is opened."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from modelwright.cli import main
from modelwright.hub.open import save
from modelwright.recipes.flags import parse
from modelwright.recipes.serve import Serve, adapters, check, name_of, told
from modelwright.serve.registry import Served
from modelwright.serve.server import is_local
from served import build


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--host", "0.0.0.0"], "give a key"),
        (["--port", "70000"], "--port"),
        (["--slots", "0"], "--slots"),
        (["--adapter", "x"], "NAME=PATH"),
        (["--origin", "example.org"], "https://example.org"),
        (["--sots", "1"], "perhaps you meant --slots"),
    ],
)
def test_mistakes(flags: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    save(build(), tmp_path / "m")
    port = [] if "--port" in flags else ["--port", "0"]
    assert main(["serve", str(tmp_path / "m"), *flags, *port]) == 2
    assert said in capsys.readouterr().err


def test_each_flag_that_may_come_again_is_kept() -> None:
    words = ["m"]
    for name, values in {"adapter": ["a=b", "c=d"], "key": ["x", "y"], "origin": ["https://a", "https://b"]}.items():
        words += [word for value in values for word in (f"--{name}", value)]
    found = parse(Serve, [*words, "--task", "a.yaml", "--task", "b.yaml"], "modelwright serve")
    assert (found.adapter, found.key) == (("a=b", "c=d"), ("x", "y"))
    assert (found.origin, found.task) == (("https://a", "https://b"), (Path("a.yaml"), Path("b.yaml")))


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "nowhere", "--port", port]) == 2
    assert f"127.0.0.1:{port}" in capsys.readouterr().err


def test_keys_come_from_flags_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELWRIGHT_KEY", raising=False)
    assert check(Serve("m")).keys == ()
    assert check(Serve("m", key=("a", "b"), host="0.0.0.0")).keys == ("a", "b")
    monkeypatch.setenv("MODELWRIGHT_KEY", "c")
    assert check(Serve("m", host="0.0.0.0")).keys == ("c",)


def test_names(tmp_path: Path) -> None:
    (tmp_path / "first" / "model").mkdir(parents=True)
    assert name_of(Serve(str(tmp_path / "first" / "model"))) == "first"
    assert name_of(Serve(str(tmp_path / "first"))) == "first"
    assert name_of(Serve("org/model")) == "org/model"
    assert name_of(Serve("org/model", name="x")) == "x"
    assert adapters(["a=b=c", "d=/e"]) == {"a": "b=c", "d": "/e"}
    with pytest.raises(ValueError, match="another name for each"):
        adapters(["a=b", "a=c"])


def test_what_is_told() -> None:
    assert told([Served("a", build())], "http://x") == [
        "serving at http://x (Ctrl-C stops it)", "  a  by a prompt or a conversation",
    ]  # fmt: skip


def test_addresses_that_only_this_machine_has() -> None:
    assert all(is_local(host) for host in ("127.0.0.1", "localhost", "::1", "127.9.9.9"))
    assert not any(is_local(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""))
