"""How often confidence bounds are wrong, ours and the usual ones, on simulated scores whose truth is known.

    python bench/coverage.py [--repeats 4000] [--sizes 20 50 200 500] [--worlds rouge zeros ...]

For each world and number of examples: how often a lower bound that may err with probability 0.05 / 12 or 0.05 lies
above the truth, as a multiple of that probability (1 is honest, above 1 is not, below 1 is careful); how often an
interval of 95% holds the truth; and how wide it is, in units of the normal interval that would be right were the
spread known. Takes about a quarter of an hour; with --repeats 1000 --sizes 20 50 four minutes.

Letters: n examples, k statistics, R resamples, J repeats.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from modelwright.evaluate.bootstrap import clopper_pearson, resamples, weights
from modelwright.evaluate.metrics import METRICS, Metric, ratio

Array = NDArray[np.float64]
World = Callable[[np.random.Generator, int, int], Array]

ERRORS = (0.05 / 12, 0.05, 0.025)  # the last is each side of a 95% interval
BATCH = 100  # repeats that share their weights
NORMAL = NormalDist()

# -- worlds: (J, n, k) statistics ------------------------------------------------------------------------------


def mean(scores: Array) -> Array:
    return np.stack([scores, np.ones_like(scores)], -1)


def right_or_wrong(draw: np.random.Generator, j: int, n: int) -> Array:
    return mean((draw.random((j, n)) < 0.9).astype(float))


def rouge(draw: np.random.Generator, j: int, n: int) -> Array:
    return mean(draw.beta(2, 5, (j, n)))


def zeros(draw: np.random.Generator, j: int, n: int) -> Array:
    """Nine of ten outputs share nothing with their reference."""
    return mean(draw.beta(4, 4, (j, n)) * (draw.random((j, n)) < 0.1))


def failures(draw: np.random.Generator, j: int, n: int) -> Array:
    """High scores, and a 0 once in twenty: what a sample does not hold pulls the truth down."""
    return mean(np.where(draw.random((j, n)) < 0.05, 0.0, draw.beta(30, 1, (j, n))))


def mentions(draw: np.random.Generator, j: int, n: int) -> Array:
    """One to six facts an example, found together or not at all more often than one by one."""
    wanted = draw.integers(1, 7, (j, n))
    return np.stack([draw.binomial(wanted, draw.beta(9, 1, (j, n))), wanted], -1).astype(float)


def entities(draw: np.random.Generator, j: int, n: int) -> Array:
    wanted = draw.binomial(4, 0.3, (j, n))
    right = draw.binomial(wanted, draw.beta(3, 1, (j, n)))
    return np.stack([right, right + draw.binomial(2, 0.1, (j, n)), wanted], -1).astype(float)


def labels(draw: np.random.Generator, j: int, n: int) -> Array:
    """Three labels, 60, 30 and 10% of the examples; 80% of the answers are right, the rest any other label."""
    wanted = np.searchsorted([0.6, 0.9], draw.random((j, n)))
    written = np.where(draw.random((j, n)) < 0.8, wanted, (wanted + draw.integers(1, 3, (j, n))) % 3)
    one = np.eye(3)
    return np.stack([one[wanted] * one[written], one[written], one[wanted]], -1).reshape(j, n, 9)


def surprise(draw: np.random.Generator, j: int, n: int) -> Array:
    """Texts of 20 to 200 tokens, most of them near 3 nats a token and some far above."""
    tokens = draw.integers(20, 201, (j, n))
    return np.stack([tokens * draw.lognormal(1, 0.4, (j, n)), tokens], -1).astype(float)


WORLDS: dict[str, tuple[World, Metric]] = {
    "right_or_wrong": (right_or_wrong, METRICS["accuracy"]),
    "rouge": (rouge, METRICS["rougeL"]),
    "zeros": (zeros, METRICS["rougeL"]),
    "failures": (failures, METRICS["rougeL"]),
    "mentions": (mentions, METRICS["mentions"]),
    "entities": (entities, METRICS["entity_f1"]),
    "labels": (labels, METRICS["macro_f1"]),
    "surprise": (surprise, METRICS["bits_per_byte"]),
}


# -- bounds: for J repeats at once, (lower (J,), upper (J,)) at an error -------------------------------------------

Bounds = Callable[[float], tuple[Array, Array]]


def quantiles(values: Array, share: Array | float) -> Array:
    """values (R, J) sorted, share (J,) or one number -> the value (J,) that this share lies at or below."""
    rank = np.clip(np.floor(np.asarray(share) * (len(values) + 1)).astype(int), 1, len(values)) - 1
    return values[np.broadcast_to(rank, values.shape[1]), np.arange(values.shape[1])]


def sums(drawn: Array, stats: Array) -> Array:
    """(R, n) weights and (J, n, k) -> (R, J, k)."""
    j, n, k = stats.shape
    return (drawn @ stats.transpose(1, 0, 2).reshape(n, j * k)).reshape(-1, j, k)


def ours(stats: Array, metric: Metric, draws: int, seed: int) -> Bounds:
    """To decide on: with the worst example. (The upper bound, with the best, is what a metric where less is better
    has.)"""
    worst, best = (with_unseen(stats, metric, [side], (1.0,), draws, seed) for side in (0, 1))
    return lambda error: (quantiles(worst, error), quantiles(best, 1 - error))


def ours_to_read(stats: Array, metric: Metric, draws: int, seed: int) -> Bounds:
    """With half of the worst and half of the best; without bounds, with the worst and the best that were seen."""
    half = 0.5 if metric.extremes else 1.0
    values = with_unseen(stats, metric, [0, 1], (half, half), draws, seed)
    return lambda error: (quantiles(values, error), quantiles(values, 1 - error))


def with_unseen(
    stats: Array, metric: Metric, sides: list[int], unseen: tuple[float, ...], draws: int, seed: int
) -> Array:
    """Sorted values (R, J) of the metric under random weights of the examples and of those that were not seen."""
    drawn = np.concatenate(list(weights(stats.shape[1], unseen, draws, seed)))
    more = np.array([[edge(one, metric)[side] for side in sides] for one in stats])  # (J, m, k)
    return np.sort(metric.value(sums(drawn, np.concatenate([more, stats], 1))), 0)


def edge(stats: Array, metric: Metric) -> tuple[Array, Array]:
    """The one more example that pulls the value down, and up."""
    if metric.extremes:
        return metric.extremes(stats)
    values = metric.value(stats.sum(0) + stats)
    return stats[values.argmin()], stats[values.argmax()]


def usual(stats: Array, metric: Metric, draws: int, seed: int) -> dict[str, Bounds]:
    """Percentiles of resamples; the same with bias and skewness corrected (BCa: Efron 1987); and, for a ratio,
    the studentised bootstrap (Hall 1988), with the linearised standard error."""
    n, draw = stats.shape[1], np.random.default_rng(seed)
    drawn = draw.multinomial(n, np.full(n, 1 / n), draws).astype(float)
    total = sums(drawn, stats)
    value, values = metric.value(stats.sum(1)), metric.value(total)  # (J,), (R, J)
    order = np.sort(values, 0)

    def percentile(error: float) -> tuple[Array, Array]:
        return quantiles(order, error), quantiles(order, 1 - error)

    below = np.clip(((values < value).mean(0) + (values <= value).mean(0)) / 2, 1 / draws, 1 - 1 / draws)
    z0 = np.array([NORMAL.inv_cdf(p) for p in below])
    without = metric.value(stats.sum(1, keepdims=True) - stats)  # (J, n)
    apart = without.mean(1, keepdims=True) - without
    scale = np.maximum((apart**2).sum(1), 1e-60) ** 1.5
    skew = np.nan_to_num((apart**3).sum(1) / (6 * scale))  # all alike: no skewness

    def bca(error: float) -> tuple[Array, Array]:
        shares = []
        for z in (NORMAL.inv_cdf(error), NORMAL.inv_cdf(1 - error)):
            at = z0 + (z0 + z) / (1 - skew * (z0 + z))
            shares.append(np.array([NORMAL.cdf(x) for x in at]))
        return quantiles(order, shares[0]), quantiles(order, shares[1])

    found = {"percentile": percentile, "BCa": bca}
    if metric.name in ("rougeL", "mentions", "entity_f1", "accuracy"):
        found["bootstrap-t"] = studentised(as_ratio(stats, metric), drawn, value)
    return found


def as_ratio(stats: Array, metric: Metric) -> Array:
    if metric.name != "entity_f1":
        return stats
    return np.stack([2 * stats[..., 0], stats[..., 1] + stats[..., 2]], -1)


def studentised(stats: Array, drawn: Array, value: Array) -> Bounds:
    part, whole = stats[..., 0], stats[..., 1]
    every = np.stack([part, whole, part * part, part * whole, whole * whole], -1)

    def spread(total: Array) -> tuple[Array, Array]:
        v = ratio(total[..., :2])
        square = total[..., 2] - 2 * v * total[..., 3] + v * v * total[..., 4]
        return v, np.sqrt(np.maximum(square, 0)) / np.maximum(total[..., 1], 1e-12)

    _, here = spread(every.sum(1))
    v, error_of = spread(sums(drawn, every))
    t = np.sort((v - value) / np.maximum(error_of, 1e-9), 0)
    return lambda error: (value - here * quantiles(t, 1 - error), value - here * quantiles(t, error))


def exact(stats: Array, metric: Metric, draws: int, seed: int) -> Bounds:
    right, n = stats[..., 0].sum(1).astype(int), stats.shape[1]

    def bounds(error: float) -> tuple[Array, Array]:
        table = np.array([clopper_pearson(s, n, error) for s in range(n + 1)])
        return table[right], 1 - table[n - right]

    return bounds


# -- the study -------------------------------------------------------------------------------------------------


def study(world: World, metric: Metric, n: int, repeats: int) -> Iterator[str]:
    """A line for each method: errors of lower (where less is better, upper) bounds, coverage, width."""
    draw = np.random.default_rng(n)
    truth = float(metric.value(np.concatenate([world(draw, 1000, 1000).sum((0, 1))[None] for _ in range(4)]).sum(0)))
    spread = np.std(metric.value(world(draw, 4000, n).sum(1)))
    wrong: dict[str, Array] = {}
    for seed in range(repeats // BATCH):
        stats = world(draw, BATCH, n)
        draws = resamples(ERRORS[0])
        own = {"bound": ours, "interval": ours_to_read} if metric.name != "accuracy" else {"bound and interval": exact}
        methods = {f"our {name}": method(stats, metric, draws, seed) for name, method in own.items()}
        methods |= usual(stats, metric, draws, seed)
        for name, bounds in methods.items():
            wrong[name] = wrong.get(name, np.zeros(4)) + tally(bounds, truth, metric.higher)
    done = repeats // BATCH * BATCH
    for name, found in wrong.items():
        small, large, held, width = found / done
        unit = 2 * NORMAL.inv_cdf(0.975) * spread
        wide = f"{width / unit:.2f}" if width < 10 * unit else "beyond 10"
        times = f"{small / ERRORS[0]:.2f} | {large / ERRORS[1]:.2f}"
        yield f"{n} | {name} | {times} | {100 * held:.1f} | {wide}"


def tally(bounds: Bounds, truth: float, higher: bool) -> Array:
    wrong = []
    for error in ERRORS[:2]:
        low, high = bounds(error)
        wrong.append((low > truth).sum() if higher else (high < truth).sum())
    low, high = bounds(ERRORS[2])
    return np.array([*wrong, ((low <= truth) & (truth <= high)).sum(), (high - low).sum()], float)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--repeats", type=int, default=4000)
    flags.add_argument("--sizes", type=int, nargs="+", default=[20, 50, 200, 500])
    flags.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=list(WORLDS))
    args = flags.parse_args()
    chance = math.sqrt((1 - ERRORS[0]) / (ERRORS[0] * args.repeats))
    print(f"{args.repeats} repeats; the standard error of an error of 0.05 / 12 told as a multiple is {chance:.2f}")
    for name in args.worlds:
        print(f"\n| {name}: n | method | errs at 0.05 / 12, times | at 0.05, times | 95% covers | width |")
        print("|---|---|---|---|---|---|")
        for n in args.sizes:
            for line in study(*WORLDS[name], n, args.repeats):
                print(f"| {line} |", flush=True)


if __name__ == "__main__":
    main()
