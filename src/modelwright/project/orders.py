"""What the recipes are told for a step: settings, the examples that are asked, and the files that they read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from modelwright.data.examples import Example
from modelwright.data.task import Task
from modelwright.project import steps
from modelwright.project.aligning import OPTIONS, Args
from modelwright.project.cache import sha256
from modelwright.project.ladder import BASE, rung_of
from modelwright.project.reading import inputs, write_inputs
from modelwright.project.recorded import Record
from modelwright.project.resolve import task_said
from modelwright.project.spec import INPUTS, Project
from modelwright.project.steps import Asked
from modelwright.recipes.options import Pretrain
from modelwright.recipes.pretrain import HELD_OUT
from modelwright.recipes.source import desk_of
from modelwright.recipes.tuning import Tune
from modelwright.recipes.watch import write_whole

DRAWN = 100  # prompts
TASKS = "tasks"  # of a run directory: the task files that tuning reads, and the inputs that pretraining does


@dataclasses.dataclass(frozen=True)
class Orders:
    """A project's, in one run directory. What an earlier run's clock settled is told as it was settled."""

    project: Project
    task: Task
    parts: Mapping[str, Sequence[Example]]
    directory: Path
    record: Record

    # -- pretraining

    def base(self) -> Pretrain:
        said = self.project.base
        assert said is not None
        data = tuple(self.inputs_file(said.column) if d == INPUTS else d for d in said.data)
        return steps.settle_base(dataclasses.replace(said, data=data), self.record.settled(BASE, BASE))

    def inputs_file(self, column: str) -> str:
        texts = inputs(self.task, self.parts["train"])
        path = self.directory / TASKS / f"inputs-{sha256(texts)[:12]}.jsonl"
        write_inputs(texts, column, path)
        return str(path)

    # -- tuning

    def tuning(self, rung: str, candidate: str, model: str, limit: int | None = None) -> Tune:
        """model: where the candidate lies. limit: so many examples of the training part instead of all."""
        said: dict[str, Any] = {
            "model": model, "task": self.task_file(limit), "method": rung_of(rung).method,
            "seed": self.project.seed, "json": True, "prompt": self.project.prompt, **self.project.tuning(rung),
            "general": self.general(rung, candidate, model),
        }  # fmt: skip
        args = TypeAdapter(Tune).validate_python(said)
        return steps.settle_rung(args, self.record.settled(rung, candidate, limit))

    # -- aligning

    def aligning(self, rung: str, candidate: str, origin: str, model: str) -> Args:
        """origin: where the candidate lies. model: where the rung that is aligned does."""
        way, asked = rung_of(rung), self.project.align
        assert way.by is not None
        assert asked is not None
        said = {
            "model": model, "task": self.task_file(None), "seed": self.project.seed, "json": True,
            "general": self.general(way.below, candidate, origin), **asked.settings(way.by),
        }  # fmt: skip
        if way.by != "dpo":  # decide is answered once more for the report alone, as the policy draws: a few will do
            said = {"measured": DRAWN} | said | {"part": "decide"}
            said |= {"toxicity": asked.toxicity.judge} if asked.toxicity else {}
        args = TypeAdapter(OPTIONS[way.by]).validate_python(said)
        return steps.settle_rung(args, self.record.settled(rung, candidate))

    def general(self, rung: str, candidate: str, model: str) -> Sequence[str]:
        """The text that forgetting is measured on: what was named, or of a base what its pretraining held out.

        Nothing is the desk's own dialogues: those that its bases never see, and foreign to a named candidate.
        """
        said, base = self.project.general(rung), self.project.base
        if said or candidate != BASE or base is None or desk_of(base.data):
            return said
        return (str(Path(model).parent / HELD_OUT),)

    def task_file(self, limit: int | None) -> Path:
        """The task as a file that tuning reads; its labels are written out, since a part of the data may lack some."""
        task = self.task
        if limit is not None:
            data = dataclasses.replace(task.data, limit={**task.data.limit, "train": limit})
            task = dataclasses.replace(task, data=data)
        path = self.directory / TASKS / ("task.yaml" if limit is None else f"task-{limit}.yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(task_said(task), sort_keys=False, allow_unicode=True)
        if not path.exists() or path.read_text("utf-8") != text:
            write_whole(path, text)
        return path

    # -- measuring

    def asked(self, rung: str, part: str) -> Asked:
        project, shots = self.project, {"none": 0, "one": 1, "few": self.project.shots}[rung_of(rung).shots]
        choose = project.choose if shots else "seed"
        return Asked(
            self.task, part, self.parts[part], self.parts["train"], shots, project.seed, choose, project.prompt
        )
