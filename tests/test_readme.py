"""The README tells the truth: its Python runs, its commands and targets exist, its links lead somewhere."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from modelwright.cli import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "docs/architecture.md"]


def blocks(language: str, page: str = "README.md") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("code", [pytest.param(code, id=f"block {i}") for i, code in enumerate(blocks("python"))])
def test_the_python_runs(code: str, tmp_path: Path) -> None:
    """In an empty folder, in a fresh interpreter, with warnings as errors."""
    env = os.environ | {"PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    said = [line.split("# ", 1)[1] for line in code.splitlines() if line.startswith("print(") and "  # " in line]
    for words in said:  # a comment behind a print says what it prints
        assert words in done.stdout


def test_there_is_python_to_run() -> None:
    assert blocks("python")


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_targets_exist(page: str) -> None:
    lines = [line.strip() for block in blocks("(?:sh|bash|console)", page) for line in block.splitlines()]
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert words[1] in targets, line
        if words[:1] == ["modelwright"] and not words[1].startswith("-"):
            assert words[1] in COMMANDS, line


def test_the_table_of_commands_is_the_command_lines() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `modelwright (\w+)", text, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
    lost = [link for link in links if "://" not in link and not ((ROOT / page).parent / link).exists()]
    assert lost == []
