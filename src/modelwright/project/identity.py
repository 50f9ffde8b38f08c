"""What a step is, in a word: digests of the settings, the data and the models that it depends on.

Wherever things lie, and whatever they are called, the same content is the same step. A changed word here makes all
that users have kept unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from modelwright.adapt.open import HABITS, digest
from modelwright.data.examples import Example
from modelwright.data.named import is_desk
from modelwright.project.aligning import Args
from modelwright.project.cache import Watched, desk_digest, file_digest, key, plain, sha256
from modelwright.project.ladder import BASE, rung_of
from modelwright.project.orders import Orders
from modelwright.project.reading import inputs
from modelwright.project.resolve import task_said
from modelwright.project.spec import INPUTS, Project
from modelwright.project.steps import JUDGES, PAIRS, Asked
from modelwright.recipes.options import Pretrain
from modelwright.recipes.policies import judge_digest
from modelwright.recipes.rewards import TURNED
from modelwright.recipes.tuning import Tune


class Identity:
    """Of a project's steps and comparisons."""

    def __init__(self, orders: Orders, watched: Watched):
        self.orders, self.watched = orders, watched
        self.project, self.task, self.parts = orders.project, orders.task, orders.parts
        self.digests = {part: examples_digest(examples) for part, examples in self.parts.items()}
        self.origins: dict[str, Any] = {}

    # -- steps

    def base(self, args: Pretrain) -> dict[str, Any]:
        """Its settings, and what it reads."""
        text, tokenizer = self.read()
        return {"settings": settings(args) | {"data": None, "tokenizer": tokenizer}, "data": text}

    def rung(self, rung: str, model: str, args: Tune | None) -> dict[str, Any]:
        """The task, the parts that it learns from, the model by its digest, and the settings where it is trained."""
        general = [self.content(d) for d in args.general or ["desk"]] if args else []
        return {
            "task": self.scored(), "parts": {part: self.digests.get(part) for part in ("train", "select")},
            "model": model, "shots": self.orders.asked(rung, "decide").shots,
            "settings": settings(args) | {"task": None, "model": None, "general": general} if args else {},
        }  # fmt: skip

    def aligned(self, model: str, args: Args) -> dict[str, Any]:
        """The model below by its digest, the task and its parts, the settings, and what files they name hold."""
        general = [self.content(d) for d in args.general or ["desk"]]
        return {
            "task": self.scored(), "parts": {part: self.digests.get(part) for part in ("train", "select", "decide")},
            "model": model,
            "settings": self.held(settings(args)) | {"task": None, "model": None, "general": general},
        }  # fmt: skip

    def held(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of an alignment with what is in the files that they name."""
        pairs = {name: self.content(said[name]) for name in PAIRS if said.get(name)}
        return {**said, **pairs, **{name: judge_digest(said[name]) for name in JUDGES if said.get(name)}}

    def answers(self, asked: Asked) -> dict[str, Any]:
        """All but whose they are."""
        return {
            "task": self.said(), "part": self.digests[asked.part], "shots": asked.shots, "seed": asked.seed,
            "metric": self.project.metric, "choose": asked.choose, "prompt": asked.template,
        }  # fmt: skip

    def of_baseline(self, name: str) -> dict[str, Any]:
        return {"train": self.digests["train"], "baseline": name}

    def of_model(self, path: str, asked: Asked) -> dict[str, Any]:
        return {"model": digest(path, HABITS)} | ({"train": self.digests["train"]} if asked.shots else {})

    # -- what is compared, known before any of it is made

    def pair(self, rung: str, candidate: str) -> str:
        """A digest of a model and of how it is asked: of all that makes it."""
        asked, method, by = self.orders.asked(rung, "decide"), rung_of(rung).method, rung_of(rung).by
        said: dict[str, Any] = {"task": self.scored()}
        if align := self.project.align:
            beside = (align.toxicity, align.preference)  # of two bounds, another target may err by the other one
            said |= {"beside": [one and [judge_digest(one.judge), one.wanted] for one in beside]}
            said |= {"target": self.project.target}
        if not rung_of(rung).model:
            return key("trivial", said | self.of_baseline(candidate))
        said |= {"train": self.digests["train"]} if method or by or asked.shots else {}
        said |= {"model": self.origin(candidate), "asked": asked.how()}
        if method or by:
            below = rung_of(rung).below or rung
            tuning = {name: value for name, value in self.project.tuning(below).items() if name != "general"}
            said |= {"tune": tuning if method else {}, "select": self.digests.get("select"), "seed": self.project.seed}
        if by and align:
            said |= {"by": by, "align": self.held(align.settings(by))}
        return key(method or "asked", said)

    def origin(self, candidate: str) -> Any:
        """What a candidate is, before it is opened: its files' digest, its name on the hub, or how it is pretrained."""
        if candidate not in self.origins:
            base = self.project.base
            if candidate == BASE and base is not None:
                text, tokenizer = self.read()
                self.origins[candidate] = settings(base) | {"data": text, "tokenizer": tokenizer}
            else:
                self.origins[candidate] = digest(candidate, HABITS) if holds_model(candidate) else candidate
        return self.origins[candidate]

    def opening(self, model: str, asked: Asked) -> dict[str, str]:
        """What an opening of the test part is counted by: the part, the model, and how it is asked for what."""
        task = sha256({"task": self.scored(), "asked": asked.how()})
        return {"test": self.digests["test"], "model": model, "task": task}

    # -- what they are made of

    def said(self) -> dict[str, Any]:
        """What the task is, but for its data, its metric and its name."""
        return {key: value for key, value in task_said(self.task).items() if key not in ("data", "metric", "name")}

    def scored(self) -> dict[str, Any]:
        """The task, and what its answers are scored by."""
        return self.said() | {"metric": self.project.metric}

    def read(self) -> tuple[list[str], str | None]:
        """The text of the base, and its tokenizer where one is given."""
        assert self.project.base is not None
        data, tokenizer = self.project.base.data, self.project.base.tokenizer
        return [self.content(d) for d in data], file_digest(tokenizer / "tokenizer.json") if tokenizer else None

    def content(self, source: str) -> str:
        """What a source of text holds, in a word: the same wherever it lies."""
        if source == INPUTS:
            return sha256(inputs(self.task, self.parts["train"]))
        if is_desk(source):
            return f"{source} {desk_digest()}"
        return self.watched.digests.get(source) or file_digest(Path(source))


def holds_model(path: str) -> bool:
    return any(Path(path).glob("*.safetensors"))


def files_of(project: Project) -> list[str]:
    """The files that a project reads, as `documents.files` takes them."""
    data = project.task.data
    general = [d for rung in project.trained for d in project.general(rung)]
    named = [data.train, data.select, data.decide, data.test, *(project.base.data if project.base else ()), *general]
    ways = project.align.ways.values() if project.align else ()
    named += [said[name] for said in ways for name in PAIRS if said.get(name)]
    named += judges(project)
    return [source for source in named if source is not None and source != INPUTS and not is_desk(source)]


def judges(project: Project) -> list[str]:
    """The files of judges that are functions."""
    align = project.align
    if align is None:
        return []
    said = [one.judge for one in (align.toxicity, align.preference) if one]
    settings = [align.settings(by) for by in align.ways]
    said += [one[name] for one in settings for name in JUDGES if one.get(name)]
    places = [judge.removeprefix(TURNED).rpartition(":")[0] for judge in said]
    return [place for place in places if Path(place).is_file()]


def examples_digest(examples: Sequence[Example]) -> str:
    """A sha256 of what stands in the examples; not of the names of their files, nor of the lines they stand on."""
    return sha256([plain(dict(example.fields)) for example in examples])


# Settings that came later: without a word, a step is what it was before them.
LATER: dict[type, dict[str, Any]] = {
    Tune: {"optimizer": "adamw", "matrix_rate": None},
    Pretrain: {"init": None, "arch": None, "experts": None},
}


def settings(args: Pretrain | Tune | Args) -> dict[str, Any]:
    """All that a run is told, but for where it writes and what it says."""
    said: dict[str, Any] = TypeAdapter(type(args)).dump_python(args, mode="json")
    left = {"output", "resume", "dry_run", "json"}
    left |= {key for key, default in LATER.get(type(args), {}).items() if said[key] == default}
    none = {"dropout": 0.0} if isinstance(args, Pretrain) and args.dropout is None else {}  # as it was once written
    return {key: value for key, value in said.items() if key not in left} | none
