"""The recipes as a project calls them: pretrain a base, tune a rung, measure one. Each leaves files and plain values.

This is the one place where a project meets the recipes. A run that was stopped goes on from its own checkpoints; what
came of it is what `modelwright pretrain`, `tune` and `evaluate` would have made with the same settings.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml

from modelwright.adapt.merge import merge_adapter
from modelwright.adapt.open import is_adapter, open_model
from modelwright.data.examples import Example
from modelwright.data.prompt import Prompt, Prompter
from modelwright.data.shots import How, choose_shots
from modelwright.data.task import Task
from modelwright.evaluate.baselines import Baseline
from modelwright.evaluate.scorer import ModelScorer
from modelwright.evaluate.tasks import Outcome, Output, answers, judge, measure, metrics_of, score_all
from modelwright.hub.open import LanguageModel
from modelwright.plan import memory
from modelwright.plan.cost import parameters
from modelwright.project import resident
from modelwright.project.aligning import Args
from modelwright.project.ladder import Cost
from modelwright.recipes import options, results, tuning
from modelwright.recipes.dpo import Dpo, dpo
from modelwright.recipes.evaluate import prompter_of, rated
from modelwright.recipes.flags import as_keys
from modelwright.recipes.options import PLAN, SETTINGS, NotResumable, Pretrain, Settings
from modelwright.recipes.policies import policy
from modelwright.recipes.preflight import Unfit
from modelwright.recipes.pretrain import SHARE, VOCAB, choose_precision, make_plan, pretrain
from modelwright.recipes.tune import tune
from modelwright.recipes.tuning import Tune
from modelwright.recipes.watch import Screen

Tuned = TypeVar("Tuned", bound=Tune | Args)

OUTCOME = "outcome"
PAIRS, JUDGES = ("pairs", "held_out"), ("reward", "gold", "toxicity")  # settings that name files
PROBED = 8  # examples that are answered to know how long all will take
SINGLE = 5  # examples that are answered one at a time, to know how long one takes
ROWS = 32  # that are written at once
HAND = ("width", "layers", "heads", "kv_heads", "ffn", "context")


# -- training ------------------------------------------------------------------------------------------------------


def finished(run: Path) -> dict[str, Any] | None:
    """What came of a run that ended, or None. One that can neither be used nor gone on with is removed."""
    try:
        came: dict[str, Any] = json.loads((run / PLAN).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        came = {}
    if "actual" in came and (run / "model").is_dir():
        return came
    if (run / "model").exists() or not came or not (run / SETTINGS).exists():
        shutil.rmtree(run, ignore_errors=True)
    return None


def gone_on(run: Path, again: Callable[[], dict[str, Any]], screen: Screen) -> dict[str, Any] | None:
    """What comes of a run that was stopped; None where there is none. One that cannot go on is removed, and that said.

    Where things lie is no part of it: directories may have been moved since.
    """
    if not run.exists():
        return None
    try:
        return again()
    except NotResumable as error:
        screen.warn(f"{run} was stopped, and cannot go on: {error.why}; it is made anew")
        shutil.rmtree(run)
        return None


def new(args: Settings, run: Path) -> Settings:
    """The settings of a run that begins."""
    run.mkdir(parents=True)
    told: Any = args
    begun: Settings = dataclasses.replace(told, output=run)
    return begun


def plan_base(args: Pretrain, own: int) -> Cost:
    """What pretraining is going to take, before its text is read; `own`: bytes that the program itself holds."""
    precision, peak = choose_precision(args.precision)
    found = make_plan(args, args.vocab or VOCAB, precision, SHARE * peak)
    return Cost(found.seconds, own + found.memory.total)


def pretrain_base(args: Pretrain, directory: Path, screen: Screen) -> dict[str, Any]:
    """Pretrain in `directory`/run -> where the model is, what it took, and the settings that ask no clock."""
    run, began, held = directory / "run", time.perf_counter(), resident.begin()

    def again() -> dict[str, Any]:
        begun = options.check(Pretrain(resume=True, output=run, json=True))
        return pretrain(dataclasses.replace(begun, data=args.data, tokenizer=args.tokenizer), screen)

    came = finished(run) or gone_on(run, again, screen) or pretrain(new(args, run), screen)
    settings = yaml.safe_load((run / SETTINGS).read_text("utf-8"))
    planned = came["predicted"]
    settled = {name: planned["config"][name] for name in HAND}
    settled |= {name: planned[name] for name in ("steps", "accumulate", "warmup", "rate", "matrix_rate")}
    settled |= {"batch": planned["rows"] * (planned["length"] + planned["source"]), "precision": settings["precision"]}
    for name in ("checkpoints", "shards"):
        shutil.rmtree(run / name, ignore_errors=True)
    return taken(came, began, held, run) | {"settled": settled}


def settle_base(args: Pretrain, settled: Mapping[str, Any]) -> Pretrain:
    """The same run with what a clock decided said by hand."""
    return dataclasses.replace(args, size=None, time=None, **settled) if settled else args


def plan_rung(args: Tune) -> Cost:
    """What a tuning run is going to take, from a few steps of it at rate 0; memory beside the program's own."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        came = tune(dataclasses.replace(args, output=Path(scratch), dry_run=True), Screen(quiet=True))
    before = time.perf_counter() - began  # what comes before the first step, and comes again
    return Cost(before + came["predicted"]["seconds"], int(came["predicted"]["memory"]))


def tune_rung(args: Tune, directory: Path, screen: Screen) -> dict[str, Any]:
    """Tune in `directory`/run -> where the model is, what it took, what it forgot, and what a clock decided."""
    run, began, held = directory / "run", time.perf_counter(), resident.begin()

    def again() -> dict[str, Any]:
        begun = tuning.check(Tune(resume=True, output=run, json=True))
        return tune(dataclasses.replace(begun, model=args.model, task=args.task, general=args.general), screen)

    came = finished(run) or gone_on(run, again, screen) or tune(new(args, run), screen)
    settings = yaml.safe_load((run / SETTINGS).read_text("utf-8"))
    settled = {name: came["predicted"][name] for name in ("steps", "rows", "accumulate")}
    settled |= {"precision": settings["precision"]}
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    return taken(came, began, held, run) | {"settled": settled, "forgetting": came["forgetting"]}


def settle_rung(args: Tuned, settled: Mapping[str, Any]) -> Tuned:
    """The same run with what a clock decided said by hand."""
    changes: dict[str, Any] = dict(settled)
    if settled and hasattr(args, "time"):
        changes["time"] = None
    return dataclasses.replace(args, **changes)


# -- aligning ------------------------------------------------------------------------------------------------------


@contextmanager
def plain(model: str, directory: Path) -> Iterator[str]:
    """A model directory in which all weights are one: an adapter is merged with its base, for a while."""
    merged = directory / "below"
    if not is_adapter(Path(model)):
        yield model
        return
    if not merged.exists():
        try:
            merge_adapter(model, merged)
        except ValueError as error:
            raise Unfit(str(error)) from None
    yield str(merged)
    shutil.rmtree(merged)


def plan_alignment(args: Args) -> Cost:
    """What aligning is going to take, from a few steps of it; memory beside the program's own."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch, plain(args.model, Path(scratch)) as model:
        came = aligned(
            dataclasses.replace(args, model=model, output=Path(scratch) / "run", dry_run=True), Screen(quiet=True)
        )
    before = time.perf_counter() - began
    predicted = came["predicted"]
    return Cost(before + predicted["seconds"] + predicted.get("answering", 0.0), int(predicted["memory"]))


def align_rung(args: Args, directory: Path, screen: Screen) -> dict[str, Any]:
    """Align in `directory`/run -> where the model is, whole and without an adapter, what it took, what came of it."""
    run, whole, began, held = directory / "run", directory / "model", time.perf_counter(), resident.begin()
    with plain(args.model, directory) as model:
        args = dataclasses.replace(args, model=model)

        def again() -> dict[str, Any]:
            begun = options.resumed(type(args)(resume=True, output=run, json=True))
            moved = ("model", "task", "general", *(PAIRS if isinstance(args, Dpo) else JUDGES))
            lies: dict[str, Any] = {name: getattr(args, name) for name in moved}
            return aligned(dataclasses.replace(begun, **lies), screen)

        if (came := finished(run)) is None:
            shutil.rmtree(whole, ignore_errors=True)  # of another run
            came = gone_on(run, again, screen) or aligned(new(args, run), screen)
        if is_adapter(run / "model") and not whole.exists():
            merge_adapter(run / "model", whole)
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    settled: dict[str, Any] = {"precision": yaml.safe_load((run / SETTINGS).read_text("utf-8"))["precision"]}
    if isinstance(args, Dpo):
        settled |= {name: came["predicted"][name] for name in ("steps", "rows", "accumulate")}
    told: dict[str, Any] = {
        name: came[name] for name in ("actual", "judged", "preferences", "forgetting") if name in came
    }
    lies = {"model": whole.name} if whole.exists() else {}
    return taken(came, began, held, run) | {"settled": settled, **told, **lies}


def aligned(args: Args, screen: Screen) -> dict[str, Any]:
    """Raises Unfit for what this model, these prompts or these pairs do not allow: another rung may."""
    try:
        return dpo(args, screen) if isinstance(args, Dpo) else policy(args, screen)
    except NotResumable:
        raise
    except ValueError as error:
        raise Unfit(as_keys(str(error), type(args), "align.")) from None


def taken(came: Mapping[str, Any], began: float, held: int, run: Path) -> dict[str, Any]:
    """Seconds of this sitting, or of all where there were several; and the most memory."""
    seconds = max(time.perf_counter() - began, came["actual"]["seconds"])
    return {"model": f"{run.name}/model", "seconds": seconds, "memory": resident.grown(held)}


# -- measuring -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is measured: examples of a part, with shots of the training part before each."""

    task: Task
    part: str
    examples: Sequence[Example]
    train: Sequence[Example]
    shots: int
    seed: int
    choose: How = "seed"
    template: int = 0  # which of the task's prompts

    def shown(self, example: Example) -> Sequence[Example]:
        if not self.shots:
            return ()
        return choose_shots(self.train, example, self.shots, how=self.choose, seed=self.seed, task=self.task)

    def how(self) -> dict[str, Any]:
        """All that is asked but the examples."""
        beside = ("task", "part", "examples", "train")
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in beside}

    def prompts(self, prompter: Prompter) -> list[Prompt]:
        return [prompter.prompt(example, self.shown(example), template=self.template) for example in self.examples]


def crowded(prompter: Prompter, asked: Asked) -> str:
    """Why a context is too short to be asked in this way, or nothing: the prompt leaves the input no room, or the
    examples before it are not more than those of a lower rung."""
    try:
        fit = max(prompt.shots for prompt in asked.prompts(prompter))
    except ValueError as error:
        return str(error)
    if fit >= min(asked.shots, 2):
        return ""
    return f"{('no', 'no more than one')[fit]} example fits in {prompter.context} tokens"


def measure_rung(model: str, asked: Asked, directory: Path, screen: Screen) -> dict[str, Any]:
    """Answer the part's examples; outputs and scores stay in `directory`/outcome."""
    began, held = time.perf_counter(), resident.begin()
    lm = open_model(model)
    scorer, prompter = ModelScorer(lm), prompter_of(asked.task, lm)
    with rated(screen, "measuring", len(asked.examples)) as told:
        outcome = measure(
            scorer, asked.task, prompter, asked.examples,
            part=asked.part, shots=asked.shown, template=asked.template, seed=asked.seed, told=told,
        )  # fmt: skip
    keep(outcome, model, asked, directory)
    return {
        "latency": latency(lm, scorer, asked),
        "seconds": time.perf_counter() - began,
        "memory": resident.grown(held),
    }


def latency(lm: LanguageModel, scorer: ModelScorer, asked: Asked) -> float:
    """Seconds of one answer, asked alone: the middle of a few."""
    prompter, found = prompter_of(asked.task, lm), []
    for example in asked.examples[:SINGLE]:
        prompts = [prompter.prompt(example, asked.shown(example), template=asked.template)]
        began = time.perf_counter()
        answers(scorer, asked.task, prompter, [example], prompts, asked.seed)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def measure_baseline(baseline: Baseline, asked: Asked, directory: Path) -> dict[str, Any]:
    """The same of an answer that needs no model."""
    began, held = time.perf_counter(), resident.begin()
    metrics = metrics_of(asked.task, asked.examples)
    predictions = [baseline.predict(example) for example in asked.examples]
    outputs = tuple(
        Output(example.id, "", said, asked.task.reference(example), judge(metrics, asked.task, example, said))
        for example, said in zip(asked.examples, predictions, strict=True)
    )
    scores = score_all(metrics, [output.stats for output in outputs], asked.seed)
    seconds = time.perf_counter() - began
    keep(Outcome("", asked.part, outputs, scores, metrics[0].name, seconds, 0), baseline.name, asked, directory)
    return {"latency": None, "seconds": seconds, "memory": resident.grown(held)}


def keep(outcome: Outcome, model: str, asked: Asked, directory: Path) -> None:
    said = {"data": results.data_digest(asked.task, asked.examples), "shots": asked.shots, "seed": asked.seed}
    results.save(directory / OUTCOME, results.result(outcome, model, said), outcome.outputs)


def outputs_of(directory: Path) -> Sequence[Output]:
    return results.read_saved(directory / OUTCOME).outputs


def plan_measuring(model: str, asked: Asked) -> Cost:
    """What answering is going to take, from a few of the examples; memory beside the program's own."""
    start = time.perf_counter()
    lm = open_model(model)
    cfg, few = lm.model.cfg, asked.examples[:PROBED]
    if cfg.shape == "encoder" and cfg.labels is None:
        return Cost(0.0, 4 * parameters(cfg))
    scorer, prompter = ModelScorer(lm), prompter_of(asked.task, lm)
    began = time.perf_counter()
    measure(
        scorer, asked.task, prompter, few,
        part=asked.part, shots=asked.shown, template=asked.template, seed=asked.seed,
    )  # fmt: skip
    each = (time.perf_counter() - began) / len(few)
    seconds = (began - start) + each * len(asked.examples)
    held = memory.inference(cfg, min(ROWS, len(asked.examples)), cfg.context, cfg.encoder.context if cfg.encoder else 0)
    return Cost(seconds, held.total + held.weights)  # the model as it was opened, and packed for writing
