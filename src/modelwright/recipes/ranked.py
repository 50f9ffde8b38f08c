"""A directory of labelling: what was asked for, the answers, the judgements.

rank.json           criterion, prompts, models, sampling: the same command goes on, another is refused
completions.jsonl   the prompts and their answers, who wrote each: made once
judgements.jsonl    a line for each judgement (`data.judgements`)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modelwright.adapt.open import digest
from modelwright.data.judgements import Journal, Judgement, rankings, read_judgements
from modelwright.data.rankings import Item, Ranking, prompt_of
from modelwright.evaluate.agreement import Agreement, agreement, by_item
from modelwright.recipes.watch import write_whole

SETTINGS, ITEMS, JUDGED = "rank.json", "completions.jsonl", "judgements.jsonl"
SAID = {
    "criterion": "another criterion",
    "prompts": "other prompts",
    "task": "another task",
    "completions": "other completions",
    "models": "other models",
    "n": "another --n",
    "seed": "another --seed",
    "overlap": "another --overlap",
    "sampling": "other sampling",
}


def file_digest(path: Path | None) -> str | None:
    """Raises FileNotFoundError."""
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()


def model_record(name: str) -> dict[str, str]:
    """A model by its name, and in a directory by its files, too. A name on the hub stands for itself."""
    path = Path(name).expanduser()
    return {"name": name, **({"digest": digest(path)} if path.is_dir() else {})}


def begun(directory: Path, wanted: Mapping[str, Any]) -> bool:
    """Whether the directory holds this labelling already. Raises ValueError, and FileExistsError, for anything else."""
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"{directory} is a file: name a directory as --output")
    path = directory / SETTINGS
    if not path.exists():
        if directory.is_dir() and {one.name for one in directory.iterdir()} - {JUDGED}:
            raise FileExistsError(f"{directory} is not empty, and holds no labelling: name another --output")
        return False
    had = json.loads(path.read_text(encoding="utf-8"))
    other = [words for name, words in SAID.items() if had.get(name) != json.loads(json.dumps(wanted[name]))]
    if other:
        raise ValueError(
            f"{directory} holds rankings of {' and '.join(other)}: say the command as it was, or name another --output"
        )
    return True


def save_items(directory: Path, items: Iterable[Item], wanted: Mapping[str, Any]) -> None:
    """The settings last: where they are, all is."""
    rows = "".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in items)
    write_whole(directory / ITEMS, rows)
    write_whole(directory / SETTINGS, json.dumps(wanted, ensure_ascii=False, indent=1) + "\n")


def load_items(directory: Path) -> list[Item]:
    """Raises FileNotFoundError where there is no labelling."""
    path = directory / ITEMS
    if not (directory / SETTINGS).is_file() or not path.is_file():
        raise FileNotFoundError(f"{directory} holds no labelling: it has no {SETTINGS} and {ITEMS}")
    return [_item(json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n") if line]


def _item(said: Mapping[str, Any]) -> Item:
    writers = tuple(tuple(names) for names in said["writers"])
    prompt = prompt_of(said["prompt"], said["id"])
    return Item(said["id"], prompt, tuple(said["completions"]), writers, said["fields"])


def open_journal(directory: Path) -> Journal:
    directory.mkdir(parents=True, exist_ok=True)
    return Journal(directory / JUDGED)


def load_judgements(directory: Path) -> tuple[list[Judgement], list[int]]:
    return read_judgements(directory / JUDGED)


def as_rankings(items: Sequence[Item], judgements: Iterable[Judgement], writers: bool) -> list[Ranking]:
    """What the labellers ranked. writers: with the models that wrote each completion, where that is known."""
    by = {item.id: item for item in items}
    found = []
    for one in rankings(judgements):
        item = by[one.item]
        known = writers and any(any(names) for names in item.writers)
        more = {"models": [list(names) for names in item.writers]} if known else {}
        assert one.ranks is not None
        found.append(Ranking(item.prompt, item.completions, one.ranks, one.labeller, {**item.fields, **more}))
    return found


# -- agreement -----------------------------------------------------------------------------------------------------


def agreed(judgements: Iterable[Judgement]) -> Agreement:
    return agreement(by_item((one.item, one.labeller, one.ranks or ()) for one in rankings(judgements)))


def told(found: Agreement) -> str:
    """One sentence."""
    if found.labellers < 2 or not found.pairs:
        return "agreement: no prompt has been ranked by two labellers yet"
    over = f"over {found.pairs} pairs of answers to {found.prompts} prompts, by {found.labellers} labellers"
    if found.alpha is None:
        return f"agreement: says nothing, as all answers were tied, {over}"
    return (
        f"agreement: Krippendorff's alpha {found.alpha:.2f} ({found.low:.2f} to {found.high:.2f}), "
        f"{found.alike:.0%} of choices alike, {over}"
    )
