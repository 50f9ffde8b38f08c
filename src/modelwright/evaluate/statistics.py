"""How sure a number is: its interval, the bound that a decision may rest on, and the difference of two models.

All of it from the statistics of single examples (n, k) and their metric, by the bootstrap of `evaluate/bootstrap.py`.
The examples are taken for independent draws of what the model will meet; three questions on one text are not.

Letters: n examples, k statistics, R resamples.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelwright.evaluate.bootstrap import clopper_pearson, resampled, resamples, smallest
from modelwright.evaluate.metrics import Metric, ratio

Array = NDArray[np.float64]

SWAPS = 10_000  # of which a p-value is the share
CHUNK = 500  # swaps at once


@dataclass(frozen=True)
class Interval:
    """A metric's value over n examples, and two bounds that its true value lies between with probability `level`."""

    value: float
    low: float
    high: float
    level: float
    n: int


@dataclass(frozen=True)
class Paired:
    """How much a metric of one model lies above another's on the same examples; p: how often chance alone would part
    equal models as far, in either direction."""

    difference: Interval
    p: float


# -- one model ---------------------------------------------------------------------------------------------


def interval(stats: Array, metric: Metric, *, level: float = 0.95, seed: int = 0) -> Interval:
    """The metric over examples with statistics (n, k), and where its true value lies: to be read.

    Of right and wrong answers it is Clopper and Pearson's, which holds the truth at least as often as `level`; else
    the Bayesian bootstrap's, with half an example of the worst and half of the best. Raises ValueError where there is
    no example, or `level` is not between 0 and 1.
    """
    value, error = _value(stats, metric), _tail(level)
    if metric.value is ratio and _right_or_wrong(stats):
        low, high = _exact(stats, error)
    else:
        sums = resampled(stats, np.stack(_extremes(stats, metric)), _unseen(metric), resamples(error), seed)
        low, high = _between(metric.value(sums), error)
    return Interval(value, min(low, value), max(high, value), level, len(stats))


def lower_bound(stats: Array, metric: Metric, *, error: float, seed: int = 0, known: Array | None = None) -> float:
    """What the metric's true value is not worse than: to decide on.

    It errs with probability `error` at most, small ones too, as 0.05 / 12, where a metric has a worst value and
    examples have a largest weight: that of all that were seen, or of the `known` ones (m, k) too, as `right_answers`
    gives them. Where heavier examples lie beyond both, it errs as often as none is drawn. Perplexity has no worst
    value, and its bound is as good as the largest loss that was seen. Where less is better, the bound lies above it.
    Raises ValueError as `interval` does.
    """
    value = _value(stats, metric)
    _probability(error, "error")
    weighed = stats if known is None or not metric.weighed else np.concatenate([stats, known])
    if metric.value is ratio and _right_or_wrong(weighed):
        return _exact(stats, error)[0 if metric.higher else 1]
    sums = resampled(stats, _extremes(weighed, metric)[0][None], (1.0,), resamples(error), seed)
    low, high = _between(metric.value(sums), error)
    return min(low, value) if metric.higher else max(high, value)


def error_shares(count: int, total: float = 0.05) -> list[float]:
    """What each of `count` decisions may err, so that one or more of them is wrong with probability `total` at most.

    A ladder of r rungs and c candidates decides r c times whether a bound lies above the target, and stops at the
    first that does: it errs where any rung that is not good enough seems so. Equal shares (Bonferroni) keep to
    `total` whatever the scores have in common. A graph of shares (Bretz et al. 2009) gains nothing here: it passes a
    share on after a success, and after a success the ladder stops. More for the cheap rungs would be less for the
    dear ones, where a success that is missed leaves no model at all; nor does it matter much, as half the error moves
    a bound by a tenth of its distance.

    Raises ValueError for a count below 1, or a total that is not between 0 and 1.
    """
    if count < 1:
        raise ValueError(f"an error is shared among 1 decision or more, not {count}")
    return [_probability(total, "total") / count] * count


# -- two models on the same examples --------------------------------------------------------------------------


def paired(a: Array, b: Array, metric: Metric, *, level: float = 0.95, seed: int = 0) -> Paired:
    """How much the metric of statistics a (n, k) lies above that of b (n, k), row for row of the same examples.

    The interval weighs the examples of both alike. The p-value is approximate randomisation's (Noreen 1989; Riezler
    and Maxwell 2005): were the models equal, which output is whose would make no difference, so swap them, example by
    example, at random; p is the share of swaps that leave a difference as large. For a mean that is the sign-flip
    test. Up to 13 examples, all swaps are tried.

    Raises ValueError where a and b are not of the same examples.
    """
    if np.shape(a) != np.shape(b):
        raise ValueError(
            f"two models are compared on the same examples, but one has statistics of shape {np.shape(a)}, "
            f"the other of {np.shape(b)}"
        )
    value, error = _value(a, metric) - _value(b, metric), _tail(level)
    both, k = np.concatenate([a, b], 1), a.shape[1]  # (n, 2 k)

    def difference(sums: Array) -> Array:
        return metric.value(sums[..., :k]) - metric.value(sums[..., k:])

    (worse_a, better_a), (worse_b, better_b) = _extremes(a, metric), _extremes(b, metric)
    more = np.stack([np.concatenate([worse_a, better_b]), np.concatenate([better_a, worse_b])])  # (2, 2 k)
    low, high = _between(difference(resampled(both, more, _unseen(metric), resamples(error), seed)), error)
    return Paired(
        Interval(value, min(low, value), max(high, value), level, len(a)), _swapped(a, b, metric, value, seed)
    )


def _swapped(a: Array, b: Array, metric: Metric, value: float, seed: int) -> float:
    """The share of swaps that part the two as far as `value`."""
    n, sums, apart = len(a), a.sum(0) + b.sum(0), a - b
    every = 2**n <= SWAPS if n < 64 else False
    swaps = 2**n if every else SWAPS
    draw = np.random.default_rng(seed)
    far = 0
    for start in range(0, swaps, CHUNK):
        at = np.arange(start, min(start + CHUNK, swaps))
        bits = at[:, None] >> np.arange(n) & 1 if every else draw.integers(0, 2, (len(at), n))
        moved = (2.0 * bits - 1) @ apart  # (CHUNK, k): what the first has more than the second
        parted = metric.value((sums + moved) / 2) - metric.value((sums - moved) / 2)
        far += int((np.abs(parted) >= abs(value) - 1e-9 * max(1.0, abs(value))).sum())
    return far / swaps if every else (far + 1) / (swaps + 1)  # as found, too, is one swap (Phipson and Smyth 2010)


# -- what both rest on -----------------------------------------------------------------------------------------


def _exact(stats: Array, error: float) -> tuple[float, float]:
    """Clopper and Pearson's bounds of right and wrong answers, each wrong with probability `error` at most."""
    right, n = int(stats[:, 0].sum()), len(stats)
    return clopper_pearson(right, n, error), 1 - clopper_pearson(n - right, n, error)


def _between(values: Array, error: float) -> tuple[float, float]:
    """What a share `error` of the values lies below, and what that share lies above."""
    return smallest(values, error), -smallest(-values, error)


def _right_or_wrong(stats: Array) -> bool:
    return bool((stats[:, 1] == 1).all() and np.isin(stats[:, 0], (0, 1)).all())


def _extremes(stats: Array, metric: Metric) -> tuple[Array, Array]:
    """The worst and the best example that might have been drawn; without bounds, the worst and the best that were."""
    if metric.extremes:
        return metric.extremes(stats)
    with_one_more = metric.value(stats.sum(0) + stats)  # (n,)
    low, high = stats[with_one_more.argmin()], stats[with_one_more.argmax()]
    return (low, high) if metric.higher else (high, low)


def _unseen(metric: Metric) -> tuple[float, float]:
    """What the worst and the best weigh in an interval; where they are but the worst and the best that were seen,
    twice as much."""
    return (0.5, 0.5) if metric.extremes else (1.0, 1.0)


def _value(stats: Array, metric: Metric) -> float:
    if np.ndim(stats) != 2 or not len(stats):
        raise ValueError(
            f"a score of {metric.name} needs the statistics of one example or more, not shape {np.shape(stats)}"
        )
    return float(metric.value(stats.sum(0)))


def _tail(level: float) -> float:
    return (1 - _probability(level, "level")) / 2


def _probability(number: float, name: str) -> float:
    if not 0 < number < 1:
        raise ValueError(f"{name} must lie between 0 and 1, not {number}")
    return number
