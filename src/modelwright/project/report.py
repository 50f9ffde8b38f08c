"""The report as data: what was decided, on what evidence, at what cost. `report.json` holds it, `page.py` shows it.

It is built of what the climb found and of nothing else, so that it can be built again from the run directory; every
sentence in it follows from the numbers beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from modelwright.evaluate.statistics import Interval
from modelwright.project.curve import Curve
from modelwright.project.ladder import BASE, RUNGS, Climb, Cost, Entry, rung_of
from modelwright.project.spec import SCALES, Project
from modelwright.recipes.watch import moment, size, thousands

FORMAT = 3
BESIDE = {"toxicity": "are toxic", "preference": "are preferred to the reference"}


@dataclass(frozen=True)
class Evidence:
    """What the report shows beside the table of rungs."""

    test: Sequence[tuple[str, str, Interval]] = ()  # rung, candidate, score on the test part
    beside: Sequence[tuple[str, Interval]] = ()  # what else is asked, of the choice's answers to the test part
    opened: int = 1  # how many models the test part has been opened for, ever
    earlier: int = 0  # comparisons on the decide part that earlier runs had, and this one has not
    curve: Curve | None = None
    no_curve: str = ""  # why there is none
    examples: Sequence[Mapping[str, Any]] = ()  # id, input, reference, required, outputs: [{name, text, score}]
    alignment: Sequence[Mapping[str, Any]] = ()  # see evidence.alignments
    forgetting: Sequence[Mapping[str, Any]] = ()  # rung, candidate, unit, before, after, difference (intervals)
    profile: Mapping[str, Any] = field(default_factory=dict)
    reproduce: Mapping[str, Any] = field(default_factory=dict)  # commands, seeds, digests, versions, machine
    caveats: Sequence[str] = ()  # of how the models were made


def build(project: Project, climb: Climb, evidence: Evidence, *, everything: bool = False) -> dict[str, Any]:
    """The whole report: JSON's types alone."""
    return {
        "format": FORMAT,
        "name": project.name,
        "task": {"name": project.task.name, "kind": project.task.kind},
        "metric": project.metric,
        "scale": SCALES.get(project.metric, 1.0),
        "target": project.target,
        "confidence": project.confidence,
        "comparisons": climb.comparisons,
        "earlier": evidence.earlier,
        "limits": {name: value for name, value in asdict(project.limits).items() if value is not None},
        "decision": decision(project, climb, evidence),
        "spared": spared(climb, everything),
        "entries": [entry_said(entry, climb) for entry in climb.entries],
        "seconds": climb.seconds,
        "test": [{"rung": rung, "candidate": name, "score": asdict(score)} for rung, name, score in evidence.test],
        "curve": asdict(evidence.curve) if evidence.curve else None,
        "examples": [dict(example) for example in evidence.examples],
        "alignment": [dict(one) for one in evidence.alignment],
        "forgetting": [dict(row) for row in evidence.forgetting],
        "profile": dict(evidence.profile),
        "reproduce": dict(evidence.reproduce),
        "caveats": list(caveats(project, climb, evidence)),
    }


# -- the decision ------------------------------------------------------------------------------------------------


def decision(project: Project, climb: Climb, evidence: Evidence) -> dict[str, Any]:
    """One sentence for whoever decides, and the reasons."""
    choice = climb.choice
    said: dict[str, Any] = {"met": choice is not None, "reasons": list(reasons(climb))}
    if choice:
        said |= {"sentence": chosen(project, choice), "rung": choice.rung, "candidate": choice.candidate}
        said["test"] = tested(project, choice, evidence)
    else:
        said["sentence"] = unmet(project, climb)
        said["more"] = evidence.curve.said if evidence.curve else evidence.no_curve
    return said


def chosen(project: Project, entry: Entry) -> str:
    assert entry.score
    assert entry.lower is not None
    beside = "".join(f" Of {entry.score.n:,} answers {demand.said}." for demand in entry.demands)
    return (
        f"Take {title(entry)}: its {project.metric} is {number(entry.score.value)} on {entry.score.n:,} examples it "
        f"had not seen, and at least {number(entry.lower)} with {project.confidence:.0%} confidence; the target is "
        f"{project.target:g}.{beside}"
    )


def unmet(project: Project, climb: Climb) -> str:
    closest = climb.closest
    good = [e for e in climb.entries if e.lower is not None and e.lower >= project.target and not e.met]
    if over := max(good, key=lambda entry: bool(rung_of(entry.rung).by), default=None):  # the first; what is aligned
        return f"No rung meets the target within the limits: {title(over)} reaches it, but {over.reason}."
    if closest is None or closest.score is None:
        return f"No rung meets the target of {project.target:g}: none could be measured."
    score = closest.score
    return (
        f"No rung meets the target of {project.target:g} in {project.metric}: {title(closest)} came closest, with "
        f"{number(score.value)} ({number(score.low)} to {number(score.high)})."
    )


def tested(project: Project, entry: Entry, evidence: Evidence) -> str:
    """What the test part says of the choice, and how new its examples are."""
    new = "which nothing was chosen on"
    if evidence.opened > 1:
        new = f"which was opened for {count(evidence.opened - 1, 'other model')} before it and may have led to it"
    for rung, candidate, score in evidence.test:
        if (rung, candidate) == (entry.rung, short(entry.candidate)):
            return (
                f"On the test part, {new}, it scores {number(score.value)} "
                f"({number(score.low)} to {number(score.high)}, {score.n:,} examples)."
                + "".join(f" Of its answers there {spread(BESIDE[name], one)}." for name, one in evidence.beside)
            )
    return ""


def spread(what: str, score: Interval) -> str:
    return f"{number(score.value)} {what} ({number(score.low)} to {number(score.high)})"


def reasons(climb: Climb) -> Iterator[str]:
    """Why the rungs below were not enough, one after the other."""
    last = len(climb.entries) if climb.chosen is None else climb.chosen + 1
    for entry in climb.entries[:last]:
        if entry.rung == BASE and entry.state != "skipped":
            continue
        if entry.state == "skipped":
            yield f"{title(entry)} was not tried: {entry.reason}."
        elif entry.score and entry.lower is not None:
            against = "meets" if entry.lower >= climb.target else "is below"
            but = f", but {entry.reason}" if entry.reason else ""
            noted = "".join(f" ({note})" for note in entry.notes)
            yield (
                f"{title(entry)} scores {number(entry.score.value)}; its lower bound of {number(entry.lower)} "
                f"{against} {climb.target:g}{but}.{noted}"
            )


def title(entry: Entry) -> str:
    names = {"trivial": f"the trivial answer {entry.candidate}", BASE: "pretraining the base"}
    return names.get(entry.rung, f"{entry.rung} on {short(entry.candidate)}")


def short(candidate: str) -> str:
    """A run's model by the run's name: runs/mine/model -> mine; another directory by its last two names."""
    names = candidate.rstrip("/").split("/")
    if len(names) < 3:  # a hub id, or short as it is
        return candidate
    return names[-2] if names[-1] == "model" else "/".join(names[-2:])


def number(value: float) -> str:
    """Three digits behind the point; one on a scale of a hundred."""
    return f"{value:.3f}" if abs(value) <= 1 else f"{value:.1f}"


# -- what was not spent --------------------------------------------------------------------------------------------


def spared(climb: Climb, everything: bool) -> dict[str, Any]:
    """The rungs above the choice: those that were not climbed, or under `--climb all` need not have been."""
    if climb.chosen is None:
        return {"sentence": "Nothing was spared: every rung within the limits was tried.", "rungs": 0, "seconds": 0.0}
    above = [entry for entry in climb.entries[climb.chosen + 1 :] if entry.state in ("spared", "done")]
    known = [cost for entry in above if (cost := entry.actual or entry.planned)]
    seconds, memory = sum(cost.seconds for cost in known), max((cost.memory for cost in known), default=0)
    amount = f"{moment(seconds)} of computing and {size(memory)} of memory at the worst moment"
    if not above:
        said = "Nothing was spared: the choice is the last rung of the ladder."
    elif everything:
        said = f"Stopping at the choice would have spared {count(len(above), 'step')} ({amount}); all were asked for."
    elif len(known) == len(above):
        said = f"Not spent: {count(len(above), 'step')} above the choice, planned at {amount}."
    elif known:
        said = (
            f"Not spent: {count(len(above), 'step')} above the choice; {len(known)} of them were planned, at {amount}."
        )
    else:
        said = f"Not spent: {count(len(above), 'step')} above the choice; what they would have cost was not planned."
    return {"sentence": said, "rungs": len(above), "seconds": seconds, "memory": memory}


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


# -- the table -----------------------------------------------------------------------------------------------------


def entry_said(entry: Entry, climb: Climb) -> dict[str, Any]:
    candidate = climb.candidates.get(entry.candidate)
    line = "pretrained from scratch" if entry.rung == BASE else rung_of(entry.rung).line
    return {
        "rung": entry.rung,
        "line": line,
        "candidate": short(entry.candidate),
        "parameters": thousands(candidate.parameters) if candidate else "",
        "state": entry.state,
        "cached": entry.cached,
        "reason": entry.reason,
        "notes": list(entry.notes),
        "planned": cost_said(entry.planned),
        "planning": entry.planning,
        "actual": cost_said(entry.actual),
        "score": asdict(entry.score) if entry.score else None,
        "lower": entry.lower,
        "demands": [demand._asdict() | {"score": asdict(demand.score), "met": demand.met} for demand in entry.demands],
        "latency": entry.latency,
        "met": entry.met,
        "chosen": climb.choice is entry,
    }


def cost_said(cost: Cost | None) -> dict[str, float] | None:
    return cost._asdict() if cost else None


# -- what the reader must know ---------------------------------------------------------------------------------------


def caveats(project: Project, climb: Climb, evidence: Evidence) -> Iterator[str]:
    """What these numbers do not say."""
    measured = [entry for entry in climb.entries if entry.score]
    if measured and (widest := max(measured, key=lambda e: e.score.high - e.score.low if e.score else 0)).score:
        score = widest.score
        yield (
            f"Every score on the decide part is of {score.n:,} examples, and an interval is up to "
            f"{number(score.high - score.low)} wide ({title(widest)}). More examples would make it narrower."
        )
    yield from shared(climb, evidence)
    yield "Each rung was trained once, from one seed: what another seed would have changed is in no interval."
    if BASE in climb.candidates:
        yield "The cost of the base is counted once, though every rung stands on it."
    if climb.chosen is None:
        yield "The test part was not opened, since there was no choice to report: it is as new for the next attempt."
    elif evidence.opened == 0:
        yield "There is no test part: no score is of data that nothing was chosen on."
    elif evidence.opened > 1:
        yield (
            f"The test part has been opened for {evidence.opened} different models in this directory: its scores are "
            "no longer those of data that nothing was chosen on."
        )
    for overlap in evidence.profile.get("overlap", []):
        one, other = overlap["parts"]
        both = f"{count(overlap['examples'], 'input')} of the {other} part stand in the {one} part too"
        yield f"{both} ({', '.join(overlap['named'])})."
    if project.align:
        judges = [short(one.judge) for one in (project.align.toxicity, project.align.preference) if one]
        yield f"What is toxic or preferred is so to {' and '.join(judges)}: what a judge errs in is in no interval."
    yield from evidence.caveats
    untried = [title(entry) for entry in climb.entries if entry.state in ("skipped", "spared")]
    if untried:
        yield f"Not tried: {', '.join(untried)}."
    missing = [name for name in RUNGS if name not in project.ladder]
    if missing:
        yield f"Not on the ladder: {', '.join(missing)}."
    yield "Times and memory are of this machine, whatever else it did meanwhile."


def shared(climb: Climb, evidence: Evidence) -> Iterator[str]:
    """What the comparisons with the target may err, those of earlier runs on the same examples among them."""
    yield (
        f"{count(climb.comparisons, 'comparison')} with the target could be made, each with its share of an error of "
        f"{climb.error:.2g}: a choice that does not meet the target is made with at most that probability, if the "
        "examples are independent draws of what the model will meet."
    )
    if evidence.earlier:
        yield (
            f"Earlier runs in this directory had {count(evidence.earlier, 'other comparison')} on the same decide "
            "part, and what is new in this run has a smaller share of the error for it. What was changed because of "
            "the scores on that part is beyond such counting: new examples are surer."
        )
