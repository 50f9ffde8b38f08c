"""project.yaml -> a Project, or one sentence on what is wrong with it: all of it is checked before anything is run.

Each key stands in docs/projects.md. An unknown one is an error that names the nearest; so is what contradicts itself.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pydantic

from modelwright.data.named import known, located, read_yaml
from modelwright.data.shots import How
from modelwright.data.task import Task, parse_task, read_task
from modelwright.evaluate.metrics import LABELLED, default_metric, fits
from modelwright.model.transformer import Config
from modelwright.plan.cost import parameters
from modelwright.plan.size import ByHand, choose_shape, parse_count, parse_time
from modelwright.project.aligning import NOWHERE, Aligning, parse_aligning
from modelwright.project.cache import plain, sha256
from modelwright.project.ladder import BASE, RUNGS, Limits, Rule
from modelwright.project.values import limits, mapping, number, text
from modelwright.recipes.flags import as_keys
from modelwright.recipes.options import Pretrain, check
from modelwright.recipes.pretrain import VOCAB
from modelwright.recipes.source import desk_of
from modelwright.recipes.tuning import Tune
from modelwright.recipes.tuning import check as check_tuning
from modelwright.recipes.watch import duration, size, thousands

KEYS = ("name", "task", "metric", "target", "limits", "candidates", "base", "ladder", "shots", "choose", "prompt",
        "tune", "align", "curve", "confidence", "seed", "recorded")  # fmt: skip
NOT_OF_A_BASE = ("output", "resume", "dry_run", "json", "seed", "init")  # which the project says itself
INPUTS = "task"  # of base.data: the inputs of the project's own training part
SEAL = "sha256"  # of run.yaml, among what is recorded in it
SPEED = 1e12  # FLOP/s, of no machine: whether a shape can be does not depend on it
SCALES = {"bleu": 100.0, "chrf": 100.0}  # of all other metrics 1
NOT_OF_A_RUNG = ("model", "task", "method", "output", "resume", "prompt", "seed", "dry_run", "json")  # likewise
TUNE = tuple(f.name for f in dataclasses.fields(Tune) if f.name not in NOT_OF_A_RUNG)
OF_ONE_RUNG = {
    **dict.fromkeys(("rank", "alpha", "targets"), "lora"),
    **dict.fromkeys(("optimizer", "matrix_rate"), "full"),
    "tokens": "soft-prompt",
}


@dataclass(frozen=True)
class Project:
    name: str
    task: Task
    metric: str
    target: float  # on the metric's scale
    limits: Limits = field(default_factory=Limits)
    candidates: tuple[str, ...] = ()  # directories and hub ids
    base: Pretrain | None = None  # what is pretrained first
    ladder: tuple[str, ...] = tuple(RUNGS)
    shots: int = 4
    choose: How = "seed"  # how the shots are chosen
    prompt: int = 0  # which of the task's prompts is measured
    tune: Mapping[str, Any] = field(default_factory=dict)  # settings of training, and by rung those of one alone
    align: Aligning | None = None  # what is asked of the answers beside the metric, and what is done for it
    curve: tuple[float, ...] = (0.25, 0.5)  # shares of the training part that a learning curve is fitted to
    confidence: float = 0.95
    seed: int = 0
    recorded: Mapping[str, Any] = field(default_factory=dict)  # what an earlier run measured and decided by
    path: Path | None = None

    def rule(self, everything: bool = False) -> Rule:
        names = (*self.candidates, *([BASE] if self.base else []))
        align = tuple(self.align.ways) if self.align else ()
        return Rule(self.ladder, names, self.target, round(1 - self.confidence, 12), self.limits, everything, align)

    @property
    def trained(self) -> list[str]:
        """The rungs that train a model."""
        return [rung for rung in self.ladder if RUNGS[rung].method]

    def tuning(self, rung: str) -> dict[str, Any]:
        """The settings of training on one rung: those of all rungs, and over them its own."""
        common = {key: value for key, value in self.tune.items() if key not in RUNGS}
        return common | dict(self.tune.get(rung, {}))

    def general(self, rung: str) -> tuple[str, ...]:
        """The text that is named to measure on what training forgets."""
        return tuple(self.tuning(rung).get("general", ()))


def read_project(path: str | Path) -> Project:
    """Raises FileNotFoundError where there is no file, and ValueError for what is wrong in it, file and key named."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory: name the project file in it, such as {path / 'project.yaml'}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no project file {path}: `modelwright init` writes one")
    said = read_yaml(path)
    if not isinstance(said, Mapping):
        raise ValueError(f"{path} is no project: it needs keys such as task and target")
    return dataclasses.replace(parse_project(said, str(path), path.parent), path=path)


def parse_project(said: Mapping[str, Any], where: str, base: Path) -> Project:
    """A project of what was said at `where`; paths are relative to `base`. Raises ValueError in one sentence."""
    known(said, KEYS, where)
    for key in ("task", "target"):
        if key not in said:
            raise ValueError(f"{where} has no {key}: a project needs at least a task and a target")
    task = _task(said["task"], where, base)
    metric = _metric(text(said, "metric", where), task, where)
    tune, ladder = mapping(said, "tune", where), _ladder(said.get("ladder"), where)
    project = Project(
        name=text(said, "name", where) or base.resolve().name,
        task=dataclasses.replace(task, metric=metric),
        metric=metric,
        target=_target(said["target"], metric, where),
        limits=limits(mapping(said, "limits", where), where),
        candidates=_candidates(said.get("candidates"), where, base),
        base=_base(said["base"], where, base, int(number(said, "seed", 0, where))) if said.get("base") else None,
        ladder=ladder,
        shots=int(number(said, "shots", 4, where)),
        choose=_choose(said.get("choose", "seed"), where),
        prompt=_prompt(int(number(said, "prompt", 0, where)), task, where),
        tune=_located(_tune(tune, ladder, f"{where}: tune"), base),
        align=parse_aligning(mapping(said, "align", where), f"{where}: align", base),
        curve=_shares(said.get("curve", [0.25, 0.5]), where),
        confidence=number(said, "confidence", 0.95, where),
        seed=int(number(said, "seed", 0, where)),
        recorded=_recorded(said, where),
    )
    for fault in contradictions(project, said):
        raise ValueError(f"{where}: {fault}")
    return project


# -- the parts ---------------------------------------------------------------------------------------------------


def _task(said: Any, where: str, base: Path) -> Task:
    if isinstance(said, str):
        return read_task(base / said)
    if not isinstance(said, Mapping):
        raise ValueError(f"{where}: task is to be the path of a task.yaml, or a task written out, not {said!r}")
    return parse_task(said, f"{where}: task", base)


def _metric(said: str, task: Task, where: str) -> str:
    """The project's, or the task's, or what the field reports first for such a task."""
    try:
        return fits(said or task.metric or default_metric(task.kind).name, task.kind).name
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _target(said: Any, metric: str, where: str) -> float:
    top = SCALES.get(metric, 1.0)
    if isinstance(said, bool) or not isinstance(said, int | float):
        raise ValueError(f"{where}: target is {said!r}, and is to be a number between 0 and {top:g}")
    if not 0 < said < top:
        near = {1.0: said / 100, 100.0: said * 100}[top]
        hint = f"; perhaps you meant {near:g}" if 0 < near < top and not 0 < said < top and said != top else ""
        if said == top:
            hint = ": no finite number of examples proves the highest score"
        raise ValueError(f"{where}: a target of {said:g} is not within the scale of {metric}, 0 to {top:g}{hint}")
    return float(said)


def _candidates(said: Any, where: str, base: Path) -> tuple[str, ...]:
    names = [said] if isinstance(said, str) else said or []
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{where}: candidates is to be a list of directories and hub ids, not {said!r}")
    found = tuple(_candidate(name, where, base) for name in names)
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise ValueError(f"{where}: candidates names {twice[0]} twice")
    if BASE in found:
        raise ValueError(f"{where}: the name {BASE} is of the model that the project pretrains: write ./{BASE}")
    return found


def _candidate(name: str, where: str, base: Path) -> str:
    """A directory as it is from here; or a hub id: OWNER/NAME, which begins with no dot, slash or tilde."""
    place = Path(os.path.normpath(base / Path(name).expanduser()))
    if place.is_dir():
        return str(place)
    if name[0] in "./~" or name.count("/") > 1:
        raise FileNotFoundError(f"{where}: candidates names {name}, and there is no directory {place}: make it first")
    return name


def _base(said: Any, where: str, base: Path, seed: int) -> Pretrain:
    """The settings of a pretraining run. Raises ValueError for what `modelwright pretrain` would refuse."""
    where = f"{where}: base"
    if not isinstance(said, Mapping):
        raise ValueError(f"{where} is to be a mapping such as {{data: desk, time: 3min}}, not {said!r}")
    known(said, [f.name for f in dataclasses.fields(Pretrain) if f.name not in NOT_OF_A_BASE], where)
    values = dict(said)
    data = values.get("data", ())
    named = [str(d) for d in (data if isinstance(data, list | tuple) else [data])]
    values["data"] = [d if d == INPUTS else located(d, base) for d in named]
    if named == [INPUTS] and said.get("column", "text") != "text":
        raise ValueError(f"{where}: column is of files, and {INPUTS} is the inputs of the training part: leave it out")
    if values.get("tokenizer"):
        values["tokenizer"] = str(base / str(values["tokenizer"]))
    try:
        args = pydantic.TypeAdapter(Pretrain).validate_python(values | {"seed": seed, "output": NOWHERE})
        desk_of(args.data)
        args = dataclasses.replace(check(args), output=Path())
        shape_of(args)
        return args
    except pydantic.ValidationError as error:
        raise ValueError(f"{where}: {_first(error, said)}") from None
    except ValueError as error:
        raise ValueError(f"{where}: {as_keys(str(error), Pretrain)}") from None


def shape_of(args: Pretrain) -> Config:
    """The base's shape, as far as no clock decides it. Raises ValueError for one that cannot be."""
    return choose_shape(
        args.objective,
        args.vocab or VOCAB,
        SPEED,
        parse_count(args.size) if args.size else None,
        parse_time(args.time) if args.time else None,
        ByHand(**{f.name: getattr(args, f.name, None) for f in dataclasses.fields(ByHand)}),
    )


def _ladder(said: Any, where: str) -> tuple[str, ...]:
    """The rungs in their order: from the cheapest, whatever the order they are named in."""
    if said is None:
        return tuple(RUNGS)
    if not isinstance(said, list | tuple) or not said:
        raise ValueError(f"{where}: ladder is to be a list of rungs ({', '.join(RUNGS)}), not {said!r}")
    known(said, RUNGS, f"{where}: ladder", "rung")
    if twice := [rung for rung in RUNGS if list(said).count(rung) > 1]:
        raise ValueError(f"{where}: ladder names {twice[0]} twice")
    return tuple(rung for rung in RUNGS if rung in said)


def _choose(said: Any, where: str) -> How:
    if said not in get_args(How):
        raise ValueError(f"{where}: choose is {said!r}, and is to be {' or '.join(get_args(How))}")
    found: How = said
    return found


def _prompt(said: int, task: Task, where: str) -> int:
    if not 0 <= said < len(task.prompts):
        raise ValueError(f"{where}: prompt is {said}, and the task has {len(task.prompts)} of them, counted from 0")
    return said


def _recorded(said: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """What a run measured and decided by, where the file is as the run wrote it."""
    recorded = dict(mapping(said, "recorded", where))
    if recorded and recorded.pop(SEAL, None) != seal(said, recorded):
        raise ValueError(
            f"{where} is not as the run wrote it that recorded these times: put back what was changed, or take "
            "recorded out to measure anew"
        )
    return recorded


def seal(said: Mapping[str, Any], recorded: Mapping[str, Any]) -> str:
    """A sha256 of a project as it is written, and of what was recorded of it."""
    try:
        return sha256(plain({**said, "recorded": recorded}))
    except TypeError:  # of what YAML can hold and no run has written, such as a date
        return ""


def _tune(said: Mapping[str, Any], ladder: Iterable[str], where: str) -> Mapping[str, Any]:
    trained = [name for name, rung in RUNGS.items() if rung.method]
    known(said, [*TUNE, *trained], where)
    for key, value in said.items():
        if key in trained:
            if key not in ladder:
                raise ValueError(f"{where} has settings for {key}, which is no rung of the ladder")
            if not isinstance(value, Mapping):
                raise ValueError(f"{where}: {key} is to be a mapping such as {{rate: 0.001}}, not {value!r}")
            known(value, TUNE, f"{where}: {key}")
        elif key in OF_ONE_RUNG:
            raise ValueError(f"{where}: {key} is of one rung: write {OF_ONE_RUNG[key]}: {{{key}: {value}}}")
    for key in [key for key in trained if key in ladder]:
        values = {k: v for k, v in said.items() if k in TUNE} | dict(said.get(key, {}))
        if isinstance(values.get("general"), str):
            values["general"] = [values["general"]]
        _tuning({**values, "method": RUNGS[key].method}, f"{where}: {key}" if key in said else where)
    return said


def _located(said: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The same with the text that forgetting is measured on found from here; of each rung too."""
    found = {key: _located(value, base) if isinstance(value, Mapping) else value for key, value in said.items()}
    general = found.get("general", ())
    if general:
        found["general"] = [
            located(str(d), base) for d in (general if isinstance(general, list | tuple) else [general])
        ]
    return found


def _tuning(said: Mapping[str, Any], where: str) -> None:
    """Raises ValueError for what `modelwright tune` would refuse."""
    try:
        args = pydantic.TypeAdapter(Tune).validate_python(
            {**said, "model": ".", "task": "task.yaml", "output": NOWHERE}
        )
        check_tuning(args)
    except pydantic.ValidationError as error:
        raise ValueError(f"{where}: {_first(error, said)}") from None
    except ValueError as error:
        raise ValueError(f"{where}: {as_keys(str(error), Tune)}") from None


def _first(error: pydantic.ValidationError, said: Mapping[str, Any]) -> str:
    """The first thing that is wrong: key, value, and what it is to be."""
    first = error.errors()[0]
    key = str(first["loc"][0])
    return f"{key} is {said.get(key)!r}: {first['msg'].lower()}"


def _shares(said: Any, where: str) -> tuple[float, ...]:
    shares = said if isinstance(said, list | tuple) else []
    right = all(isinstance(share, int | float) and 0 < share < 1 for share in shares) and (shares or said == [])
    if not right or len(shares) == 1:
        raise ValueError(
            f"{where}: curve is {said!r}, and is to be two or more shares of the training part between 0 and 1, "
            "such as [0.25, 0.5], or [] for no learning curve"
        )
    return tuple(sorted(set(map(float, shares))))


# -- what contradicts itself ---------------------------------------------------------------------------------------


def contradictions(project: Project, said: Mapping[str, Any]) -> Iterable[str]:
    """Every one, in a sentence each."""
    models = [name for name in project.ladder if RUNGS[name].model]
    if models and not project.candidates and not project.base:
        yield "there is no model to try: name candidates, or a base to pretrain"
    if not models and (project.candidates or project.base):
        yield "the ladder is trivial alone, which needs no model: leave candidates and base out, or add a rung"
    if "shots" in said and "few-shot" not in project.ladder:
        yield f"shots is {project.shots}, and few-shot is no rung of the ladder"
    if "choose" in said and not any(RUNGS[name].shots != "none" for name in models):
        yield f"choose is {project.choose}, and neither one-shot nor few-shot is a rung of the ladder"
    if "few-shot" in project.ladder and project.shots < 2:
        yield f"shots is {project.shots}: few-shot begins at 2, and one-shot is a rung of its own"
    if project.tune and not project.trained:
        yield "tune is said, and the ladder has none of soft-prompt, lora and full"
    if project.align and project.task.kind in LABELLED:
        yield f"align is of answers in words, and those of a task of kind {project.task.kind} are labels: leave it out"
    if project.align and project.prompt:
        yield f"prompt is {project.prompt}, and what is aligned is asked by the first one: list it first, as prompt 0"
    if not 0.5 < project.confidence < 1:
        yield f"confidence is {project.confidence:g}, and is to lie between 0.5 and 1"
    if not 0 <= project.seed < 2**63:
        yield f"seed is {project.seed}, and is to be 0 or more"
    if project.metric == "mentions" and "required" not in project.task.columns:
        yield "the metric mentions needs the task's column `required`: columns: {required: ...}, a list of strings"
    if project.base:
        yield from _against_base(project, project.base)


def _against_base(project: Project, base: Pretrain) -> Iterable[str]:
    limits, kind = project.limits, project.task.kind
    if base.objective == "masked" and kind not in ("classify", "tag"):
        yield f"a base with objective masked is an encoder, which cannot {kind}: take causal, span or denoise"
    if base.objective != "masked" and kind == "tag":
        yield f"tagging needs an encoder: give the base the objective masked, not {base.objective}"
    if base.objective == "masked" and not project.trained and not project.candidates:
        yield "an encoder answers once it is trained for the task: add soft-prompt, lora or full to the ladder"
    if base.time and limits.time is not None and parse_time(base.time) >= limits.time:
        left = f"leaves nothing of limits.time, {duration(limits.time)}"
        yield f"base.time is {duration(parse_time(base.time))} and {left}"
    if base.size and limits.parameters is not None and parse_count(base.size) > limits.parameters:
        yield f"base.size is {base.size}, over limits.parameters, {thousands(limits.parameters)}"
    if base.width and base.layers and not base.size and not base.tokenizer and limits.parameters is not None:
        cfg = shape_of(base)
        if (count := parameters(cfg)) > limits.parameters:
            of = f"{thousands(count)} parameters with its vocabulary of {cfg.vocab:,}"
            yield f"the base has {of}, over limits.parameters, {thousands(limits.parameters)}"
    if base.size and limits.memory is not None and 4 * parse_count(base.size) > limits.memory:
        yield f"the weights of a base of {base.size} parameters alone are over limits.memory, {size(limits.memory)}"
    tokens = project.tuning("soft-prompt").get("tokens", 0)
    if base.context and tokens >= base.context:
        yield f"a soft prompt of {tokens} tokens fills the base's context of {base.context}"
    for rung in project.trained:
        time = project.tuning(rung).get("time")
        if time and limits.time is not None and parse_time(time) >= limits.time:
            yield f"tune's time of {time} for {rung} leaves nothing of limits.time, {duration(limits.time)}"
