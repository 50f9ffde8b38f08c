"""Judgements on the disk: kept through kills and from many threads, torn lines told, undone without rewriting."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from modelwright.data.judgements import Journal, Judgement, dense, read_judgements

ONE = Judgement("a", "1", "Anna", (2, 1), (0, 1), 3.5, "2026-01-01T00:00:00+00:00")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    skipped = replace(ONE, id="b", item="2", ranks=None)
    with Journal(path) as journal:
        assert journal.add(ONE)
        assert journal.add(skipped)
        assert list(journal) == [ONE, skipped]
    assert read_judgements(path) == ([ONE, skipped], [])
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["a", "b"]


def test_undo_is_a_line_more_and_nothing_is_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.add(ONE)
        journal.add(replace(ONE, id="b", labeller="Ben"))
        before = path.read_bytes()
        assert journal.take_back("Anna", "another") is None
        assert journal.take_back("Anna", ONE.id) == ONE
        assert journal.take_back("Anna", ONE.id) is None
        assert path.read_bytes().startswith(before)
        assert journal.add(replace(ONE, id="c", ranks=(1, 2)))
    with Journal(path) as journal:
        assert [(one.id, one.ranks) for one in journal] == [("b", (2, 1)), ("c", (1, 2))]


def test_a_labeller_judges_an_item_once_and_the_same_judgement_may_be_sent_again(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.jsonl") as journal:
        assert journal.add(ONE)
        assert journal.add(ONE)
        assert not journal.add(replace(ONE, id="b", ranks=(1, 2)))
        assert not journal.add(replace(ONE, labeller="Ben"))  # another's id
        assert list(journal) == [ONE]
    assert len((tmp_path / "j.jsonl").read_bytes().splitlines()) == 1


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_torn_last_line_is_told_and_what_follows_it_is_whole(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.add(ONE)
        journal.add(replace(ONE, id="b", item="2", labeller="Zoë"))
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"\n") + 1 + cut])
    with Journal(path) as journal:
        assert journal.torn == [2]
        assert [one.id for one in journal] == ["a"]
        journal.add(replace(ONE, id="c", item="2"))
    found, torn = read_judgements(path)
    assert [one.id for one in found] == ["a", "c"]
    assert torn == [2]


def test_a_line_that_is_whole_but_for_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.add(ONE)
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    with Journal(path) as journal:
        assert journal.torn == []
        journal.add(replace(ONE, id="b", item="2"))
    assert [one.id for one in read_judgements(path)[0]] == ["a", "b"]


@pytest.mark.parametrize("line", ['{"id": "a"}', "[1]", '{"id": "a", "what": 1}'])
def test_a_line_that_is_no_judgement_is_a_fault(tmp_path: Path, line: str) -> None:
    (tmp_path / "j.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=r"line 1 of .*j.jsonl is no judgement"):
        Journal(tmp_path / "j.jsonl")


def test_a_disk_that_is_full_in_the_midst_of_a_line_harms_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "j.jsonl", os.write
    calls = 0

    def half(handle: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            return real(handle, data[:10])
        raise OSError(28, "No space left on device")

    with Journal(path) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", half)
            with pytest.raises(OSError, match="No space"):
                journal.add(ONE)
        assert list(journal) == []
        assert journal.add(replace(ONE, id="b"))
    assert [one.id for one in read_judgements(path)[0]] == ["b"]


def test_all_that_threads_write_at_once_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    names, items = ["Anna", "Ben", "Cleo", "Dan"], range(25)
    with Journal(path) as journal:

        def label(name: str) -> None:
            for item in items:
                assert journal.add(replace(ONE, id=f"{name}{item}", item=str(item), labeller=name))

        threads = [threading.Thread(target=label, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found, torn = read_judgements(path)
    assert torn == []
    assert {one.id for one in found} == {f"{name}{item}" for name in names for item in items}


WRITER = """
import sys
from pathlib import Path
from modelwright.data.judgements import Journal, Judgement
with Journal(Path(sys.argv[1])) as journal:
    for at in range(1_000_000):
        journal.add(Judgement(str(at), str(at), "Anna", (1, 2), (0, 1), 1.0))
        print(at, flush=True)
"""


def test_what_was_told_is_there_after_a_kill_and_a_second_process_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(20):
            writer.stdout.readline()
        with pytest.raises(ValueError, match="is being labelled by another process"):
            Journal(path)
        writer.send_signal(signal.SIGKILL)
        told = 20 + len(writer.stdout.read().splitlines())
    with Journal(path) as journal:  # the lock went with the process
        kept = [one.id for one in journal]
    assert len(kept) - told in (0, 1)  # one more may be kept, of which nobody heard
    assert kept == [str(at) for at in range(len(kept))]


def test_dense() -> None:
    assert dense([7, 2, 7, 2.5]) == (3, 1, 3, 2)
    assert dense([]) == ()
