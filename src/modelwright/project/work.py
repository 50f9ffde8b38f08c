"""A project's steps on real models, each behind the cache: what `climb` asks, and what the report asks besides.

What a step is told is in orders.py, what it is known by in identity.py, what a clock said of it in recorded.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelwright.adapt.open import HABITS, digest
from modelwright.data.examples import Example
from modelwright.data.task import Task, prepare
from modelwright.evaluate.baselines import fit_baselines
from modelwright.evaluate.metrics import METRICS, right_answers
from modelwright.evaluate.statistics import interval, lower_bound
from modelwright.evaluate.tasks import Output
from modelwright.plan.cost import parameters
from modelwright.project import ledger, resident, steps
from modelwright.project.cache import Cache, Done, Watched, sha256
from modelwright.project.identity import Identity, files_of
from modelwright.project.ladder import BASE, RUNGS, Candidate, Cost, Measurement, Place, Plan
from modelwright.project.opened import Opened, opened, unfit
from modelwright.project.orders import Orders
from modelwright.project.reading import compared, told
from modelwright.project.recorded import Record, together
from modelwright.project.spec import Project
from modelwright.recipes.flags import as_keys
from modelwright.recipes.preflight import Unfit, data_faults
from modelwright.recipes.results import warnings
from modelwright.recipes.tuning import Tune
from modelwright.recipes.watch import Screen, size

Array = NDArray[np.float64]


class Work:
    """The steps of one project in one run directory."""

    def __init__(self, project: Project, directory: Path, screen: Screen):
        self.project, self.directory, self.screen = project, directory, screen
        self.own = resident.program()
        self.watched = Watched(files_of(project))
        self.task, self.parts = checked(project)
        self.cache = Cache(directory, screen.warn, self.watched.unchanged)
        self.record = Record(project.recorded)
        self.orders = Orders(project, self.task, self.parts, directory, self.record)
        self.identity = Identity(self.orders, self.watched)
        self.metric = METRICS[project.metric]
        self.fitted = {one.name: one for one in fit_baselines(self.task, self.parts["train"], self.metric)}
        seen = [example for part in self.parts if part != "test" for example in self.parts[part]]
        self.right = right_answers(self.metric, self.task, seen)  # how heavy an example may be; of test nothing is read
        self.opened: dict[str, Opened] = {}
        self.copied: Mapping[str, Sequence[str]] = {}  # of each part what stands in the base's text
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

    # -- what the report asks

    def outputs(self, rung: str, candidate: str, part: str = "decide") -> Sequence[Output]:
        """The answers of what was measured."""
        return steps.outputs_of(self.answered(rung, candidate, part)[0].directory)

    def point(self, rung: str, candidate: str, n: int) -> Array:
        """Statistics (m, k) on `decide` of the rung trained on n examples of the training part."""
        return self.stats(steps.outputs_of(self.answered(rung, candidate, "decide", n)[0].directory))

    def forgotten(self, rung: str, candidate: str) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self.train(rung, candidate).value["forgetting"]
        named = self.project.general(rung)
        held = self.orders.general(rung, candidate, self.opened[candidate].path) != named
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
        if RUNGS[rung].model:
            trained = self.train(rung, candidate) if RUNGS[rung].method else None
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
        """The rung trained, on the whole training part or on so many examples of it."""
        args, depends = self.tuning(rung, candidate, limit), self.depends(rung, candidate)
        if limit is not None:
            depends |= {"limit": limit}

        def work(place: Path) -> Mapping[str, Any]:
            with keys_said(rung):
                return steps.tune_rung(args, place, self.screen)

        done = self.cache.step(rung, depends, work)
        self.record.settle(rung, candidate, limit, done.value["settled"])
        return done

    def answered(self, rung: str, candidate: str, part: str, limit: int | None = None) -> tuple[Done, Done | None]:
        """The answers to a part, and the training that came before."""
        trained = self.train(rung, candidate, limit) if RUNGS[rung].method else None
        asked, work = self.orders.asked(rung, part), self.answering(rung, candidate, part, trained)
        if RUNGS[rung].model:
            by = self.identity.of_model(self.lies(candidate, trained), asked)
        else:
            by = self.identity.of_baseline(candidate)
        return self.cache.step(f"{part}-{rung}", self.identity.answers(asked) | by, work), trained

    def answering(
        self, rung: str, candidate: str, part: str, trained: Done | None
    ) -> Callable[[Path], Mapping[str, Any]]:
        asked = self.orders.asked(rung, part)
        if not RUNGS[rung].model:
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
        asked = self.orders.asked(rung, "decide")
        cost = steps.plan_measuring(self.opened[candidate].path, asked)
        if RUNGS[rung].method:
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
        args = self.tuning(rung, candidate) if RUNGS[rung].method else None
        return self.identity.rung(rung, self.opened[candidate].digest, args)

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
