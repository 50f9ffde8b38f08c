"""A learning curve: from scores at a few sizes of the training part, what more data would bring.

Two forms are fitted, since no one form is right for all tasks (Viering and Loog 2023): the distance to the top falls as
a power of the size, top - score = b n^-c (Hestness et al. 2017), or the score rises by as much with every doubling,
score = a + b log n. How sure a prediction is comes from resampling the examples that the scores are of: all sizes are
measured on the same ones, so all are resampled alike. What another seed of the training would change is not in it.

Letters: n training examples of a point, m measured examples, k statistics, P points, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 1000
FAR = 20.0  # times the largest size: what lies further is not predicted


@dataclass(frozen=True)
class Point:
    """What was measured at one size."""

    n: int
    stats: Array  # (m, k), the same examples in the same order at every size


@dataclass(frozen=True)
class Reach:
    """A score that is predicted for a size: the middle, and a band."""

    n: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """What more data would bring. `needed` is None where it cannot be told, and `said` says why, or what is needed."""

    points: tuple[tuple[int, float], ...]  # size, score
    band: tuple[Reach, ...]  # from the smallest size to four times the largest
    needed: int | None  # training examples that would meet the target, in the middle of the band
    low: int | None  # at its optimistic edge
    high: int | None  # at its pessimistic edge; None: further than is predicted
    said: str
    asks: str  # how far above the target a score must lie, and why; nothing where it need not


def fit_curve(
    points: Sequence[Point],
    value: Callable[[Array], Array],
    target: float,
    *,
    margin: float = 0.0,
    top: float = 1.0,
    level: float = 0.95,
    seed: int = 0,
) -> Curve:
    """Fit a curve through points of two or more sizes, and ask it where it meets the target.

    value: statistics (..., k) -> scores (...), higher is better, as a metric has it. margin: by how much the score must
    lie above the target for its lower bound to meet it. top: the highest score there is.

    Raises ValueError where there are not two sizes, or where the points are not of the same examples.
    """
    points = sorted(points, key=lambda point: point.n)
    sizes = np.array([point.n for point in points], np.float64)  # (P,)
    if len(set(sizes.tolist())) < 2:
        raise ValueError("a learning curve needs scores at two sizes or more")
    if len({np.shape(point.stats) for point in points}) > 1:
        raise ValueError("a learning curve needs scores of the same examples at every size")
    found = value(np.stack([point.stats.sum(0) for point in points]))  # (P,)
    scores = resampled(points, value, seed)  # (R, P)
    tail = (1 - level) / 2
    asked = np.geomspace(sizes[0], 4 * sizes[-1], 25)
    reached = predicted(sizes, scores, asked, top)  # (2 R, 25)
    middle = predicted(sizes, found[None], asked, top).mean(0)
    low, high = np.quantile(reached, [tail, 1 - tail], axis=0)
    band = tuple(
        Reach(round(n), float(v), float(min(a, v)), float(max(b, v)))
        for n, v, a, b in zip(asked, middle, low, high, strict=True)
    )
    pairs = tuple((int(n), float(score)) for n, score in zip(sizes, found, strict=True))
    asks = (
        f"The lower bound on {len(points[0].stats):,} measured examples lies {margin:.3g} below the score, so that "
        f"meeting the target takes a score of {target + margin:.3g}; measured on more, it would take less."
    )
    return Curve(pairs, band, *answer(sizes, found, scores, target + margin, top, tail), asks if margin else "")


def answer(
    sizes: Array, found: Array, scores: Array, wanted: float, top: float, tail: float
) -> tuple[int | None, int | None, int | None, str]:
    """(needed, low, high, in words): how many examples lead to the wanted score, where that can be told."""
    largest = int(sizes[-1])
    rising = float((slope(sizes, scores) > 0).mean())
    if wanted >= top:
        said = (
            "how many would do cannot be told: did the bound lie as far below the score as it does now, that would "
            f"have to be {wanted:.3g}, where {top:g} is the highest; near it, or on more examples, the bound is closer"
        )
        return None, None, None, said
    if rising < 1 - tail:
        said = (
            f"more data cannot be told to help: from {sizes[0]:,.0f} to {largest:,} training examples the score goes "
            f"from {found[0]:.3f} to {found[-1]:.3f}, which is within what chance does"
        )
        return None, None, None, said
    needs = np.sort(needed(sizes, scores, wanted, top))  # (2 R,)
    low, middle, high = (float(needs[int(q * (len(needs) - 1))]) for q in (tail, 0.5, 1 - tail))
    if middle > FAR * largest:
        said = (
            f"the target lies further than this curve can tell: at {FAR:.0f} times the {largest:,} training examples "
            "the middle of its predictions is still below it"
        )
        return None, None if low > FAR * largest else round(low), None, said
    most = None if high > FAR * largest else round(high)
    edge = f"{most:,}" if most is not None else f"more than {FAR * largest:,.0f}"
    said = (
        f"about {middle:,.0f} training examples would meet the target, {middle / largest:.1f} times the {largest:,} "
        f"there are ({round(low):,} to {edge})"
    )
    return round(middle), round(low), most, said


# -- the two forms ---------------------------------------------------------------------------------------------------


def power(sizes: Array, scores: Array, top: float) -> tuple[Array, Array]:
    """top - score = exp(b) n^-c by least squares of the logs: scores (R, P) -> b (R,), c (R,)."""
    c, b = line(np.log(sizes), np.log(np.maximum(top - scores, 1e-6 * top)))
    return b, -c


def line(x: Array, y: Array) -> tuple[Array, Array]:
    """Slope (R,) and height at 0 (R,) of the straight line nearest to y (R, P) at x (P,)."""
    across = x - x.mean()
    slope = (y * across).sum(-1) / (across**2).sum()
    return slope, y.mean(-1) - slope * x.mean()


def slope(sizes: Array, scores: Array) -> Array:
    """By how much a score rises each time that n grows e-fold: (R,)."""
    return line(np.log(sizes), scores)[0]


def predicted(sizes: Array, scores: Array, asked: Array, top: float) -> Array:
    """Scores (R, P) at `sizes` -> scores (2 R, len(asked)) at those asked for, by either form; none above the top."""
    b, c = power(sizes, scores, top)
    rise, height = line(np.log(sizes), scores)
    by_power = top - np.exp(b[:, None] - c[:, None] * np.log(asked))
    by_log = height[:, None] + rise[:, None] * np.log(asked)
    found: Array = np.clip(np.concatenate([by_power, by_log]), 0, top)
    return found


def needed(sizes: Array, scores: Array, wanted: float, top: float) -> Array:
    """The sizes at which either form has the wanted score: (2 R,); infinite where it never has."""
    b, c = power(sizes, scores, top)
    rise, height = line(np.log(sizes), scores)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        by_power = np.where(c > 0, np.exp((b - np.log(top - wanted)) / c), np.inf)
        by_log = np.where(rise > 0, np.exp((wanted - height) / rise), np.inf)
    return np.concatenate([by_power, by_log])


def resampled(points: Sequence[Point], value: Callable[[Array], Array], seed: int) -> Array:
    """Scores (R, P) of examples drawn with replacement, the same ones at every size (Efron 1979)."""
    m = len(points[0].stats)
    counts = np.random.default_rng(seed).multinomial(m, np.full(m, 1 / m), RESAMPLES)  # (R, m)
    return np.stack([value(counts @ point.stats) for point in points], -1)
