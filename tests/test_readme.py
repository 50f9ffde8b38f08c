"""The README tells the truth: its Python runs, its commands and targets exist, its links lead somewhere."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from modelwright.cli import COMMANDS, EXAMPLES
from modelwright.data.pack import Batch
from modelwright.infer.engine import Finish
from modelwright.infer.sample import Sampling
from modelwright.losses.language import language_model
from modelwright.model.families import FAMILIES
from modelwright.model.transformer import Config, Transformer
from modelwright.project.begin import Init
from modelwright.project.run import Run as RunProject
from modelwright.project.show import Report
from modelwright.recipes.bench import Bench
from modelwright.recipes.chat import Chat
from modelwright.recipes.dpo import Dpo
from modelwright.recipes.evaluate import Evaluate
from modelwright.recipes.flags import parse
from modelwright.recipes.generate import Options as Generate
from modelwright.recipes.generate import sampling
from modelwright.recipes.grpo import Grpo
from modelwright.recipes.inspect import Inspect
from modelwright.recipes.merge import Options as Merge
from modelwright.recipes.methods import RATES
from modelwright.recipes.options import Pretrain
from modelwright.recipes.ppo import Ppo
from modelwright.recipes.pretrain import KINDS
from modelwright.recipes.rank import Rank
from modelwright.recipes.reward import Reward
from modelwright.recipes.serve import Serve
from modelwright.recipes.tokenizer import Tokenize
from modelwright.recipes.tuning import Tune
from modelwright.recipes.watch import Screen, Watch
from modelwright.train.loop import fit
from modelwright.train.meter import Meter

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
OPTIONS: dict[str, Any] = {
    "init": Init,
    "run": RunProject,
    "inspect": Inspect,
    "tokenizer": Tokenize,
    "pretrain": Pretrain,
    "tune": Tune,
    "merge": Merge,
    "evaluate": Evaluate,
    "rank": Rank,
    "align reward": Reward,
    "align dpo": Dpo,
    "align ppo": Ppo,
    "align grpo": Grpo,
    "generate": Generate,
    "chat": Chat,
    "bench": Bench,
    "serve": Serve,
    "report": Report,
}


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


@pytest.mark.parametrize(
    ("said", "climbed"),
    [([], "examples/desk-note/project.yaml"), (["TIME=20s"], "demo/project.yaml"),
     (["PROJECT=examples/desk-slip/project.yaml"], "examples/desk-slip/project.yaml")],
)  # fmt: skip
def test_the_demo_climbs_a_project_where_its_paths_lead_somewhere(said: list[str], climbed: str) -> None:
    """desk-slip names its base by a path beside its own file, which a copy elsewhere would not find."""
    told = subprocess.run(["make", "-n", "demo", *said], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"modelwright run {climbed} --output demo/run\n" in told


def shown() -> list[str]:
    """Every line that starts with `modelwright` in the pages, the help, the Makefile and a script."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    values = dict(re.findall(r"^(\w+) [?:]?= *(.*)$", makefile, re.MULTILINE))
    recipes = re.findall(r"^\t(?:@echo '  |-?\$\(BIN\)/)(modelwright .*?)$", makefile, re.MULTILINE)
    recipes = [re.sub(r"\$\((\w+)\)", lambda name: values[name[1]], line.removesuffix("'")) for line in recipes]
    script = (
        (ROOT / "examples" / "align-desk" / "run.sh").read_text(encoding="utf-8").replace('"$seed"', "0").splitlines()
    )
    pages = [line for page in PAGES for block in blocks("(?:sh|bash|console)", page) for line in block.splitlines()]
    return [line.strip() for line in [*pages, *EXAMPLES.splitlines(), *recipes, *script] if "modelwright " in line]


@dataclass
class Silent:
    """A model with no settings of its own."""

    generation: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize("line", sorted(set(shown())))
def test_every_command_that_is_shown_can_be_typed(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    if words[-1] in ("--help", "--version"):
        return
    called = 2 if words[0] == "align" else 1  # words of the command itself
    asked = parse(OPTIONS[" ".join(words[:called])], words[called:], f"modelwright {words[0]}")
    if words[0] == "pretrain":
        new = asked.size or asked.time or (asked.width and asked.layers)
        assert asked.resume or (asked.data and ((asked.steps or asked.time) if asked.init else new))
        assert not asked.resume or "--output" in words
    if words[0] == "generate":
        assert ("--seed" in words) <= (not sampling(Silent(), asked).greedy)  # type: ignore[arg-type]


def test_all_places_show_commands() -> None:
    lines = shown()
    assert sum(EXAMPLES.count(line) for line in set(lines)) == len(EXAMPLES.splitlines())
    assert any("demo/run" in line for line in lines)
    assert any("--resume" in line for line in lines)
    assert not [line for line in lines if " desk/" in line]


def first_column(page: str, heading: str) -> list[str]:
    """The words in backticks that begin the rows of the table under a heading."""
    section = (ROOT / page).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [word for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for word in re.findall("`(.*?)`", row)]


@pytest.mark.parametrize("page", PAGES)
def test_flags_that_are_named_exist(page: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    known = {f"--{at.name.replace('_', '-')}" for options in OPTIONS.values() for at in fields(options)}
    ours = [code for code in re.findall("`([^`]+)`", text) if not code.startswith("python bench/")]
    named = {flag for code in ours for flag in re.findall(r"(?<!\S)--[a-z][a-z-]*", code)}
    assert named - known - {"--output", "--help", "--strict"} == set()


def test_the_tables_of_the_pages_are_the_codes() -> None:
    assert first_column("docs/generation.md", "Settings") == [at.name for at in fields(Sampling)]
    assert first_column("docs/generation.md", "How a continuation ends")[1:] == [*get_args(Finish)]
    assert first_column("docs/checkpoints.md", "Families")[1:] == [*FAMILIES]
    assert first_column("docs/pretraining.md", "Objectives")[1:] == [*KINDS]
    assert [word for word in first_column("docs/tuning.md", "Methods") if word[:2] != "--"] == [*RATES]
    rows = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8").splitlines()
    for name, family in FAMILIES.items():
        assert any(row.startswith(f"| `{name}` | {', '.join(family.architectures)} |") for row in rows)


def test_the_metrics_that_are_described_are_those_of_a_step(tmp_path: Path) -> None:
    cfg = Config(vocab=9, width=8, layers=1, heads=1, kv_heads=1, head=8, ffn=8, context=4)
    model, ids = Transformer(cfg), torch.ones(1, 4, dtype=torch.int64)
    row = Batch(ids, ids, torch.ones(1, 4), ids, ids)
    with Watch(tmp_path, 1, 4, Meter(1.0, 1.0), Screen(quiet=True), 0) as watch:

        def tell(step: int, metrics: dict[str, Any]) -> None:
            watch.tick()
            watch.step(step + 1, metrics | {"held_out_loss": 1.0})

        fit(model, [row], language_model, torch.optim.SGD(model.parameters(), 0.1), steps=1, after_step=tell)
    told = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert first_column("docs/pretraining.md", "metrics.jsonl") == list(told)


def test_the_table_of_commands_is_the_command_lines() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `modelwright (\w+)", text, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
    lost = [link for link in links if "://" not in link and not ((ROOT / page).parent / link).exists()]
    assert lost == []
