"""docs/architecture.md draws the house as it stands: every file of the package is in its picture, and no other."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "modelwright"
DOCUMENT = ROOT / "docs" / "architecture.md"


def drawn(text: str) -> dict[str, str]:
    """The picture's files, and what is said of each: a fenced block that starts with `src/modelwright/`."""
    block = re.search(r"```\nsrc/modelwright/\n(.*?)```", text, re.DOTALL)
    assert block, "docs/architecture.md has no picture that starts with src/modelwright/"
    files: dict[str, str] = {}
    folders: list[str] = []
    for line in block[1].splitlines():
        indent, name, said = re.fullmatch(r"( *)(\S+)\s*(.*)", line).groups()  # type: ignore[union-attr]
        folders[len(indent) // 2 - 1 :] = [name]  # two spaces a level
        if not name.endswith("/"):
            files["".join(folders)] = said
    return files


def standing(package: Path) -> set[str]:
    """Files with something in them; a room's empty __init__.py is only its door."""
    paths = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(package).as_posix() for path in paths if path.read_bytes().strip()}


def test_the_picture_is_the_tree() -> None:
    told, real = set(drawn(DOCUMENT.read_text(encoding="utf-8"))), standing(PACKAGE)
    assert real <= told, f"docs/architecture.md does not draw {', '.join(sorted(real - told))}"
    assert told <= real, f"docs/architecture.md draws what does not stand: {', '.join(sorted(told - real))}"


def test_each_file_has_a_line() -> None:
    silent = [name for name, said in drawn(DOCUMENT.read_text(encoding="utf-8")).items() if not said]
    assert silent == []


def test_files_named_in_the_text_stand() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:model|data|losses|adapt|infer|plan|hub|train|recipes|project)/[\w/]+\.py)`", text))
    assert sorted(name for name in named if not (PACKAGE / name).is_file()) == []


def test_the_reader_reads(tmp_path: Path) -> None:
    picture = "src/modelwright/\n  model/     GROUND\n    deep/\n      a.py     one\n    b.py\n  cli.py  the end\n"
    text = f"x\n```\n{picture}```\n"
    assert drawn(text) == {"model/deep/a.py": "one", "model/b.py": "", "cli.py": "the end"}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "__init__.py").write_text("")
    (tmp_path / "model" / "a.py").write_text("1")
    assert standing(tmp_path) == {"model/a.py"}
    with pytest.raises(AssertionError, match="no picture"):
        drawn("no picture")
