"""What a project asks of its answers beside the metric, and how a rung is aligned whose answers are not so.

align:
  toxicity: {judge: judge.py:rude, limit: 0.1}               the share of toxic answers, at most
  preference: {judge: runs/reward/model, target: 0.6}        the share preferred to the references, at least
  dpo: {pairs: preferences.jsonl}                            what is tried, from the cheapest on
  ppo: {reward: runs/manner/model:polite, rounds: 25}
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pydantic

from modelwright.data.named import absolute, known, located
from modelwright.project.ladder import ALIGNMENTS, Alignment
from modelwright.project.values import mapping, number, text
from modelwright.recipes import preferring, rewarded
from modelwright.recipes.dpo import Dpo
from modelwright.recipes.flags import as_keys
from modelwright.recipes.grpo import Grpo
from modelwright.recipes.ppo import Ppo
from modelwright.recipes.rewards import TURNED

Args = Dpo | Grpo | Ppo
OPTIONS: Mapping[Alignment, type[Args]] = {"dpo": Dpo, "grpo": Grpo, "ppo": Ppo}
DEMANDS = {"toxicity": "limit", "preference": "target"}
NOWHERE = Path(".no-such-directory")  # what writes is told later where
OF_THE_PROJECT = {
    "model", "task", "output", "resume", "seed", "general", "dry_run", "json", "prompts", "max_new", "part", "toxicity",
}  # fmt: skip


class Judged(NamedTuple):
    judge: str
    wanted: float  # a share


@dataclass(frozen=True)
class Aligning:
    toxicity: Judged | None = None
    preference: Judged | None = None
    ways: Mapping[Alignment, Mapping[str, Any]] = field(default_factory=dict)  # settings, from the cheapest way on

    @property
    def own(self) -> list[str]:
        """The judges of what is asked, each as a reward."""
        found = [self.preference.judge] if self.preference else []
        return found + ([TURNED + self.toxicity.judge] if self.toxicity else [])

    @property
    def words(self) -> str:
        """In one line."""
        asked = [
            f"toxic at most {one.wanted:g} by {one.judge}" if name == "toxicity" else
            f"preferred to the reference at least {one.wanted:g} by {one.judge}"
            for name in DEMANDS if (one := getattr(self, name)) is not None
        ]  # fmt: skip
        return f"{' and '.join(asked)}; else aligned by {', then '.join(self.ways)}"

    def settings(self, by: Alignment) -> dict[str, Any]:
        """Where no reward is named, it is the first judge of what is asked; gold is the first other one."""
        said = dict(self.ways[by])
        if by == "dpo":
            return said
        said = {"reward": self.own[0]} | said
        others = [judge for judge in self.own if judge != said["reward"]]
        return ({"gold": others[0]} if others else {}) | said

    def own_judge(self, by: Alignment) -> bool:
        """Whether the policy learns from a judge that it is measured by."""
        return by != "dpo" and self.settings(by)["reward"] in self.own

    def said(self) -> dict[str, Any]:
        """As `parse_aligning` reads it from anywhere."""
        found: dict[str, Any] = {
            name: {"judge": one.judge, key: one.wanted}
            for name, key in DEMANDS.items()
            if (one := getattr(self, name)) is not None
        }
        return found | {by: dict(said) for by, said in self.ways.items()}


def parse_aligning(said: Mapping[str, Any], where: str, base: Path) -> Aligning | None:
    """Of what stands under `align`; paths are relative to `base`. Raises ValueError in one sentence."""
    if not said:
        return None
    known(said, [*DEMANDS, *OPTIONS], where)
    demands = {
        name: _judged(mapping(said, name, where), key, f"{where}: {name}", base) for name, key in DEMANDS.items()
    }
    if not any(demands.values()):
        raise ValueError(f"{where} asks nothing: give toxicity a judge and a limit, or preference a judge and a target")
    ways = {by: _way(by, mapping(said, by, where), f"{where}: {by}", base) for by in ALIGNMENTS if by in said}
    found = Aligning(demands["toxicity"], demands["preference"], ways or {"ppo": {}})
    for by in found.ways:
        _checked(by, found, f"{where}: {by}" if ways else where)
    return found


def _judged(said: Mapping[str, Any], key: str, where: str, base: Path) -> Judged | None:
    if not said:
        return None
    known(said, ["judge", key], where)
    for name in ("judge", key):
        if name not in said:
            raise ValueError(f"{where} has no {name}: it needs a judge and a {key}")
    share = number(said, key, 0.0, where)
    if not 0 < share < 1:
        raise ValueError(f"{where}: {key} is {share:g}, and is to be a share of the answers, between 0 and 1")
    return Judged(judge_at(text(said, "judge", where), where, base), share)


def judge_at(said: str, where: str, base: Path) -> str:
    """A judge with the path of its files as it is from anywhere."""
    turned, plain = (TURNED, said.removeprefix(TURNED)) if said.startswith(TURNED) else ("", said)
    if plain == "metric":
        return said
    if Path(whole := absolute(located(plain, base))).is_dir():
        return turned + whole
    place, _, name = plain.rpartition(":")
    if place and Path(found := absolute(located(place, base))).exists():
        return f"{turned}{found}:{name}"
    raise ValueError(f"{where}: the judge is {said!r}, and there is no {whole}: name a directory, or FILE.py:NAME")


def _way(by: Alignment, said: Mapping[str, Any], where: str, base: Path) -> Mapping[str, Any]:
    names = [f.name for f in dataclasses.fields(OPTIONS[by])]
    known(said, [name for name in names if name not in OF_THE_PROJECT], where)
    found = dict(said)
    for name in ("pairs", "held_out"):
        if found.get(name):
            found[name] = absolute(located(str(found[name]), base))
    for name in ("reward", "gold"):
        if found.get(name):
            found[name] = judge_at(str(found[name]), where, base)
    return found


def _checked(by: Alignment, aligning: Aligning, where: str) -> None:
    """Raises ValueError for what `modelwright align` would refuse."""
    said = aligning.settings(by)
    try:
        args = pydantic.TypeAdapter(OPTIONS[by]).validate_python(
            {**said, "model": ".", "task": "task.yaml", "output": NOWHERE}
        )
        preferring.check(args) if isinstance(args, Dpo) else rewarded.check(args)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else by
        raise ValueError(f"{where}: {key} is {said.get(key)!r}: {first['msg'].lower()}") from None
    except ValueError as error:
        raise ValueError(f"{where}: {as_keys(str(error), OPTIONS[by])}") from None
