"""What the report shows beside the table: the test part, a learning curve, outputs, forgetting, how to repeat it."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from modelwright.adapt.open import versions
from modelwright.data.parts import plain
from modelwright.evaluate.metrics import METRICS, Metric
from modelwright.evaluate.statistics import Interval, interval, paired
from modelwright.project.curve import Curve, Point, fit_curve
from modelwright.project.ladder import Climb, Cost, Entry, Tell, nearest, rung_of
from modelwright.project.ledger import open_part
from modelwright.project.profile import profile
from modelwright.project.report import Evidence, short, title
from modelwright.project.spec import SCALES, Project
from modelwright.project.work import Array, Work
from modelwright.recipes.preflight import Unfit
from modelwright.recipes.watch import duration

SHOWN = 6  # examples side by side
FEW = 16  # training examples below which no point of a learning curve is worth its time


def gather(work: Work, climb: Climb, tell: Tell = lambda entries: None) -> Evidence:
    """All of it; `tell` hears of what is trained for it, as of the rungs."""
    test, opened = open_test(work, climb)
    choice = climb.choice if test else None
    curve, why = (None, "") if climb.choice else learning_curve(work, climb, tell)
    return Evidence(
        test=test,
        opened=opened,
        beside=list(beside(work, choice)) if choice else [],
        earlier=work.earlier(),
        curve=curve,
        no_curve=why,
        examples=list(side_by_side(work, climb)),
        alignment=list(alignments(work, climb)),
        forgetting=list(forgetting(work, climb)),
        profile=profile(work.task, work.parts),
        reproduce=reproduction(work, climb),
        caveats=work.caveats(),
    )


# -- the test part -------------------------------------------------------------------------------------------------


def open_test(work: Work, climb: Climb) -> tuple[list[tuple[str, str, Interval]], int]:
    """Scores on the test part, and for how many models it has been opened. It is opened here and nowhere else: for the
    choice and the trivial answers; where there is no choice, it stays closed.
    """
    choice = climb.choice
    if choice is None or "test" not in work.parts:
        return [], 0
    opened = open_part(work.directory, work.opening(choice.rung, choice.candidate))  # written before it is measured
    shown = [entry for entry in climb.entries if entry is choice or (entry.score and entry.rung == "trivial")]
    return [(e.rung, short(e.candidate), work.measure(e.rung, e.candidate, "test").score) for e in shown], opened


def beside(work: Work, choice: Entry) -> Iterator[tuple[str, Interval]]:
    """What is asked of the choice's answers beside the metric, on the test part."""
    for name, (stats, _) in work.demands(choice.rung, choice.candidate, "test").items():
        level, seed = work.project.confidence, work.project.seed
        yield name, interval(stats, METRICS[name], level=level, seed=seed)


# -- the learning curve ----------------------------------------------------------------------------------------------


def learning_curve(work: Work, climb: Climb, tell: Tell = lambda entries: None) -> tuple[Curve | None, str]:
    """What more data would bring to the trained rung that came closest; or why that is not told."""
    trained = [
        entry for entry in climb.entries if entry.score and rung_of(entry.rung).method and not rung_of(entry.rung).by
    ]
    if enough := next(
        (entry for entry in climb.entries if entry.lower is not None and entry.lower >= climb.target), None
    ):
        return None, f"No learning curve was made: {title(enough)} reaches the target, and what is missing is no data."
    project, best = work.project, nearest(trained)
    if best is None or best.score is None or best.actual is None:
        return None, "No rung was trained, so nothing can be said of more data."
    if not project.curve:
        return None, "No learning curve was asked for."
    whole = len(work.parts["train"])
    sizes = [round(share * whole) for share in project.curve]
    if sizes[0] < FEW:
        return None, f"{whole} training examples are too few to take parts of for a learning curve."
    seconds, limit = sum(project.curve) * best.actual.seconds, project.limits.time
    if limit is not None and climb.seconds + seconds > limit:
        left = f"{duration(max(0.0, limit - climb.seconds))} of the limit are left"
        return None, f"A learning curve was not made: it would take {duration(seconds)}, and {left}."
    try:
        points = list(measured_at(sizes, whole, work, climb, best, tell))
    except Unfit as error:  # a part of the examples may hold more of what is refused than the whole
        tell(climb.entries)
        return None, f"A learning curve was not made: {error}."
    points.append(Point(whole, work.measure(best.rung, best.candidate).stats))
    curve = fit_curve(
        points, work.metric.value, project.target, margin=best.score.value - (best.lower or 0.0),
        top=SCALES.get(project.metric, 1.0), level=project.confidence, seed=project.seed,
    )  # fmt: skip
    return curve, ""


def measured_at(sizes: Sequence[int], whole: int, work: Work, climb: Climb, best: Entry, tell: Tell) -> Iterator[Point]:
    """The rung trained on so many of the `whole` examples, each told as the rungs are: as rows below them."""
    cost, rows = best.actual or Cost(0.0, 0), list(climb.entries)
    for n in sizes:
        planned = Cost(cost.seconds * n / whole, cost.memory)
        row = Entry(f"{best.rung} on {n:,} examples", best.candidate, "running", planned=planned)
        tell((*rows, row))
        yield Point(n, work.point(best.rung, best.candidate, n))
        rows.append(replace(row, state="done"))
        tell(tuple(rows))


# -- alignment -------------------------------------------------------------------------------------------------------


def alignments(work: Work, climb: Climb) -> Iterator[dict[str, Any]]:
    """Of each rung that was aligned: what is asked of the answers, and the price in the metric, before and after on the
    same examples; and how the run went."""
    for entry in climb.entries:
        if entry.score and (way := rung_of(entry.rung)).by:
            asked, score = work.project.align, work.metric.name
            assert asked is not None
            before, after = (told_of(work, rung, entry.candidate) for rung in (way.below, entry.rung))
            wanted = {demand.name: demand.wanted for demand in entry.demands} | {score: work.project.target}
            rows = [
                {"name": name, "wanted": wanted[name], **change(before[name], after[name], METRICS[name], work.project)}
                for name in wanted
            ]
            came = work.aligned(entry.rung, entry.candidate)
            yield {
                "rung": entry.rung, "below": way.below, "by": way.by, "candidate": short(entry.candidate), "rows": rows,
                "met": entry.met, "own_judge": asked.own_judge(way.by), "settings": asked.settings(way.by), **came,
            }  # fmt: skip


def told_of(work: Work, rung: str, candidate: str) -> dict[str, Array]:
    """Under each name the statistics (n, k) of a rung's answers to `decide`."""
    found: dict[str, Array] = {name: stats for name, (stats, _) in work.demands(rung, candidate).items()}
    return found | {work.metric.name: work.stats(work.outputs(rung, candidate))}


def change(before: Array, after: Array, metric: Metric, project: Project) -> dict[str, Any]:
    level, seed = project.confidence, project.seed
    one, other = (asdict(interval(stats, metric, level=level, seed=seed)) for stats in (before, after))
    apart = paired(after, before, metric, level=level, seed=seed)
    return {"before": one, "after": other, "difference": asdict(apart.difference), "p": apart.p}


# -- outputs ---------------------------------------------------------------------------------------------------------


def compared(climb: Climb) -> list[Entry]:
    """Whose answers stand side by side: the best trivial one, the first model asked with no example, and the choice,
    beside what it was before it was aligned; where there is no choice, the model that came closest, though a trivial
    answer may have come closer, and what it became when it was aligned."""
    measured = [entry for entry in climb.entries if entry.score]
    trivial = nearest(e for e in measured if e.rung == "trivial")
    asked = next((e for e in measured if e.rung == "zero-shot"), None)
    best = climb.choice or nearest(e for e in measured if e.rung != "trivial")
    below = best and rung_of(best.rung).below
    before = next((e for e in measured if best and (e.rung, e.candidate) == (below, best.candidate)), None)
    after = [e for e in measured if not climb.choice and best and rung_of(e.rung).below == best.rung]
    found: list[Entry] = []
    for entry in (trivial, asked, before, best, *after):
        if entry is not None and entry not in found:
            found.append(entry)
    return found


def side_by_side(work: Work, climb: Climb) -> Iterator[dict[str, Any]]:
    entries = compared(climb)
    answers = [work.outputs(entry.rung, entry.candidate) for entry in entries]
    examples = work.parts["decide"]
    for at in range(0, len(examples), -(-len(examples) // SHOWN)):
        example = examples[at]
        outputs = [
            {
                "name": title(entry),
                "text": words(given[at].prediction),
                "score": float(work.metric.value(given[at].stats[work.metric.name])),
            }
            for entry, given in zip(entries, answers, strict=True)
        ]
        yield {
            "id": example.id,
            "input": plain(work.task, example),
            "reference": words(work.task.reference(example)),
            "required": list(example.fields.get("required", [])),
            "outputs": outputs,
        }


def words(said: str | Sequence[str]) -> str:
    return said if isinstance(said, str) else " ".join(said)


def forgetting(work: Work, climb: Climb) -> Iterator[dict[str, Any]]:
    """The loss on general text before and after, of every rung that was trained."""
    for entry in climb.entries:
        if entry.score and rung_of(entry.rung).trains:
            found = work.forgotten(entry.rung, entry.candidate)
            if found is None:  # a base with a head over labels has no loss on text
                continue
            change = found["bits"]
            yield {
                "rung": entry.rung,
                "candidate": short(entry.candidate),
                "unit": f"bits per byte, {found['text']}",
                **{name: change[name] for name in ("before", "after", "difference")},
            }


# -- how to repeat it ------------------------------------------------------------------------------------------------


def reproduction(work: Work, climb: Climb) -> dict[str, Any]:
    project = work.project
    source, replay = (shlex.quote(str(path)) for path in (project.path or "project.yaml", work.directory / "run.yaml"))
    models = {f"model {short(name)}": found.digest for name, found in work.opened.items()}
    return {
        "commands": [
            f"modelwright run {source} --output {shlex.quote(str(work.directory))}    # goes on, or shows this again",
            f"modelwright run {replay} --output OTHER    # the same bits, from nothing",
        ],
        "seeds": {"seed": project.seed},
        "versions": versions(),
        "machine": machine(),
        "digests": {f"{part} part": digest for part, digest in work.identity.digests.items()} | models,
    }


def machine() -> Mapping[str, Any]:
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processor": processor(),
    }


def processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "unknown")
