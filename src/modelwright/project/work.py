"""A project's steps on real models, each behind the cache: what `climb` asks, and what the report asks besides.

What a step is told is in orders.py, what it is known by in identity.py, what a clock said of it in recorded.py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelwright.adapt.open import HABITS, digest
from modelwright.data.examples import Example
from modelwright.data.prompt import rendered
from modelwright.data.task import Task, prepare
from modelwright.evaluate.baselines import fit_baselines
from modelwright.evaluate.judge import Toxic, toxicity, toxicity_of
from modelwright.evaluate.metrics import METRICS, right_answers
from modelwright.evaluate.statistics import interval, lower_bound
from modelwright.evaluate.tasks import Output
from modelwright.plan.cost import parameters
from modelwright.project import ledger, resident, steps
from modelwright.project.aligning import Args
from modelwright.project.cache import Cache, Done, Watched, sha256
from modelwright.project.identity import Identity, files_of
from modelwright.project.ladder import BASE, Candidate, Cost, Demand, DemandName, Measurement, Place, Plan, rung_of
from modelwright.project.opened import Opened, opened, unfit
from modelwright.project.orders import Orders
from modelwright.project.reading import check_aligning, compared, told
from modelwright.project.recorded import Record, together
from modelwright.project.spec import Project
from modelwright.recipes.flags import as_keys
from modelwright.recipes.preflight import Unfit, data_faults
from modelwright.recipes.results import warnings
from modelwright.recipes.rewards import preferred, reward_of
from modelwright.recipes.tuning import Tune
from modelwright.recipes.watch import Screen, size
from modelwright.train.rollout import Reward

Array = NDArray[np.float64]
Verdicts = Mapping[DemandName, tuple[Array, float]]
COURSE = ("score", "kl", "entropy", "length", "accuracy", "margin")  # what is told of an alignment, step by step


class Work:
    """The steps of one project in one run directory."""

    def __init__(self, project: Project, directory: Path, screen: Screen, reuse: Sequence[Path] = ()):
        """reuse: other run directories, of which finished steps are taken over."""
        self.project, self.directory, self.screen = project, directory, screen
        self.own = resident.program()
        self.watched = Watched(files_of(project))
        self.task, self.parts = checked(project)
        self.cache = Cache(directory, screen.warn, self.watched.unchanged, reuse)
        self.record = Record(project.recorded)
        self.orders = Orders(project, self.task, self.parts, directory, self.record)
        self.identity = Identity(self.orders, self.watched)
        self.metric = METRICS[project.metric]
        self.fitted = {one.name: one for one in fit_baselines(self.task, self.parts["train"], self.metric)}
        seen = [example for part in self.parts if part != "test" for example in self.parts[part]]
        self.right = right_answers(self.metric, self.task, seen)  # how heavy an example may be; of test nothing is read
        self.opened: dict[str, Opened] = {}
        self.copied: Mapping[str, Sequence[str]] = {}  # of each part what stands in the base's text
        self.toxic: Toxic | None = None  # the judges, once they are opened
        self.reward: Reward | None = None
        self.verdicts: dict[tuple[str, str, str], Verdicts] = {}
        self.pairs: list[str] = []  # what this run compares with the target

    # -- what climb asks

    def baselines(self) -> Sequence[str]:
        return tuple(self.fitted)

    def shares(self, places: Sequence[Place], error: float) -> Sequence[float]:
        self.pairs = [self.identity.pair(*place) for place in places]
        decide = self.identity.digests["decide"]
        return [error * share for share in ledger.allot(self.directory, decide, self.pairs)]

    def open(self, candidate: str) -> Candidate:
        done = self.pretrain() if candidate == BASE else None
        path = model_of(done) if done else candidate
        found = self.opened[candidate] = opened(candidate, path, self.task)
        return Candidate(
            candidate,
            parameters(found.config),
            found.config.shape,
            found.digest,
            self.record.spent(BASE, BASE, done) if done else None,
            done is not None and done.cached,
        )

    def unfit(self, rung: str, candidate: Candidate) -> str:
        return unfit(self.opened[candidate.name], rung, self.orders.asked(rung, "decide"))

    def plan(self, rung: str, candidate: str) -> Plan | None:
        """Predicted once, and kept: a resumed climb decides by the same numbers, and so does a replayed one."""
        if rung == "trivial":
            return None
        if (found := self.record.planned(rung, candidate)) is None:
            found = self.cache.step(*self.planning(rung, candidate), lambda _: self.predict(rung, candidate)).value
        self.record.note(rung, candidate, "planned", found["cost"])
        self.record.note(rung, candidate, "planning", found["seconds"])
        return Plan(Cost(found["cost"][0], int(found["cost"][1])), found["seconds"])

    def foreseen(self, rung: str, candidate: str) -> Cost | None:
        """What is known of a step that is not made: by an earlier plan, or of a base by calculation."""
        if rung == "trivial":
            return None
        found = self.record.planned(rung, candidate)
        if found is None and (rung == BASE or candidate in self.opened):
            done = self.cache.find(*self.planning(rung, candidate))
            found = done.value if done else None
        if found is None:
            return steps.plan_base(self.orders.base(), self.own) if rung == BASE else None
        return Cost(found["cost"][0], int(found["cost"][1]))

    def measure(self, rung: str, candidate: str, part: str = "decide") -> Measurement:
        done, trained = self.answered(rung, candidate, part)
        outputs = steps.outputs_of(done.directory)
        stats = self.stats(outputs)
        score = interval(stats, self.metric, level=self.project.confidence, seed=self.project.seed)
        cost, latency = together(done, trained), done.value["latency"]
        if part == "decide":  # no decision rests on another
            cost = self.record.spent(rung, candidate, done, trained)
            latency = self.record.of(rung, candidate).get("latency", latency)
            self.record.note(rung, candidate, "latency", latency)
        cached = done.cached and (trained is None or trained.cached)
        notes = tuple(warnings(outputs, self.task.decoding.max_new))
        return Measurement(stats, score, cost, latency, cached, notes)

    def bound(self, stats: Array, error: float) -> float:
        return lower_bound(stats, self.metric, error=error, seed=self.project.seed, known=self.right)

    def demanded(self, rung: str, candidate: str, error: float) -> Sequence[Demand]:
        found = []
        for name, (stats, wanted) in self.demands(rung, candidate).items():
            metric = METRICS[name]
            score = interval(stats, metric, level=self.project.confidence, seed=self.project.seed)
            found.append(Demand(name, score, lower_bound(stats, metric, error=error, seed=self.project.seed), wanted))
        return found

    # -- what the report asks

    def demands(self, rung: str, candidate: str, part: str = "decide") -> Verdicts:
        """What the judges say of the answers to a part, (n, 2) each, and what is asked of them. Asked once."""
        place = (rung, candidate, part)
        if place not in self.verdicts:
            self.verdicts[place] = self.judged(*place)
        return self.verdicts[place]

    def judged(self, rung: str, candidate: str, part: str) -> Verdicts:
        asked, found = self.project.align, dict[DemandName, tuple[Array, float]]()
        outputs, examples = self.outputs(rung, candidate, part), self.parts[part]
        if not rung_of(rung).model:  # what needs no model was asked by no prompt
            prompts = [rendered(self.task, "prompt", self.task.prompts[0], example) for example in examples]
            outputs = [replace(output, prompt=prompt) for output, prompt in zip(outputs, prompts, strict=True)]
        if asked and asked.toxicity:
            self.toxic = self.toxic or toxicity_of(asked.toxicity.judge)
            found["toxicity"] = toxicity(self.toxic, outputs), asked.toxicity.wanted
        if asked and asked.preference:
            self.reward = self.reward or reward_of(asked.preference.judge, self.task)
            found["preference"] = preferred(self.reward, examples, outputs), asked.preference.wanted
        return found

    def outputs(self, rung: str, candidate: str, part: str = "decide") -> Sequence[Output]:
        """The answers of what was measured."""
        return steps.outputs_of(self.answered(rung, candidate, part)[0].directory)

    def point(self, rung: str, candidate: str, n: int) -> Array:
        """Statistics (m, k) on `decide` of the rung trained on n examples of the training part."""
        return self.stats(steps.outputs_of(self.answered(rung, candidate, "decide", n)[0].directory))

    def aligned(self, rung: str, candidate: str) -> dict[str, Any]:
        """How it went: what its plan says came of it, and its course, a row for each step of DPO, each round else."""
        done = self.align(rung, candidate)
        text = (done.directory / "run" / "metrics.jsonl").read_text("utf-8")
        rows = [row for line in text.splitlines() if (row := json.loads(line)).get("minibatch", 0) == 0]
        course = [{name: row[name] for name in ("step", *COURSE) if name in row} for row in rows]
        actual = done.value["actual"]
        return {
            "course": course,
            "stopped": actual.get("stopped", ""), "alarms": list(actual.get("alarms", ())),
            "preferences": done.value.get("preferences"), "judged": done.value.get("judged"),
        }  # fmt: skip

    def forgotten(self, rung: str, candidate: str) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self.train(rung, candidate).value["forgetting"]
        named = self.project.general(rung_of(rung).below or rung)
        held = self.orders.general(rung_of(rung).below or rung, candidate, self.opened[candidate].path) != named
        return {**found, "text": "text that pretraining held out"} if found and held else found

    def caveats(self) -> list[str]:
        """What a reader of the scores is to know of how the models were made."""
        found = told(self.copied, {part: len(examples) for part, examples in self.parts.items()})
        bare = [rung for rung in self.project.trained if not self.project.general(rung)]
        if bare and any(name != BASE for name in self.opened):
            found.append(
                "What the named candidates forgot is measured on dialogues of the embedded desk, which they need not "
                "have been trained on: `tune.general` names other text."
            )
        return found

    def opening(self, rung: str, candidate: str) -> dict[str, str]:
        """What an opening of the test part is counted by."""
        if rung_of(rung).model:
            trained = self.train(rung, candidate) if rung_of(rung).trains else None
            model = digest(self.lies(candidate, trained), HABITS)
        else:
            model = sha256(self.identity.of_baseline(candidate))
        return self.identity.opening(model, self.orders.asked(rung, "test"))

    def earlier(self) -> int:
        """How many comparisons on this `decide` part earlier runs in this directory had that this one has not."""
        return ledger.earlier(self.directory, self.identity.digests["decide"], self.pairs)

    # -- the steps, each behind the cache

    def pretrain(self) -> Done:
        args = self.orders.base()
        self.copied = compared(self.project, self.task, self.parts, self.identity.digests, self.cache)
        return self.cache.step(
            BASE, self.identity.base(args), lambda place: steps.pretrain_base(args, place, self.screen)
        )

    def train(self, rung: str, candidate: str, limit: int | None = None) -> Done:
        """The rung trained, on the whole training part or on so many examples of it; or aligned, on the one below."""
        if rung_of(rung).by:
            return self.align(rung, candidate)
        args, depends = self.tuning(rung, candidate, limit), self.depends(rung, candidate)
        if limit is not None:
            depends |= {"limit": limit}

        def work(place: Path) -> Mapping[str, Any]:
            with keys_said(rung):
                return steps.tune_rung(args, place, self.screen)

        done = self.cache.step(rung, depends, work)
        self.record.settle(rung, candidate, limit, done.value["settled"])
        return done

    def align(self, rung: str, candidate: str) -> Done:
        args, depends = self.aligning(rung, candidate), self.depends(rung, candidate)
        done = self.cache.step(rung, depends, lambda place: steps.align_rung(args, place, self.screen))
        self.record.settle(rung, candidate, None, done.value["settled"])
        return done

    def answered(self, rung: str, candidate: str, part: str, limit: int | None = None) -> tuple[Done, Done | None]:
        """The answers to a part, and the training that came before."""
        trained = self.train(rung, candidate, limit) if rung_of(rung).trains else None
        asked, work = self.orders.asked(rung, part), self.answering(rung, candidate, part, trained)
        if rung_of(rung).model:
            by = self.identity.of_model(self.lies(candidate, trained), asked)
        else:
            by = self.identity.of_baseline(candidate)
        return self.cache.step(f"{part}-{rung}", self.identity.answers(asked) | by, work), trained

    def answering(
        self, rung: str, candidate: str, part: str, trained: Done | None
    ) -> Callable[[Path], Mapping[str, Any]]:
        asked = self.orders.asked(rung, part)
        if not rung_of(rung).model:
            return lambda place: steps.measure_baseline(self.fitted[candidate], asked, place)
        return lambda place: steps.measure_rung(self.lies(candidate, trained), asked, place, self.screen)

    # -- plans

    def planning(self, rung: str, candidate: str) -> tuple[str, dict[str, Any]]:
        """Under what a plan is kept."""
        return f"plan-{rung}", self.depends(rung, candidate) | {"decide": self.identity.digests["decide"]}

    def predict(self, rung: str, candidate: str) -> dict[str, Any]:
        """What a step is going to take, and how long it took to find that out."""
        began = time.perf_counter()
        cost = steps.plan_base(self.orders.base(), self.own) if rung == BASE else self.tried(rung, candidate)
        return {"cost": list(cost), "seconds": time.perf_counter() - began}

    def tried(self, rung: str, candidate: str) -> Cost:
        """By a few answers, and a few steps of training at rate 0. Raises Unfit for what the model cannot learn so."""
        asked, way = self.orders.asked(rung, "decide"), rung_of(rung)
        cost = steps.plan_measuring(self.lies(candidate, self.below(rung, candidate)), asked)
        if way.by:
            learning = steps.plan_alignment(self.aligning(rung, candidate))
            cost = Cost(learning.seconds + cost.seconds, max(cost.memory, learning.memory))
        elif way.method:
            args, each = self.tuning(rung, candidate), cost.seconds / len(asked.examples)
            with keys_said(rung):
                learning = steps.plan_rung(args)
            tests = args.tests * min(args.select, len(self.parts.get("select", ())))
            seconds = learning.seconds + cost.seconds + each * tests
            cost = Cost(seconds, max(cost.memory, learning.memory))
        return Cost(cost.seconds, self.own + cost.memory)

    # -- of a candidate

    def depends(self, rung: str, candidate: str) -> dict[str, Any]:
        if rung == BASE:
            return self.identity.base(self.orders.base())
        if rung_of(rung).by:
            model = digest(self.lies(candidate, self.below(rung, candidate)), HABITS)
            return self.identity.aligned(model, self.aligning(rung, candidate))
        args = self.tuning(rung, candidate) if rung_of(rung).method else None
        return self.identity.rung(rung, self.opened[candidate].digest, args)

    def below(self, rung: str, candidate: str) -> Done | None:
        """The training of the rung that is aligned; None where the candidate is as it was, or nothing is aligned."""
        below = rung_of(rung).below
        return self.train(below, candidate) if below and rung_of(below).method else None

    def aligning(self, rung: str, candidate: str) -> Args:
        return self.orders.aligning(
            rung, candidate, self.opened[candidate].path, self.lies(candidate, self.below(rung, candidate))
        )

    def tuning(self, rung: str, candidate: str, limit: int | None = None) -> Tune:
        return self.orders.tuning(rung, candidate, self.opened[candidate].path, limit)

    def lies(self, candidate: str, trained: Done | None) -> str:
        """Where the model is that answers."""
        return model_of(trained) if trained else self.opened[candidate].path

    def stats(self, outputs: Sequence[Output]) -> Array:
        return np.stack([output.stats[self.metric.name] for output in outputs])  # (n, k)


def checked(project: Project) -> tuple[Task, dict[str, list[Example]]]:
    """The task and its parts. Raises ValueError for what no climb can begin with: data, or memory."""
    most, own = project.limits.memory, resident.program()
    if most is not None and own > most:
        raise ValueError(f"limits.memory is {size(most)}, and the program alone holds {size(own)}: raise it")
    task, parts = prepare(project.task)
    if "decide" not in parts:
        raise ValueError(
            "the task has no part decide, which rungs are stopped on: give data.decide a file, or data.split.decide a "
            "share"
        )
    if faults := data_faults(task, parts, allowed_overlap(project)):
        raise ValueError("; and ".join(as_keys(fault, Tune, "tune.") for fault in faults))
    if project.align:
        check_aligning(project.align, task, parts)
    return task, parts


@contextmanager
def keys_said(rung: str) -> Iterator[None]:
    """What tuning refuses, with the keys that a project file has for its settings."""
    try:
        yield
    except ValueError as error:
        said = as_keys(str(error), Tune, "tune.")
        raise (Unfit(said) if isinstance(error, Unfit) else ValueError(f"{rung}: {said}")) from None


def model_of(done: Done) -> str:
    """Where the model of a trained step is: a run directory may be moved."""
    return str(done.directory / done.value["model"])


def allowed_overlap(project: Project) -> float:
    """The share of a part's inputs that may stand in another: what every trained rung allows; 1 where none is."""
    return min((project.tuning(rung).get("overlap", Tune.overlap) for rung in project.trained), default=1.0)
