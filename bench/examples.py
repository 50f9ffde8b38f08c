"""How good a model becomes with 50, 200, 500, 1,000 and all training examples: do 500 to 1,000 of them suffice?

    python bench/examples.py MODEL [--project FILE] [--methods lora full] [--seeds 3] [--plot docs/examples.svg]
    python bench/examples.py base      the project's own base, which is pretrained first

Each point is a model tuned as the project says (`tune`: epochs, rates) on so many examples of its part train, always
the same and each set part of the next, and measured on all of its part decide; the best moment is chosen on select.
With the same epochs fewer examples are fewer steps: --steps gives every point the same number. --train names another
source for more examples, such as desk:note:4000. With --seeds, an example's score is its mean over so many trainings.

The table has intervals of 95% over the examples of decide, and by how much all examples are better than so many
(paired, on the same examples). Below stands what the learning curve of `modelwright run`, fitted to these points, makes
of them, and the answer. What was trained is kept in --output and not trained again.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
ENOUGH = 500  # examples, and
PLENTY = 1000  # what is said to suffice


class Learned(NamedTuple):
    """A method, and its statistics (m, k) by the number of examples."""

    method: str
    stats: dict[int, NDArray[np.float64]]


# -- the points ----------------------------------------------------------------------------------


def project_of(o: argparse.Namespace) -> Any:
    from modelwright.project.spec import read_project

    project = read_project(o.project)
    base = project.base if o.model == "base" else None
    if o.quick:
        assert base is not None
        base = dataclasses.replace(
            base, data=("desk:200",), width=32, layers=1, heads=2, vocab=512, steps=5, time=None, batch=1024
        )
    data = dataclasses.replace(project.task.data, train=o.train or project.task.data.train)
    task = dataclasses.replace(project.task, data=data)
    tune = {**project.tune} | ({"steps": o.steps} if o.steps else {}) | ({"truncated": 1.0} if o.quick else {})
    models = () if base else (o.model,)
    return dataclasses.replace(
        project, task=task, base=base, candidates=models, ladder=tuple(o.methods), tune=tune, path=None
    )


def works(o: argparse.Namespace, project: Any, where: Path) -> list[Any]:
    """A run of the project for each seed, in one directory: what they share is done once."""
    from modelwright.project.work import Work
    from modelwright.recipes.watch import Screen

    seeds = range(project.seed, project.seed + o.seeds)
    found = [Work(dataclasses.replace(project, seed=seed), where, Screen(quiet=True)) for seed in seeds]
    for work in found:
        work.open(o.model)
    return found


def learn(o: argparse.Namespace, each: Sequence[Any], method: str) -> Learned:
    whole = len(each[0].parts["train"])
    sizes = [n for n in o.sizes if n < whole]
    stats = {n: np.mean([work.point(method, o.model, n) for work in each], 0) for n in sizes}
    stats[whole] = np.mean([work.measure(method, o.model).stats for work in each], 0)
    return Learned(method, stats)


# -- what they say -------------------------------------------------------------------------------


def rows(learned: Learned, metric: Any) -> list[str]:
    from modelwright.evaluate.statistics import interval, paired
    from modelwright.recipes.results import apart, told

    found, (whole, best) = [], list(learned.stats.items())[-1]
    for n, stats in learned.stats.items():
        more = paired(best, stats, metric)
        said = "" if n == whole else apart(vars(more.difference) | {"p": more.p})
        found.append(f"| {learned.method} | {n:,} | {told(vars(interval(stats, metric)))} | {said} |")
    return found


def curve_of(project: Any, learned: Learned, metric: Any) -> Any:
    from modelwright.evaluate.statistics import interval, lower_bound
    from modelwright.project.curve import Point, fit_curve
    from modelwright.project.spec import SCALES

    last = list(learned.stats.values())[-1]
    margin = interval(last, metric).value - lower_bound(last, metric, error=1 - project.confidence)
    points = [Point(n, stats) for n, stats in learned.stats.items()]
    return fit_curve(points, metric.value, project.target, margin=margin, top=SCALES.get(metric.name, 1.0))


def answer(project: Any, learned: Learned, metric: Any) -> str:
    """Whether 500 to 1,000 examples meet the target, and what the rest brings."""
    from modelwright.evaluate.statistics import interval, lower_bound, paired

    stats, error = learned.stats, 1 - project.confidence
    met = [n for n, found in stats.items() if lower_bound(found, metric, error=error) >= project.target]
    said = f"{learned.method}: the target of {project.target:g} is " + (f"met from {met[0]:,} on" if met else "not met")
    near = [n for n in stats if ENOUGH <= n <= PLENTY] or [max(stats)]
    value = interval(stats[near[-1]], metric).value
    said += f"; {near[-1]:,} examples reach {value:.3f}"
    if max(stats) > near[-1]:
        more = paired(stats[max(stats)], stats[near[-1]], metric).difference
        said += f", and all {max(stats):,} bring {more.value:+.3f} ({more.low:+.3f} to {more.high:+.3f}) more"
    return said


def plot(found: Sequence[tuple[Learned, Any]], metric: Any, target: float, path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from modelwright.evaluate.statistics import interval

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for colour, (learned, curve) in enumerate(found):
        at = [interval(stats, metric) for stats in learned.stats.values()]
        off = [[i.value - i.low for i in at], [i.high - i.value for i in at]]
        sizes, ink = list(learned.stats), f"C{colour}"
        axes.errorbar(sizes, [i.value for i in at], off, fmt="o", color=ink, label=learned.method)
        if curve:
            n = [reach.n for reach in curve.band]
            axes.plot(n, [reach.value for reach in curve.band], color=ink, lw=1)
            axes.fill_between(n, [r.low for r in curve.band], [r.high for r in curve.band], color=ink, alpha=0.15)
    axes.axhline(target, color="grey", lw=1, ls="--")
    axes.axvspan(ENOUGH, PLENTY, color="grey", alpha=0.1)
    axes.set(xscale="log", xlabel="training examples", ylabel=f"{metric.name} on decide")
    axes.legend(frameon=False)
    figure.savefig(path)


def run(o: argparse.Namespace, where: Path) -> None:
    project = project_of(o)
    each = works(o, project, where)
    metric, found = each[0].metric, list[tuple[Learned, Any]]()
    measured = len(each[0].parts["decide"])
    print(f"{project.name}, {metric.name} on {measured} examples of decide; each trained {o.seeds} time(s)")
    print("\n| method | examples | score | all examples are better by |\n|---|---|---|---|")
    for method in o.methods:
        learned = learn(o, each, method)
        print("\n".join(rows(learned, metric)), flush=True)
        found.append((learned, curve_of(project, learned, metric) if len(learned.stats) > 1 else None))
    print()
    for learned, curve in found:
        print(f"- {answer(project, learned, metric)}." + (f" The curve: {curve.said}." if curve else ""))
    if o.plot:
        plot(found, metric, project.target, o.plot)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", help="a model directory; or `base`")
    parser.add_argument(
        "--data", default=os.environ.get("MODELWRIGHT_DATA"), help="the data folder, if the project asks"
    )
    parser.add_argument("--project", default=str(ROOT / "examples/desk-note/project.yaml"))
    parser.add_argument("--methods", nargs="+", choices=("soft-prompt", "lora", "full"), default=["full"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[50, 200, 500, 1000])
    parser.add_argument("--train", help="another source of training examples than the project's")
    parser.add_argument("--steps", type=int, help="of every training, in place of the project's epochs")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--output", help="a directory for what is trained, which a later run takes up again")
    parser.add_argument("--plot", help="a file to draw it in: .svg or .png; needs matplotlib")
    parser.add_argument("--quick", action="store_true", help="a toy, to see that it runs")
    o = parser.parse_args()
    if o.quick:
        o.model, o.steps, o.sizes, o.train = "base", 3, [50, 100], "desk:note:200"
    if not o.model:
        return print("examples.py needs a model: a directory, or `base` to pretrain the project's own first")
    if o.data:
        os.environ["MODELWRIGHT_DATA"] = o.data
    with tempfile.TemporaryDirectory() as scratch:
        run(o, Path(o.output or scratch))


if __name__ == "__main__":
    main()
