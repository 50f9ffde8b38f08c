"""The words that name what to read: files, or the embedded desk."""

from itertools import islice
from pathlib import Path

import pytest

from modelwright.data import desk, documents
from modelwright.data.desk import tickets
from modelwright.data.documents import Document
from modelwright.recipes.source import MANY, desk_of, documents_of


def found(*data: str, seed: int = 0) -> tuple[list[Document], str]:
    texts, fingerprint, _ = documents_of(data, seed=seed, column="text", separator="<|endoftext|>")
    return list(islice(texts, 5)), fingerprint


def test_the_desk_is_the_desk_even_beside_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("desk", "desk:3"):
        Path(name).mkdir()
        (Path(name) / "a.txt").write_text("from the folder")
    assert found("desk", seed=7) == (list(desk.documents(7, "train", count=5)), f"desk:{MANY['desk']}:7")
    assert found("desk:3", seed=7) == (list(desk.documents(7, "train", count=3)), "desk:3:7")
    assert [document.text for document in found("./desk")[0]] == ["from the folder"]


@pytest.mark.parametrize(
    ("word", "asked"),
    [
        ("desk", ("desk", 20_000)),
        ("desk:60", ("desk", 60)),
        ("desk:50k", ("desk", 50_000)),
        ("desk+episodes:7", ("desk+episodes", 7)),
        ("desk+gaps", ("desk+gaps", 60_000)),
        ("./desk", None),
    ],
)
def test_how_many(word: str, asked: tuple[str, int] | None) -> None:
    assert desk_of([word]) == asked


def test_the_desk_s_gaps_are_read_partly_and_are_not_its_episodes() -> None:
    gaps, episodes = (
        documents_of([word], seed=2, column="text", separator="") for word in ("desk+gaps:9", "desk+episodes:9")
    )
    assert gaps.partly
    assert list(gaps.documents) == list(tickets.documents(2, "train", count=9, gaps=tickets.GAPS))
    assert list(episodes.documents) == list(tickets.documents(2, "train", count=9))
    assert gaps.fingerprint != episodes.fingerprint


def test_files_are_read_and_named_by_what_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "desktop.txt"
    path.write_text("one<|endoftext|>two")
    texts, fingerprint = found(str(path))
    assert [document.text for document in texts] == ["one", "two"]
    assert fingerprint == f"{documents.fingerprint([str(path)])}:text:<|endoftext|>"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (["desk:many"], "cannot read 'many' as a size"),
        (["desk:"], "cannot read '' as a size"),
        (["desk:0"], "cannot read '0' as a size"),
        (["desk", "a.txt"], "desk is the embedded desk and stands alone: a folder of that name is ./desk"),
    ],
)
def test_what_is_refused(data: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        desk_of(data)
