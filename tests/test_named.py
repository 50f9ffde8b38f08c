"""What a file names: keys, paths, and the embedded desk, which is a word and no path."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelwright.data.named import absolute, is_desk, known, located


@pytest.mark.parametrize(
    "source", ["desk", "desk:50k", "desk+episodes", "desk+episodes:9", "desk+gaps:9", "desk:note/valid:300#2"]
)
def test_the_desk_stays_what_it_is(source: str) -> None:
    assert is_desk(source)
    assert located(source, Path("/data")) == absolute(source) == source


@pytest.mark.parametrize("source", ["desks", "./desk", "desk.txt", "desk+x:1", "desktop:1"])
def test_what_only_looks_like_it_is_a_path(source: str) -> None:
    assert not is_desk(source)
    assert located(source, Path("/data")) == str(Path("/data") / source)
    assert Path(absolute(source)).is_absolute()


def test_a_url_is_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    assert located("s3://a/b", Path("/data")) == absolute("s3://a/b") == "s3://a/b"
    monkeypatch.setenv("CORPUS", "/elsewhere")
    assert located("$CORPUS/a.txt", Path("/data")) == "/elsewhere/a.txt"
    with pytest.raises(ValueError, match="environment variable CORPSE, which is not set"):
        located("$CORPSE/a.txt", Path("/data"))


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    known(["a"], ["a", "b"], "f")
    with pytest.raises(ValueError, match=r"^f has an unknown rung 'lore': perhaps you meant lora$"):
        known(["lore"], ["lora", "full"], "f", "rung")
    with pytest.raises(ValueError, match=r"^f has an unknown key 'zzz': it may be a, b$"):
        known(["zzz"], iter(["a", "b"]), "f")
