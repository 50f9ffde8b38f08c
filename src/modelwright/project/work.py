"""A project's steps on real models, each behind the cache: what `climb` asks, and what the report asks besides."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import TypeAdapter

from modelwright.adapt.open import HABITS, digest, open_model
from modelwright.data.examples import Example
from modelwright.data.named import is_desk
from modelwright.data.prompt import Prompter
from modelwright.data.task import prepare
from modelwright.evaluate.baselines import Baseline, fit_baselines
from modelwright.evaluate.metrics import METRICS
from modelwright.evaluate.statistics import interval, lower_bound
from modelwright.evaluate.tasks import Output
from modelwright.hub.open import LanguageModel
from modelwright.model.transformer import Config
from modelwright.plan.cost import parameters
from modelwright.project import ledger, resident, steps
from modelwright.project.cache import Cache, Done, Watched, desk_digest, file_digest, key, plain, sha256
from modelwright.project.ladder import BASE, RUNGS, Candidate, Cost, Measurement, Place, Plan
from modelwright.project.reading import copies, inputs, refuse, told, write_inputs
from modelwright.project.resolve import replayable, task_said
from modelwright.project.spec import INPUTS, Project
from modelwright.project.steps import Asked
from modelwright.recipes.evaluate import check_contract, prompter_of
from modelwright.recipes.flags import as_keys
from modelwright.recipes.options import Pretrain
from modelwright.recipes.preflight import Unfit, data_faults
from modelwright.recipes.pretrain import HELD_OUT
from modelwright.recipes.results import warnings
from modelwright.recipes.source import desk_of, documents_of
from modelwright.recipes.tuning import Tune
from modelwright.recipes.watch import Screen, write_whole

Array = NDArray[np.float64]
TASKS = "tasks"  # of a run directory: the task files that tuning reads, and the inputs that pretraining does


class Opened(NamedTuple):
    """A candidate's model: where it is, what it is, and how it is asked."""

    path: str
    digest: str
    config: Config
    prompter: Prompter | None = None  # None where it cannot be asked
    mute: str = ""  # why


class Work:
    """The steps of one project in one run directory."""

    def __init__(self, project: Project, directory: Path, screen: Screen):
        self.project, self.directory, self.screen = project, directory, screen
        self.own = resident.program()
        self.watched = Watched(files_of(project))
        self.task, self.parts = prepare(project.task)
        if "decide" not in self.parts:
            raise ValueError(
                f"the task {self.task.name} has no part decide, which rungs are stopped on: give data.decide a file, "
                "or data.split.decide a share"
            )
        if faults := data_faults(self.task, self.parts, allowed_overlap(project)):
            raise ValueError("; and ".join(as_keys(fault, Tune, "tune.") for fault in faults))
        self.digests = {part: examples_digest(examples) for part, examples in self.parts.items()}
        self.cache = Cache(directory, screen.warn, self.watched.unchanged)
        self.metric = METRICS[project.metric]
        self.fitted = {one.name: one for one in fit_baselines(self.task, self.parts["train"], self.metric)}
        self.opened: dict[str, Opened] = {}
        self.sizes = {part: len(examples) for part, examples in self.parts.items()}
        self.copied: Mapping[str, Sequence[str]] = {}  # of each part what stands in the base's text
        self.origins: dict[str, Any] = {}
        self.pairs: list[str] = []  # what this run compares with the target
        self.record: dict[str, Any] = {}  # what clocks said, by rung and candidate

    # -- what climb asks

    def baselines(self) -> Sequence[str]:
        return tuple(self.fitted)

    def shares(self, places: Sequence[Place], error: float) -> Sequence[float]:
        self.pairs = [self.pair(*place) for place in places]
        return [error * share for share in ledger.allot(self.directory, self.digests["decide"], self.pairs)]

    def open(self, candidate: str) -> Candidate:
        done = self.pretrain() if candidate == BASE else None
        path = model_of(done) if done else candidate
        lm = open_model(path)
        assert lm.path is not None
        found = self.opened[candidate] = Opened(
            str(lm.path), digest(lm.path, HABITS), lm.model.cfg, *self.speaking(candidate, lm)
        )
        cost = self.spent(BASE, BASE, done) if done else None
        return Candidate(
            candidate,
            parameters(found.config),
            found.config.shape,
            found.digest,
            cost,
            done is not None and done.cached,
        )

    def unfit(self, rung: str, candidate: Candidate) -> str:
        encoder = candidate.shape == "encoder"
        if self.task.kind == "tag" and not encoder:
            return "tagging needs an encoder"
        if self.task.kind not in ("classify", "tag") and encoder:
            return f"an encoder writes no text, and cannot {self.task.kind}"
        return "" if RUNGS[rung].method else self.unasked(rung, candidate.name)

    def unasked(self, rung: str, candidate: str) -> str:
        """Why a model cannot be asked as it is, or not in this way."""
        found = self.opened[candidate]
        if found.config.shape == "encoder" and (found.config.labels is None or RUNGS[rung].shots != "none"):
            return "an encoder reads no examples: it answers by a head of its own, which training gives it"
        return found.mute if found.prompter is None else steps.crowded(found.prompter, self.asked(rung, "decide"))

    def speaking(self, candidate: str, lm: LanguageModel) -> tuple[Prompter | None, str]:
        """What makes a model's prompts of the task; or None, and why it cannot be asked."""
        try:
            check_contract(candidate, lm, self.task)
        except ValueError:
            return None, "it was trained with other prompts than this task's"
        try:
            return prompter_of(self.task, lm), ""
        except ValueError as error:
            return None, str(error)

    def plan(self, rung: str, candidate: str) -> Plan | None:
        """Predicted once, and kept: a resumed climb decides by the same numbers, and so does a replayed one."""
        if rung == "trivial":
            return None
        if (found := self.planned(rung, candidate)) is None:
            found = self.cache.step(*self.planning(rung, candidate), lambda _: self.predict(rung, candidate)).value
        self.note(rung, candidate, "planned", found["cost"])
        self.note(rung, candidate, "planning", found["seconds"])
        return Plan(Cost(found["cost"][0], int(found["cost"][1])), found["seconds"])

    def planned(self, rung: str, candidate: str) -> Mapping[str, Any] | None:
        """What an earlier run recorded."""
        said = self.recorded(rung, candidate)
        return {"cost": said["planned"], "seconds": said.get("planning", 0.0)} if "planned" in said else None

    def planning(self, rung: str, candidate: str) -> tuple[str, dict[str, Any]]:
        """Under what a plan is kept."""
        return f"plan-{rung}", self.depends(rung, candidate) | {"decide": self.digests["decide"]}

    def foreseen(self, rung: str, candidate: str) -> Cost | None:
        """What is known of a step that is not made: by an earlier plan, or of a base by calculation."""
        if rung == "trivial":
            return None
        if (found := self.planned(rung, candidate)) is None and (rung == BASE or candidate in self.opened):
            done = self.cache.find(*self.planning(rung, candidate))
            found = done.value if done else None
        if found is None:
            return steps.plan_base(self.base(), self.own) if rung == BASE else None
        return Cost(found["cost"][0], int(found["cost"][1]))

    def measure(self, rung: str, candidate: str, part: str = "decide") -> Measurement:
        trained = self.train(rung, candidate) if self.method(rung) else None
        done = self.answer(rung, candidate, trained, part)
        outputs = steps.outputs_of(done.directory)
        stats = np.stack([output.stats[self.metric.name] for output in outputs])  # (n, k)
        score = interval(stats, self.metric, level=self.project.confidence, seed=self.project.seed)
        cost, latency = together(done, trained), done.value["latency"]
        if part == "decide":  # no decision rests on another
            cost = self.spent(rung, candidate, done, trained)
            latency = self.recorded(rung, candidate).get("latency", latency)
            self.note(rung, candidate, "latency", latency)
        cached = done.cached and (trained is None or trained.cached)
        notes = tuple(warnings(outputs, self.task.decoding.max_new))
        return Measurement(stats, score, cost, latency, cached, notes)

    def bound(self, stats: Array, error: float) -> float:
        return lower_bound(stats, self.metric, error=error, seed=self.project.seed)

    # -- what the report asks

    def outputs(self, rung: str, candidate: str, part: str = "decide") -> Sequence[Output]:
        """The answers of what was measured."""
        trained = self.train(rung, candidate) if self.method(rung) else None
        return steps.outputs_of(self.answer(rung, candidate, trained, part).directory)

    def forgotten(self, rung: str, candidate: str) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self.train(rung, candidate).value["forgetting"]
        held = found is not None and self.general(rung, candidate) != self.said_general(rung)
        return {**found, "text": "text that pretraining held out"} if found and held else found

    def caveats(self) -> list[str]:
        """What a reader of the scores is to know of how the models were made."""
        found = told(self.copied, self.sizes)
        bare = [rung for rung in self.project.ladder if self.method(rung) and not self.said_general(rung)]
        if bare and any(name != BASE for name in self.opened):
            found.append(
                "What the named candidates forgot is measured on dialogues of the embedded desk, which they need not "
                "have been trained on: `tune.general` names other text."
            )
        return found

    def point(self, rung: str, candidate: str, n: int) -> Array:
        """Statistics (m, k) on `decide` of the rung trained on n examples of the training part."""
        trained = self.train(rung, candidate, n)
        done = self.answer(rung, candidate, trained, "decide")
        return np.stack([output.stats[self.metric.name] for output in steps.outputs_of(done.directory)])

    def opening(self, rung: str, candidate: str) -> dict[str, str]:
        """What an opening of the test part is counted by: the part, the model, and how it is asked for what."""
        asked, task = self.asked(rung, "test"), self.said() | {"metric": self.metric.name}
        if RUNGS[rung].model:
            path = model_of(self.train(rung, candidate)) if self.method(rung) else self.opened[candidate].path
            model = digest(path, HABITS)
        else:
            model = sha256({"baseline": candidate, "train": self.digests["train"]})
        return {"test": self.digests["test"], "model": model, "task": sha256({"task": task, "asked": asked.how()})}

    def earlier(self) -> int:
        """How many comparisons on this `decide` part earlier runs in this directory had that this one has not."""
        return ledger.earlier(self.directory, self.digests["decide"], self.pairs)

    # -- what is compared, known before any of it is made

    def pair(self, rung: str, candidate: str) -> str:
        """A digest of a model and of how it is asked: of all that makes it."""
        asked, method = self.asked(rung, "decide"), self.method(rung)
        said: dict[str, Any] = {"task": self.said() | {"metric": self.metric.name}}
        if method or asked.shots or not RUNGS[rung].model:
            said |= {"train": self.digests["train"]}
        if not RUNGS[rung].model:
            return key("trivial", said | {"baseline": candidate})
        said |= {"model": self.origin(candidate), "asked": asked.how()}
        if method:
            tuning = {name: value for name, value in self.project.tuning(rung).items() if name != "general"}
            said |= {"tune": tuning, "select": self.digests.get("select"), "seed": self.project.seed}
        return key(method or "asked", said)

    def origin(self, candidate: str) -> Any:
        """What a candidate is, before it is opened: its files' digest, its name on the hub, or how it is pretrained."""
        if candidate not in self.origins:
            base = self.project.base
            if candidate == BASE and base is not None:
                tokenizer = file_digest(base.tokenizer / "tokenizer.json") if base.tokenizer else None
                data = [self.content(d) for d in base.data]
                self.origins[candidate] = settings(base) | {"data": data, "tokenizer": tokenizer}
            else:
                self.origins[candidate] = digest(candidate, HABITS) if holds_model(candidate) else candidate
        return self.origins[candidate]

    # -- the steps, each behind the cache

    def pretrain(self) -> Done:
        args = self.base()
        self.copied = self.compared()
        return self.cache.step(
            BASE, self.depends(BASE, BASE), lambda place: steps.pretrain_base(args, place, self.screen)
        )

    def train(self, rung: str, candidate: str, limit: int | None = None) -> Done:
        """The rung trained, on the whole training part or on so many examples of it."""
        args, depends = self.tuning(rung, candidate, limit), self.depends(rung, candidate)
        if limit is not None:
            depends |= {"limit": limit}
        done = self.cache.step(rung, depends, lambda place: steps.tune_rung(args, place, self.screen))
        self.note(rung, limited(candidate, limit), "settled", done.value["settled"])
        return done

    def answer(self, rung: str, candidate: str, trained: Done | None, part: str) -> Done:
        asked = self.asked(rung, part)
        depends: dict[str, Any] = {
            "task": self.said(), "part": self.digests[part], "shots": asked.shots, "seed": asked.seed,
            "metric": self.metric.name, "choose": asked.choose, "prompt": asked.template,
        }  # fmt: skip
        if not RUNGS[rung].model:
            depends |= {"train": self.digests["train"], "baseline": candidate}
            work = self.by_baseline(self.fitted[candidate], asked)
        else:
            path = model_of(trained) if trained else self.opened[candidate].path
            depends |= {"model": digest(path, HABITS)} | ({"train": self.digests["train"]} if asked.shots else {})
            work = self.by_model(path, asked)
        return self.cache.step(f"{part}-{rung}", depends, work)

    def by_baseline(self, baseline: Baseline, asked: Asked) -> Callable[[Path], Mapping[str, Any]]:
        return lambda place: steps.measure_baseline(baseline, asked, place)

    def by_model(self, path: str, asked: Asked) -> Callable[[Path], Mapping[str, Any]]:
        return lambda place: steps.measure_rung(path, asked, place, self.screen)

    def predict(self, rung: str, candidate: str) -> dict[str, Any]:
        """What a step is going to take, and how long it took to find that out."""
        began = time.perf_counter()
        cost = steps.plan_base(self.base(), self.own) if rung == BASE else self.tried(rung, candidate)
        return {"cost": list(cost), "seconds": time.perf_counter() - began}

    def tried(self, rung: str, candidate: str) -> Cost:
        """By a few answers, and a few steps of training at rate 0. Raises Unfit for what the model cannot learn so."""
        asked = self.asked(rung, "decide")
        cost = steps.plan_measuring(self.opened[candidate].path, asked)
        if self.method(rung):
            args, each = self.tuning(rung, candidate), cost.seconds / len(asked.examples)
            try:
                learning = steps.plan_rung(args)
            except ValueError as error:  # what its preflight found
                said = as_keys(str(error), Tune, "tune.")
                raise (Unfit(said) if isinstance(error, Unfit) else ValueError(f"{rung}: {said}")) from None
            tests = args.tests * min(args.select, len(self.parts.get("select", ())))
            seconds = learning.seconds + cost.seconds + each * tests
            cost = Cost(seconds, max(cost.memory, learning.memory))
        return Cost(cost.seconds, self.own + cost.memory)

    # -- what they depend on

    def depends(self, rung: str, candidate: str) -> dict[str, Any]:
        """Of a base: its settings and data. Of a rung: the task, the parts it learns from, the model, the settings."""
        if rung == BASE:
            assert self.project.base is not None
            base, said = self.base(), [self.content(d) for d in self.project.base.data]
            tokenizer = file_digest(base.tokenizer / "tokenizer.json") if base.tokenizer else None
            return {"settings": settings(base) | {"data": None, "tokenizer": tokenizer}, "data": said}
        parts = {part: self.digests.get(part) for part in ("train", "select")}
        opened = self.opened[candidate]
        args = self.tuning(rung, candidate) if self.method(rung) else None
        general = [self.content(d) for d in args.general or ["desk"]] if args else []
        return {
            "task": self.said() | {"metric": self.metric.name}, "parts": parts, "model": opened.digest,
            "settings": settings(args) | {"task": None, "model": None, "general": general} if args else {},
            "shots": self.asked(rung, "decide").shots,
        }  # fmt: skip

    def content(self, source: str) -> str:
        """What a source of text holds, in a word: the same wherever it lies."""
        if source == INPUTS:
            return sha256(inputs(self.task, self.parts["train"]))
        if is_desk(source):
            return f"{source} {desk_digest()}"
        return self.watched.digests.get(source) or file_digest(Path(source))

    def said(self) -> dict[str, Any]:
        """What the task is, but for its data, its metric and its name."""
        return {key: value for key, value in task_said(self.task).items() if key not in ("data", "metric", "name")}

    def asked(self, rung: str, part: str) -> Asked:
        shots = {"none": 0, "one": 1, "few": self.project.shots}[RUNGS[rung].shots]
        project, choose = self.project, self.project.choose if shots else "seed"
        return Asked(
            self.task, part, self.parts[part], self.parts["train"], shots, project.seed, choose, project.prompt
        )

    # -- the base's text

    def base(self) -> Pretrain:
        said = self.project.base
        assert said is not None
        data = tuple(self.inputs_file(said.column) if d == INPUTS else d for d in said.data)
        settled = self.recorded(BASE, BASE).get("settled", {})
        return steps.settle_base(dataclasses.replace(said, data=data), settled)

    def inputs_file(self, column: str) -> str:
        path = self.directory / TASKS / f"inputs-{self.content(INPUTS)[:12]}.jsonl"
        write_inputs(inputs(self.task, self.parts["train"]), column, path)
        return str(path)

    def compared(self) -> Mapping[str, Sequence[str]]:
        """Of each part that is measured on, the examples whose input stands in the text of the base.

        The desk keeps its parts apart. Raises ValueError where they are more than `tune.overlap` allows.
        """
        base, parts = self.project.base, {part: e for part, e in self.parts.items() if part != "train"}
        files = [d for d in base.data if d != INPUTS and not is_desk(d)] if base else []
        if base is None or not files:
            return {}
        text = documents_of(files, seed=base.seed, column=base.column, separator=base.separator)
        depends = {
            "text": text.fingerprint, "inputs": list(self.task.inputs),
            "parts": {part: [self.digests[part], sha256([e.id for e in parts[part]])] for part in parts},
        }  # fmt: skip
        done = self.cache.step(
            "compare", depends, lambda _: {"copies": copies(self.task, parts, (d.text for d in text.documents))}
        )
        found: Mapping[str, Sequence[str]] = done.value["copies"]
        trained = [rung for rung in self.project.ladder if self.method(rung)]
        refuse(found, self.sizes, max((self.project.tuning(r).get("overlap", 0.0) for r in trained), default=None))
        return found

    # -- how a rung is trained

    def method(self, rung: str) -> str | None:
        return RUNGS[rung].method if rung in RUNGS else None

    def tuning(self, rung: str, candidate: str, limit: int | None = None) -> Tune:
        said: dict[str, Any] = {
            "model": self.opened[candidate].path, "task": self.task_file(limit), "method": self.method(rung),
            "seed": self.project.seed, "json": True, "prompt": self.project.prompt, **self.project.tuning(rung),
            "general": self.general(rung, candidate),
        }  # fmt: skip
        args = TypeAdapter(Tune).validate_python(said)
        return steps.settle_rung(args, self.recorded(rung, limited(candidate, limit)).get("settled", {}))

    def said_general(self, rung: str) -> Sequence[str]:
        return tuple(self.project.tuning(rung).get("general", ()))

    def general(self, rung: str, candidate: str) -> Sequence[str]:
        """The text that forgetting is measured on: what was named, or of a base what its pretraining held out.

        Nothing is the desk's own dialogues: those that its bases never see, and foreign to a named candidate.
        """
        said, base = self.said_general(rung), self.project.base
        if said or candidate != BASE or base is None or desk_of(base.data):
            return said
        return (str(Path(self.opened[BASE].path).parent / HELD_OUT),)

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

    # -- what clocks said: inputs of a replay

    def recorded(self, rung: str, candidate: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.project.recorded.get(f"{rung} {candidate}", {})
        return found

    def note(self, rung: str, candidate: str, what: str, value: Any) -> None:
        self.record.setdefault(f"{rung} {candidate}", {})[what] = value

    def noted(self, rung: str, candidate: str, what: str, cost: Cost) -> Cost:
        self.note(rung, candidate, what, list(cost))
        return cost

    def spent(self, rung: str, candidate: str, *done: Done | None) -> Cost:
        """What the steps of a rung took together; or what was recorded of them, which is what decided."""
        said = self.recorded(rung, candidate).get("actual")
        return self.noted(rung, candidate, "actual", Cost(said[0], int(said[1])) if said else together(*done))

    def replayable(self) -> dict[str, Any]:
        """run.yaml: the project with every default, and all that a clock decided."""
        return replayable(self.project, self.record)


def together(*done: Done | None) -> Cost:
    """Seconds of all, and the most memory of any."""
    values = [one.value for one in done if one is not None]
    return Cost(sum(value["seconds"] for value in values), max(int(value["memory"]) for value in values))


def model_of(done: Done) -> str:
    """Where the model of a trained step is: a run directory may be moved."""
    return str(done.directory / done.value["model"])


def limited(candidate: str, limit: int | None) -> str:
    """What a candidate that was trained on a part of the examples is recorded under."""
    return candidate if limit is None else f"{candidate}/{limit}"


def holds_model(path: str) -> bool:
    return any(Path(path).glob("*.safetensors"))


def allowed_overlap(project: Project) -> float:
    """The share of a part's inputs that may stand in another: what every trained rung allows; 1 where none is."""
    trained = [rung for rung in project.ladder if RUNGS[rung].method]
    return min((project.tuning(rung).get("overlap", Tune.overlap) for rung in trained), default=1.0)


def files_of(project: Project) -> list[str]:
    """The files that a project reads, as `documents.files` takes them."""
    data = project.task.data
    general = [d for rung in project.ladder if RUNGS[rung].method for d in project.tuning(rung).get("general", ())]
    named = [data.train, data.select, data.decide, data.test, *(project.base.data if project.base else ()), *general]
    return [source for source in named if source is not None and source != INPUTS and not is_desk(source)]


def examples_digest(examples: Sequence[Example]) -> str:
    """A sha256 of what stands in the examples; not of the names of their files, nor of the lines they stand on."""
    return sha256([plain(dict(example.fields)) for example in examples])


def settings(args: Pretrain | Tune) -> dict[str, Any]:
    """All that a run is told, but for where it writes and what it says."""
    said: dict[str, Any] = TypeAdapter(type(args)).dump_python(args, mode="json")
    return {key: value for key, value in said.items() if key not in ("output", "resume", "dry_run", "json")}
