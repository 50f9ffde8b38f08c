"""`modelwright run`: a project climbed, from project.yaml to report.html.

1. the project file    validated whole
2. the data            read, divided, and watched for changes
3. the climb           rung by rung, each step behind the cache
4. the evidence        the test part opened once, a learning curve where the target is not met
5. the report          report.json, report.html, and run.yaml, which makes the same bits again
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
import yaml

from modelwright.data.kind import PARTS
from modelwright.project.evidence import gather
from modelwright.project.ladder import BASE, climb
from modelwright.project.report import build
from modelwright.project.resolve import replayable
from modelwright.project.show import PAGE, write_report
from modelwright.project.spec import Project, read_project
from modelwright.project.view import View
from modelwright.project.work import Work, checked
from modelwright.recipes.flags import parse
from modelwright.recipes.run import alone_in
from modelwright.recipes.watch import Screen, duration, size, thousands, write_whole
from modelwright.train.interrupt import Interrupted
from modelwright.train.loop import Diverged
from modelwright.train.state import NotSaved

RUN = "run.yaml"
UNMET = 1  # exit code of a climb that found nothing good enough


@dataclasses.dataclass(frozen=True)
class Run:
    """Climb a project's ladder: stop at the first rung that meets the target, and report why."""

    project: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="[PROJECT]")] = Path("project.yaml")
    """The project file; or the run.yaml of an earlier run, which is then made again to the bit."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=("-o",))] = None
    """The run directory; runs/NAME without a word. A run that stands there goes on, and repeats nothing."""
    reuse: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """Another run's directory, of which finished steps are taken over where they are the same, such as a base."""
    climb: Literal["stop", "all"] = "stop"
    """all: measure every rung, and name the one that stopping would have chosen."""
    seed: int | None = None
    """Another seed than the project's."""
    dry_run: bool = False
    """Check the project and its data, say what would be done, and stop."""
    json: bool = False
    """Print the report as one JSON object at the end, and plain lines on the way."""


def run(args: Run, project: Project, directory: Path, view: View) -> dict[str, Any]:
    """Do what `args` say -> the report; see `main` for how it may end early."""
    # 2. the data
    work = Work(project, directory, view, args.reuse)
    if not (directory / RUN).exists():
        write_whole(directory / RUN, dumped(replayable(project, project.recorded)))
    # 3. the climb
    with view.shown():
        everything = args.climb == "all"
        found = climb(project.rule(everything), work, work.bound, view.tell)
        # 4. the evidence
        evidence = gather(work, found, view.tell)
        work.watched.unchanged()
    # 5. the report
    report = build(project, found, evidence, everything=everything)
    write_whole(directory / RUN, dumped(replayable(project, work.record.said)))
    write_report(report, directory)
    return report


def dumped(said: dict[str, Any]) -> str:
    return yaml.safe_dump(said, sort_keys=False, allow_unicode=True)


# -- before ----------------------------------------------------------------------------------------------------------


def outline(project: Project, screen: Screen, everything: bool) -> dict[str, Any]:
    """What would be done, from the project file and the data alone."""
    task, parts = checked(project)
    rule, limits = project.rule(everything), project.limits
    counts = {part: len(examples) for part, examples in parts.items()}
    said = [
        limits.time and f"time {duration(limits.time)}",
        limits.memory and f"memory {size(limits.memory)}",
        limits.parameters and f"{thousands(limits.parameters)} parameters",
        limits.latency and f"one answer in {limits.latency * 1000:,.0f} ms",
    ]
    base = project.base
    screen.table(
        project.name,
        {
            "task": f"{task.name}, {task.kind}: " + ", ".join(f"{part} {n:,}" for part, n in counts.items()),
            "target": f"{project.metric} of {project.target:g} or more, with {project.confidence:.0%} confidence",
            "limits": ", ".join(one for one in said if one) or "none",
            **({"answers": project.align.words} if project.align else {}),
            "models": ", ".join(rule.candidates) or "none",
            **(
                {BASE: f"{base.objective}, {base.size or base.time or 'by hand'}, from {', '.join(base.data)}"}
                if base
                else {}
            ),
            "ladder": ", ".join(project.ladder) + ("; all are measured" if everything else ""),
        },
    )
    return {"name": project.name, "parts": counts, "ladder": list(project.ladder), "candidates": list(rule.candidates)}


# -- the command -----------------------------------------------------------------------------------------------------


def main(argv: list[str]) -> int:
    """`modelwright run`. Exit codes: 0 the target is met, 1 it is not, 2 the user's mistake, 130 and 143 stopped."""
    args = parse(Run, argv, "modelwright run")
    project = read_project(args.project)
    if strange := [other for other in args.reuse if not (other / RUN).is_file()]:
        raise FileNotFoundError(f"--reuse {strange[0]} is no project's run: it has no {RUN}")
    if args.seed is not None:
        project = reseeded(project, args.seed)
    if args.dry_run:
        said = outline(project, Screen(quiet=args.json), args.climb == "all")
        print(json.dumps(said)) if args.json else None
        return 0
    directory = args.output or Path("runs") / project.name
    view = View(project.target, project.metric, plain=args.json)
    again = shlex.join(["modelwright", "run", *argv])
    try:
        report = alone(args, project, directory, view)
    except Interrupted as stop:
        view.say(f"{stop}; what is finished is kept. Go on with: {again}")
        return 128 + stop.signal
    except KeyboardInterrupt:
        view.say(f"stopped; what is finished is kept. Go on with: {again}")
        return 130
    except Diverged as error:
        raise ValueError(
            f"training diverged ({error}): set lower rates in tune, base or align, and run again"
        ) from None
    except NotSaved as error:
        raise ValueError(f"{error}; make room, and go on with: {again}") from None
    if args.json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        told(report, directory, view)
    return 0 if report["decision"]["met"] else UNMET


def reseeded(project: Project, seed: int) -> Project:
    """The project with another seed, that of its base included."""
    if seed < 0:
        raise ValueError(f"--seed must be 0 or more, not {seed}")
    base = project.base and dataclasses.replace(project.base, seed=seed)
    return dataclasses.replace(project, seed=seed, base=base, recorded={})


def alone(args: Run, project: Project, directory: Path, view: View) -> dict[str, Any]:
    """The run, in a directory that no other process is at work in."""
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"{directory} is a file: name a directory as --output")
    held = [path for path in directory.glob("*") if not path.name.startswith(".")]  # a run refused leaves its lock
    if held and not (directory / RUN).exists():
        raise FileExistsError(f"{directory} holds something else than a project's run: name another --output")
    directory.mkdir(parents=True, exist_ok=True)
    with alone_in(directory):
        if (run_yaml := directory / RUN).exists() and (other := stranger(project, run_yaml)):
            raise FileExistsError(f"{directory} holds the run of another project, {other}: name another --output")
        return run(args, project, directory, view)


def stranger(project: Project, path: Path) -> str:
    """The other project that a run.yaml is of, or nothing: another name or kind of task, or none of the same files."""
    said = yaml.safe_load(path.read_text("utf-8")) or {}
    try:
        name, kind, data = said["name"], said["task"]["kind"], said["task"]["data"]
        theirs = {Path(str(data[part])).name for part in PARTS if data.get(part)}
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is not as a run wrote it: name another --output") from None
    mine = {Path(str(source)).name for part in PARTS if (source := getattr(project.task.data, part))}
    if (name, kind) == (project.name, project.task.kind) and mine & theirs:
        return ""
    return f"{name} ({kind}, on {', '.join(sorted(theirs))})"


def told(report: dict[str, Any], directory: Path, view: View) -> None:
    decision = report["decision"]
    view.say("")
    view.say(decision["sentence"])
    view.say(decision.get("test") or decision.get("more") or "")
    view.say(report["spared"]["sentence"])
    view.say(f"report: {directory / PAGE}")
