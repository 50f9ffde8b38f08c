"""Finished steps: found again by what they depend on, made anew when damaged, never kept when their data changed."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.project import cache as cache_module
from modelwright.project.cache import RESULT, Cache, Watched, key

DEPENDS = {"data": "abc", "settings": {"rate": 0.1, "rank": 8}}


class Work:
    """A step that counts how often it is done, and goes on with what it finds."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self, directory: Path) -> dict[str, Any]:
        self.done += 1
        (directory / "model").mkdir(exist_ok=True)
        (directory / "model" / "weights").write_bytes(b"1234")
        return {"score": 0.5, "place": directory / "model"}


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, said: list[str]) -> Cache:
    return Cache(tmp_path, said.append)


def test_a_step_is_done_once(cache: Cache, tmp_path: Path) -> None:
    work = Work()
    first, second = cache.step("lora", DEPENDS, work), cache.step("lora", DEPENDS, work)
    assert (work.done, first.cached, second.cached) == (1, False, True)
    assert first.value == second.value == {"score": 0.5, "place": str(first.directory / "model")}
    assert first.directory == tmp_path / "steps" / f"lora-{key('lora', DEPENDS)[:12]}"


def test_another_kind_or_dependence_is_another_step(cache: Cache) -> None:
    work = Work()
    cache.step("lora", DEPENDS, work)
    cache.step("full", DEPENDS, work)
    cache.step("lora", DEPENDS | {"data": "abd"}, work)
    assert work.done == 3


def test_the_order_of_what_is_depended_on_is_nothing() -> None:
    assert key("a", {"x": 1, "y": (2, 3)}) == key("a", {"y": [2, 3], "x": 1})
    assert key("a", {"x": 1}) != key("a", {"x": "1"})
    with pytest.raises(TypeError, match="object has no place"):
        key("a", {"x": object()})


def damage_weights(directory: Path) -> None:
    (directory / "model" / "weights").write_bytes(b"1235")


def damage_result(directory: Path) -> None:
    said = json.loads((directory / RESULT).read_text())
    said["value"]["score"] = 0.9
    (directory / RESULT).write_text(json.dumps(said))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (damage_weights, r"model/weights is not as it was written"),
        (damage_result, r"result.json is not as it was written"),
        (lambda d: (d / "model" / "weights").unlink(), r"model/weights is missing"),
        (lambda d: (d / RESULT).write_text("{"), r"result.json cannot be read"),
        (lambda d: (d / RESULT).write_text("[]"), r"result.json cannot be read"),
    ],
)
def test_a_damaged_step_is_made_anew_and_said(cache: Cache, said: list[str], damage: Any, told: str) -> None:
    work = Work()
    first = cache.step("lora", DEPENDS, work)
    damage(first.directory)
    again = cache.step("lora", DEPENDS, work)
    assert (work.done, again.cached, again.value["score"]) == (2, False, 0.5)
    assert len(said) == 1
    assert told in said[0]
    assert cache.step("lora", DEPENDS, work).cached


def test_another_version_or_format_makes_another_step(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key("lora", DEPENDS)
    monkeypatch.setattr(cache_module, "versions", lambda: {"modelwright": "9", "torch": version("torch")})
    assert key("lora", DEPENDS) != before
    monkeypatch.undo()
    monkeypatch.setattr(cache_module, "FORMAT", cache_module.FORMAT + 1)
    assert key("lora", DEPENDS) != before


def test_a_step_is_read_whole_once_in_a_process(cache: Cache, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    work, read = Work(), list[Path]()
    directory = cache.step("lora", DEPENDS, work).directory

    def noted(path: Path, real: Any = cache_module.file_digest) -> str:
        read.append(path)
        return str(real(path))

    monkeypatch.setattr(cache_module, "file_digest", noted)
    assert [cache.step("lora", DEPENDS, work).cached for _ in range(3)] == [True] * 3
    assert len(read) == 1
    os.utime(directory / "model" / "weights", (5, 5))  # touched: it is read again, and found whole
    assert cache.step("lora", DEPENDS, work).cached
    assert len(read) == 2
    damage_weights(directory)
    assert not cache.step("lora", DEPENDS, work).cached
    assert len(said) == 1


def test_what_is_hidden_is_not_part_of_a_step(cache: Cache) -> None:
    work = Work()
    (cache.step("lora", DEPENDS, work).directory / ".lock").write_text("")
    assert cache.step("lora", DEPENDS, work).cached


def test_a_stopped_step_is_given_its_directory_again(cache: Cache) -> None:
    def stopped(directory: Path) -> dict[str, Any]:
        (directory / "half").write_text("way")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.step("lora", DEPENDS, stopped)
    found = cache.step("lora", DEPENDS, lambda directory: {"half": (directory / "half").read_text()})
    assert (found.value, found.cached) == ({"half": "way"}, False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text('{"a": 1}\n')
    os.utime(path, (1, 1))
    return path


def test_data_that_change_while_a_step_runs_are_refused(tmp_path: Path, data: Path) -> None:
    cache = Cache(tmp_path, print, Watched([str(data)]).unchanged)

    def work(directory: Path) -> dict[str, Any]:
        data.write_text('{"a": 2}\n')
        return {}

    with pytest.raises(ValueError, match=r"train.jsonl changed while the project ran, and nothing is kept"):
        cache.step("lora", DEPENDS, work)
    assert list((tmp_path / "steps").iterdir()) == []
    with pytest.raises(ValueError, match=r"changed while"):  # nor is another one begun
        cache.step("full", DEPENDS, Work())


def test_a_file_that_was_only_touched_is_the_same(data: Path) -> None:
    watched = Watched([str(data)])
    os.utime(data, (5, 5))
    watched.unchanged()
    data.unlink()
    with pytest.raises(ValueError, match="changed while"):
        watched.unchanged()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_keys_are_of_the_content(value: Any) -> None:
    assert key("k", {"v": value}) == key("k", {"v": json.loads(json.dumps(value))})


def test_a_step_that_another_run_has_finished_is_taken_over(tmp_path: Path) -> None:
    """Whole, by its content; what is not the same is made, and so is what was damaged there."""
    made: list[str] = []

    def work(directory: Path) -> dict[str, Any]:
        made.append(directory.name)
        (directory / "model").mkdir()
        (directory / "model" / "weights").write_text("1 2 3")
        return {"loss": 0.5}

    first = Cache(tmp_path / "a", print)
    first.step("base", {"width": 32}, work)
    said: list[str] = []
    second = Cache(tmp_path / "b", said.append, others=(tmp_path / "a",))
    found = second.step("base", {"width": 32}, work)
    assert (found.cached, found.value, len(made)) == (True, {"loss": 0.5}, 1)
    assert found.directory.is_relative_to(tmp_path / "b")
    assert (found.directory / "model" / "weights").read_text() == "1 2 3"
    assert not second.step("base", {"width": 64}, work).cached
    damaged = Cache(tmp_path / "c", said.append, others=(tmp_path / "a",))
    (first.place("base", {"width": 32}) / "model" / "weights").write_text("1 2 4")
    assert not damaged.step("base", {"width": 32}, work).cached
    assert "is damaged" in said[-1]
